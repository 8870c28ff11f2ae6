"""Keeps one release of the app running on this machine; the standard library only.

`infra/local/provider.py` starts it as a process of its own session, one a deployment, so that it outlives
`pulumi up`. Its folder, a *run* below the stack's state folder, holds all that belongs to it:

    <state>/server.log, server.log.1    what every run's server says, bounded
    <state>/releases/<content hash>/    the code and the model, copied: a restart never meets a half-edited tree
    <state>/current -> run-...          the run that serves
    <state>/run-.../spec.json           what was asked for, and the Python that runs it
    <state>/run-.../api-key             0600, only when there is a key
    <state>/run-.../control.sock        answers every connection with the status and the listening socket
    <state>/run-.../*.pid               each locked by its process for as long as that lives: a pid whose file is not
                                        locked may be anyone's by now and is never signalled

A new run takes the listening socket over from the one before it, starts its own server, waits until that is ready, and
only then ends the other: no connection is ever refused. If its server does not become ready, nothing else has changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import cast

READY_SECONDS = 120.0
"""Start timeout of a server, which loads its model meanwhile."""
DRAIN_SECONDS = 1.0
"""For this long a server that was told to stop still answers, telling keep-alive clients to reconnect."""
GRACE_SECONDS = 10
"""For this long it then waits for the requests in flight."""
STOP_SECONDS = DRAIN_SECONDS + GRACE_SECONDS + 4.0
"""From SIGTERM to SIGKILL."""
MAX_LOG_BYTES = 4 * 1024 * 1024
"""A larger log is set aside as server.log.1."""
TAIL_BYTES = 4096
"""Output of a server that is kept for the error when it does not start; its last TAIL_LINES are shown."""
TAIL_LINES = 20
MAX_BACKOFF_SECONDS = 10.0
"""Longest wait before a server that ends again and again is started again."""
INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH")
"""The only variables that a run inherits: the environment of `pulumi up` may hold passphrases and cloud credentials."""

LOG = "server.log"


class StartError(Exception):
    """The run cannot serve; the message says why."""

    def __init__(self, problem: str, log_tail: list[str] | None = None) -> None:
        """Take the last lines of the server's output as `log_tail`; None when no server has run."""
        super().__init__(problem)
        self.log_tail = log_tail


@dataclass(frozen=True)
class Status:
    """A running supervisor's answer to a query."""

    pid: int
    port: int
    serving: bool


def owner(pid_file: Path) -> int | None:
    """Pid of the process that holds `pid_file`, or None when it has ended."""
    try:
        handle = os.open(pid_file, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(os.read(handle, 20) or 0) or None
    else:
        return None
    finally:
        os.close(handle)


def current(state: Path) -> Path | None:
    """The run that serves according to the state folder, or None."""
    link = state / "current"
    return link.resolve() if link.is_dir() else None


def runs(state: Path) -> list[Path]:
    """List every run that has a folder, the current one first."""
    serving = current(state)
    return sorted((run.resolve() for run in state.glob("run-*")), key=lambda run: (run != serving, run.name))


@contextlib.contextmanager
def _connected(run: Path) -> Generator[socket.socket]:
    # A socket's path is limited to about 100 bytes and a clone may lie deeper: a link in the temporary folder is short.
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        link = Path(folder, "run")
        link.symlink_to(run.resolve())
        connection.settimeout(5)
        connection.connect(str(link / "control.sock"))
        yield connection


def query_status(run: Path) -> Status | None:
    """Query the supervisor of `run`; None when it does not answer."""
    try:
        with _connected(run) as connection:
            return Status(**json.loads(connection.recv(4096)))
    except (OSError, ValueError):
        return None


def _receive_listener(run: Path) -> socket.socket | None:
    """Receive a duplicate of the listening socket of `run`, or None when its supervisor does not answer."""
    try:
        with _connected(run) as connection:
            handles = socket.recv_fds(connection, 4096, 1)[1]
    except OSError:
        return None
    return socket.socket(fileno=handles[0]) if handles else None


def _terminate(pid_file: Path, seconds: float) -> None:
    """SIGTERM to the process that holds `pid_file`, and SIGKILL after `seconds`."""
    for number, timeout in ((signal.SIGTERM, seconds), (signal.SIGKILL, 5.0)):
        deadline = time.monotonic() + timeout
        if pid := owner(pid_file):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        while owner(pid_file) and time.monotonic() < deadline:
            time.sleep(0.02)


def retire(run: Path) -> None:
    """End the processes of `run`, letting them finish their requests, and remove its folder."""
    _terminate(run / "supervisor.pid", STOP_SECONDS + 5)
    _terminate(run / "server.pid", STOP_SECONDS)
    shutil.rmtree(run, ignore_errors=True)


def prune(state: Path) -> None:
    """Remove the releases that no run needs."""
    specs = [run / "spec.json" for run in runs(state)]
    needed = {json.loads(spec.read_text())["release"] for spec in specs if spec.exists()}
    for release in (state / "releases").glob("*"):
        if release.name not in needed:
            shutil.rmtree(release, ignore_errors=True)


def _listen(port: int, kept: int) -> socket.socket:
    """Listen on `port` of 127.0.0.1; port 0 takes the kept one if it is still free, else any."""
    for candidate in [port] if port else [kept, 0]:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", candidate))
            listener.listen(1024)
        except OSError as error:
            listener.close()
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return listener
    raise StartError(
        f"port {port} on 127.0.0.1 is taken by another program; end that one, or choose another port with "
        "`pulumi config set port <port>` (0: any free one)"
    )


def _lock(pid_file: Path) -> int:
    """Create and lock `pid_file`; the lock lasts as long as a process has the returned descriptor."""
    handle = os.open(pid_file, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX)
    os.ftruncate(handle, 0)
    return handle


class _Log:
    """The stack's log. The runs before and after this one write to it too, so every write appends.

    What cannot be written, on a full disk for example, is lost: a server that waited for its log would serve no more.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("ab", buffering=0)

    def write(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            if os.fstat(self._file.fileno()).st_size + len(data) > MAX_LOG_BYTES:
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))
                self._file.close()
                self._file = self._path.open("ab", buffering=0)
            self._file.write(data)

    def note(self, text: str) -> None:
        self.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} supervisor {os.getpid()}: {text}\n".encode())


def server_environment(given: Mapping[str, str], listener: int, ready: int, api_key: Path) -> dict[str, str]:
    """The server's environment: `given` overrides what is inherited, the supervisor's own variables override both."""
    return {
        **os.environ,
        **given,
        "PYTHONUNBUFFERED": "1",
        "LISTEN_FD": str(listener),
        "READY_FD": str(ready),
        "DRAIN_SECONDS": str(DRAIN_SECONDS),
        "GRACE_SECONDS": str(GRACE_SECONDS),
        **({"API_KEY_FILE": str(api_key)} if api_key.exists() else {}),
    }


class _Server:
    """One process of the app."""

    def __init__(self, process: asyncio.subprocess.Process, ready_pipe: int, log: _Log) -> None:
        self._process = process
        self._log = log
        self._tail = b""
        self._ready_pipe = ready_pipe
        self._output = asyncio.create_task(self._copy_output())

    @classmethod
    async def start(
        cls, python: str, release: Path, given: Mapping[str, str], listener: socket.socket, log: _Log
    ) -> _Server:
        """Start the app of `release` with `python` on `listener`; it holds server.pid from its first moment."""
        ready_pipe, ready = os.pipe()
        lock = _lock(Path("server.pid"))
        environment = server_environment(given, listener.fileno(), ready, Path("api-key").resolve())
        try:
            process = await asyncio.create_subprocess_exec(
                python, "-m", "server", cwd=release, env=environment,
                pass_fds=(listener.fileno(), ready, lock), stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
            os.pwrite(lock, str(process.pid).encode(), 0)
        except OSError as error:
            os.close(ready_pipe)
            raise StartError(f"the server cannot be started: {error}") from error
        finally:
            os.close(lock)
            os.close(ready)
        return cls(process, ready_pipe, log)

    async def _copy_output(self) -> None:
        output = cast(asyncio.StreamReader, self._process.stdout)
        while data := await output.read(65536):
            self._tail = (self._tail + data)[-TAIL_BYTES:]
            self._log.write(data)

    async def wait_ready(self) -> None:
        """Return when the server has said that it is ready; else raise StartError and leave nothing running."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(self._ready_pipe, "rb", buffering=0)
        )
        try:
            if await asyncio.wait_for(reader.readline(), READY_SECONDS):
                return
            problem = f"the server ended before it was ready ({await self.wait_ended(5)})"
        except TimeoutError:
            problem = f"the server was not ready after {READY_SECONDS:.0f} seconds"
        finally:
            transport.close()
        await self.stop(0)
        raise StartError(problem, self._tail.decode(errors="replace").splitlines()[-TAIL_LINES:])

    async def wait_ended(self, seconds: float | None = None) -> str:
        """Wait at most `seconds` for the process and its output to end; say how it ended."""
        try:
            code = await asyncio.wait_for(self._process.wait(), seconds)
            await asyncio.wait([self._output], timeout=1)
        except TimeoutError:
            return "still running"
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    async def stop(self, seconds: float) -> None:
        """SIGTERM, and SIGKILL after `seconds`."""
        for number, timeout in ((signal.SIGTERM, seconds), (signal.SIGKILL, None)):
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    self._process.send_signal(number)
                await self.wait_ended(timeout)


class _Supervisor:
    """Restarts a server whenever it ends, and answers queries on the control socket."""

    def __init__(
        self, start: Callable[[], Awaitable[_Server]], server: _Server, listener: socket.socket, log: _Log
    ) -> None:
        """Take over `server`, which is ready and was made by `start`; answer queries from now on."""
        self._start = start
        self._server = server
        self._listener = listener
        self._log = log
        self._serving = True
        self._control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._control.bind("control.sock")
        Path("control.sock").chmod(0o600)
        self._control.listen(16)
        self._control.setblocking(False)
        asyncio.get_running_loop().add_reader(self._control, self._answer_query)

    def _answer_query(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._control.accept()
            with connection:
                status = Status(os.getpid(), self._listener.getsockname()[1], self._serving)
                socket.send_fds(connection, [json.dumps(asdict(status)).encode()], [self._listener.fileno()])

    async def keep_running(self) -> None:
        """Restart the server whenever it ends: at once, then with exponential backoff."""
        backoff = 0.0
        since = time.monotonic()
        while True:
            how = await self._server.wait_ended()
            self._serving = False
            backoff = 0.0 if time.monotonic() - since > MAX_BACKOFF_SECONDS else backoff
            self._log.note(f"the server ended ({how}); starting it again in {backoff:.1f} s")
            await asyncio.sleep(backoff)
            backoff = min(max(backoff * 2, 0.2), MAX_BACKOFF_SECONDS)
            try:
                self._server = await self._start()
                await self._server.wait_ready()
            except StartError as error:
                self._log.note(str(error))
            else:
                self._serving = True
                since = time.monotonic()
                self._log.note("the server is ready again")

    async def stop(self) -> None:
        """End the server, letting it finish its requests."""
        self._serving = False
        await self._server.stop(STOP_SECONDS)


async def _wait_for_stop() -> None:
    """Return on SIGTERM, or when the run's folder has been removed."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    while not stopped.is_set() and Path("supervisor.pid").exists():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopped.wait(), 1)


def _previous_run(state: Path) -> tuple[Path | None, int]:
    """Find the run that this one replaces and its port; retire all others, of which no supervisor answers."""
    others = [run for run in runs(state) if run != Path.cwd()]
    ports = {run: status.port for run in others if (status := query_status(run))}
    previous = next(iter(ports), None)
    for leftover in others:
        if leftover != previous:
            retire(leftover)
    return previous, ports[previous] if previous else 0


async def _supervise(state: Path, kept_port: int) -> None:
    """Serve the run in the working directory until it is told to stop; `kept_port` is the stack's last one, or 0."""
    spec = json.loads(Path("spec.json").read_text())
    previous, port = _previous_run(state)
    listener = _receive_listener(previous) if previous and spec["port"] in (0, port) else None
    listener = listener or _listen(spec["port"], kept_port)
    log = _Log(state / LOG)
    release = f"release {spec['release'][:12]}"
    folder = state / "releases" / spec["release"]
    start = partial(_Server.start, spec["server_python"], folder, spec["environment"], listener, log)
    log.note(f"starting {release} on port {listener.getsockname()[1]}")
    try:
        server = await start()
        await server.wait_ready()
    except StartError as error:
        log.note(f"{release} is not served: {error}")
        raise
    supervisor = _Supervisor(start, server, listener, log)
    Path("link").symlink_to(Path.cwd().name)
    Path("link").replace(state / "current")
    keeper = asyncio.create_task(supervisor.keep_running())
    if previous:
        log.note(f"{release} serves; ending the run before it")
        await asyncio.to_thread(retire, previous)
    prune(state)
    _report({"pid": os.getpid(), "port": listener.getsockname()[1]})
    stopped = asyncio.create_task(_wait_for_stop())
    await asyncio.wait({keeper, stopped}, return_when=asyncio.FIRST_COMPLETED)
    keeper.cancel()
    await supervisor.stop()
    log.note("ended")


def _report(result: dict[str, object]) -> None:
    """Print the one line that the provider waits for, and close its pipe."""
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(result), flush=True)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.close(silence)


def main(run: str, kept_port: str) -> int:
    """Serve what `run`/spec.json asks for until told to stop; report one JSON line, pid and port or an error."""
    os.chdir(run)
    lock = _lock(Path("supervisor.pid"))
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    try:
        asyncio.run(_supervise(Path(".."), int(kept_port)))
    except (StartError, OSError) as error:
        _report({"error": str(error), "log_tail": error.log_tail if isinstance(error, StartError) else None})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
