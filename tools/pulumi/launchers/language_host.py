"""A language host for a self-built Pulumi CLI: the SDK's own runtime behind the engine's LanguageRuntime service.

The official release brings a host of its own, which is then used instead. The SDK is imported when a program is to be
run and not before: the engine starts two hosts for every update, the first only to ask what has to be installed.
"""

# ruff: noqa: E402  # the signal comes first
from __future__ import annotations

import signal

# The engine ends a plugin with SIGINT: no KeyboardInterrupt and no traceback, however far the start has come.
signal.signal(signal.SIGINT, signal.SIG_DFL)

import asyncio
import contextvars
import os
import queue
import runpy
import sys
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
from with_parent import end_with_parent

if TYPE_CHECKING:
    from pulumi.runtime.proto import language_pb2

SERVICE = "pulumirpc.LanguageRuntime"
MAX_MESSAGE_BYTES = 400 * 1024 * 1024  # the SDK's and the engine's own bound

Behaviour = Callable[[bytes, grpc.ServicerContext], bytes]


class Host:
    """Answers the engine in worker threads and runs the program in the main thread, where a program expects to be."""

    def __init__(self, engine: str) -> None:
        self._engine = engine
        self._runs: queue.SimpleQueue[tuple[bytes, Future[bytes]]] = queue.SimpleQueue()

    def start(self) -> int:
        """Serve on a free loopback port."""
        # An empty message is the right answer to most: nothing to install, no packages, no options, no dependencies.
        empty = (
            "Handshake", "GetPluginInfo", "GetRequiredPlugins", "GetRequiredPackages", "RuntimeOptionsPrompts",
            "Template", "GetProgramDependencies", "Cancel",
        )  # fmt: skip
        answers: dict[str, Behaviour] = dict.fromkeys(empty, lambda _request, _context: b"")
        answers |= {"About": about, "Run": self._run}
        methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            name: grpc.unary_unary_rpc_method_handler(answer) for name, answer in answers.items()
        }
        methods["InstallDependencies"] = grpc.unary_stream_rpc_method_handler(no_output)
        bounds = [(f"grpc.max_{way}_message_length", MAX_MESSAGE_BYTES) for way in ("send", "receive")]
        self._server = grpc.server(ThreadPoolExecutor(8), options=bounds)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
        port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()
        return port

    def work(self) -> None:
        """Run programs in the calling thread until the engine ends this process."""
        while True:
            request, answer = self._runs.get()
            try:
                answer.set_result(self._run_program(request))
            except BaseException as error:  # the worker thread reports it to the engine
                answer.set_exception(error)

    def _run(self, request: bytes, _context: grpc.ServicerContext) -> bytes:
        answer: Future[bytes] = Future()
        self._runs.put((request, answer))
        return answer.result()

    def _run_program(self, message: bytes) -> bytes:
        from pulumi.runtime.proto import language_pb2

        # The SDK keeps a deployment's state in context variables: a second run starts clean.
        context = contextvars.copy_context()
        succeeded = context.run(run_program, language_pb2.RunRequest.FromString(message), self._engine)
        # `bail`: the reason has been logged already, do not repeat it.
        return language_pb2.RunResponse(bail=not succeeded).SerializeToString()


def about(_request: bytes, _context: grpc.ServicerContext) -> bytes:
    """Encode an AboutResponse: the interpreter's path and its version."""
    return strings(sys.executable, ".".join(str(part) for part in sys.version_info[:3]))


def strings(*values: str) -> bytes:
    """Encode a protobuf message whose fields 1, 2, ... are strings; the SDK's classes cost a second to import."""
    message = bytearray()
    for number, value in enumerate(values, start=1):
        text = value.encode()
        length = len(text)
        message.append(number << 3 | 2)
        while length > 0x7F:
            message.append(length & 0x7F | 0x80)
            length >>= 7
        message.append(length)
        message += text
    return bytes(message)


def no_output(_request: bytes, _context: grpc.ServicerContext) -> Iterator[bytes]:
    """The stream of a command that has nothing to do: `make` installs the dependencies, from the lock files."""
    return iter(())


def run_program(request: language_pb2.RunRequest, engine: str) -> bool:
    """Run the project's program inside its stack; False when it failed and the engine has been told why."""
    import pulumi
    from pulumi.runtime import run_in_stack, set_all_config

    info = request.info
    program = str(Path(info.program_directory, info.entry_point))
    os.chdir(request.pwd or info.program_directory)
    sys.path.insert(0, info.program_directory)
    sys.argv = [program, *request.args]
    settings = pulumi.runtime.Settings(
        project=request.project,
        stack=request.stack,
        organization=request.organization or "organization",
        root_directory=info.root_directory,
        monitor=request.monitor_address,
        engine=engine,
        parallel=request.parallel,
        dry_run=request.dryRun,
    )
    pulumi.runtime.configure(settings)
    set_all_config(dict(request.config), list(request.configSecretKeys))

    loop = asyncio.new_event_loop()
    loop.set_default_executor(ThreadPoolExecutor(max(request.parallel, 1) * 4))
    try:
        loop.run_until_complete(run_in_stack(lambda: run_file(program)))
    except pulumi.RunError as error:
        pulumi.log.error(str(error))
    except grpc.RpcError as error:
        # The monitor goes away first when the engine stops the deployment, and has told the user why.
        if error.code() != grpc.StatusCode.UNAVAILABLE:
            pulumi.log.error(f"RPC error: {error.details()}")
    except SystemExit as error:
        if error.code in (None, 0):
            return True
        pulumi.log.error(f"Program exited with {error.code}")
    except BaseException:  # whatever the program raised is the user's to see
        pulumi.log.error(f"Program failed with an unhandled exception:\n{program_traceback(info.program_directory)}")
    else:
        return True
    finally:
        close(loop)
    return False


def run_file(program: str) -> None:
    runpy.run_path(program, run_name="__main__")


def program_traceback(directory: str) -> str:
    """The current exception's traceback, from the first frame in the program's directory on, if there is one."""
    kind, error, frames = sys.exc_info()
    own = frames
    while own and not is_own(own.tb_frame.f_code.co_filename, directory):
        own = own.tb_next
    if isinstance(error, SyntaxError):  # names its file and line itself
        frames = None
    return "".join(traceback.format_exception(kind, error, own or frames))


def is_own(file: str, directory: str) -> bool:
    """Tell the program's own source files from those of a virtual environment inside its directory."""
    return file.startswith(directory + os.sep) and "site-packages" not in Path(file).parts


def close(loop: asyncio.AbstractEventLoop) -> None:
    """End what the program left pending, so that Python has nothing to warn about."""
    pending = asyncio.all_tasks(loop)
    for task in pending:
        task.cancel()
    if pending:
        loop.run_until_complete(asyncio.wait(pending))
    loop.close()


if __name__ == "__main__":
    end_with_parent()
    host = Host(engine=sys.argv[-1])
    print(host.start(), flush=True)
    host.work()
