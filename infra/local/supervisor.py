"""Keeps one release of the app running on this machine; the standard library only.

`infra/local/provider.py` starts it as a process of its own session, one a deployment, so that it outlives
`pulumi up`. Its folder, a *run* below the stack's state folder, holds all that belongs to it:

    <state>/server.log, server.log.1    what every run's server says, bounded
    <state>/releases/<content hash>/    the code and the model, copied: a restart never meets a half-edited tree
    <state>/current -> run-...          the run that serves
    <state>/run-.../spec.json           what was asked for
    <state>/run-.../api-key             0600, only when there is a key
    <state>/run-.../control.sock        whoever connects is told the status, with the listening socket attached
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
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

READY_SECONDS = 120.0
"""Longest wait for a new server to load its model."""
DRAIN_SECONDS = 1.0
"""How long a leaving server still answers, telling keep-alive clients to reconnect."""
GRACE_SECONDS = 10
"""How long it then waits for the requests it is working on."""
STOP_SECONDS = DRAIN_SECONDS + GRACE_SECONDS + 4.0
"""After SIGTERM a server has this long before it is killed."""
LOG_BYTES = 4 * 1024 * 1024
"""The log is set aside as server.log.1 when it is larger."""
TAIL_BYTES = 4096
"""How much of a server's output is kept for the error when it does not start."""
LONGEST_BACKOFF = 10.0
"""Seconds between the attempts to start a server that ends again and again."""
INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH")
"""All that a run sees of its creator's environment, which may hold passphrases and cloud credentials."""

LOG = "server.log"


class StartError(Exception):
    """A run that cannot serve; the message says why, with the last log lines."""


@dataclass(frozen=True)
class Status:
    """What a running supervisor says about itself."""

    pid: int
    port: int
    serving: bool


def owner(pid_file: Path) -> int | None:
    """The process that holds `pid_file`, or None when it has ended."""
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
    """The run that serves, as far as the state folder knows."""
    link = state / "current"
    return link.resolve() if link.is_dir() else None


def runs(state: Path) -> list[Path]:
    """Every run with a folder, the current one first."""
    serving = current(state)
    return sorted((run.resolve() for run in state.glob("run-*")), key=lambda run: (run != serving, run.name))


@contextlib.contextmanager
def _connected(run: Path) -> Generator[socket.socket]:
    # A socket's path is limited to about 100 bytes and a clone may lie deeper: a link in the temporary folder is short.
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection,
    ):
        link = Path(folder, "run")
        link.symlink_to(run.resolve())
        connection.settimeout(5)
        connection.connect(str(link / "control.sock"))
        yield connection


def ask(run: Path) -> Status | None:
    """The status of `run`, or None when its supervisor does not answer."""
    try:
        with _connected(run) as connection:
            return Status(**json.loads(connection.recv(4096)))
    except (OSError, ValueError):
        return None


def _take_listener(run: Path) -> socket.socket | None:
    try:
        with _connected(run) as connection:
            handles = socket.recv_fds(connection, 4096, 1)[1]
    except OSError:
        return None
    return socket.socket(fileno=handles[0]) if handles else None


def _end(pid_file: Path, seconds: float) -> None:
    for number, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, 5.0)):
        deadline = time.monotonic() + patience
        if pid := owner(pid_file):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        while owner(pid_file) and time.monotonic() < deadline:
            time.sleep(0.02)


def retire(run: Path) -> None:
    """End the processes of `run`, letting them finish their requests, and remove its folder."""
    _end(run / "supervisor.pid", STOP_SECONDS + 5)
    _end(run / "server.pid", STOP_SECONDS)
    shutil.rmtree(run, ignore_errors=True)


def prune(state: Path) -> None:
    """Remove the releases that no run needs."""
    specs = [run / "spec.json" for run in runs(state)]
    needed = {json.loads(spec.read_text())["release"] for spec in specs if spec.exists()}
    for release in (state / "releases").glob("*"):
        if release.name not in needed:
            shutil.rmtree(release, ignore_errors=True)


def _listen(port: int, kept: int) -> socket.socket:
    """A socket on the given port; for port 0 on the kept one if it is still free, else on any."""
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


def _claim(pid_file: Path) -> int:
    handle = os.open(pid_file, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX)
    os.ftruncate(handle, 0)
    return handle


class _Log:
    """The stack's log; a run before or after this one may write to it too, so every write appends.

    What cannot be written, to a full disk say, is lost: a server that waits for its log would serve no more.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("ab", buffering=0)

    def write(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            if os.fstat(self._file.fileno()).st_size + len(data) > LOG_BYTES:
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))
                self._file.close()
                self._file = self._path.open("ab", buffering=0)
            self._file.write(data)

    def note(self, text: str) -> None:
        self.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} supervisor {os.getpid()}: {text}\n".encode())


def server_environment(given: Mapping[str, str], listener: int, ready: int, api_key: Path) -> dict[str, str]:
    """What a server is told: what is `given` goes before what is inherited, and the contract with it before both."""
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
    async def start(cls, release: Path, given: Mapping[str, str], listener: socket.socket, log: _Log) -> _Server:
        """Start the app of `release` on `listener`; it holds server.pid from its first moment."""
        ready_pipe, ready = os.pipe()
        lock = _claim(Path("server.pid"))
        environment = server_environment(given, listener.fileno(), ready, Path("api-key").resolve())
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "server", cwd=release, env=environment,
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

    async def ready(self) -> None:
        """Return when the server has said that it is ready; else raise StartError and leave nothing running."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(self._ready_pipe, "rb", buffering=0)
        )
        try:
            said = await asyncio.wait_for(reader.readline(), READY_SECONDS)
            problem = "" if said else f"the server ended before it was ready ({await self.ended(5)})"
        except TimeoutError:
            problem = f"the server was not ready after {READY_SECONDS:.0f} seconds"
        finally:
            transport.close()
        if not problem:
            return
        await self.stop(0)
        lines = self._tail.decode(errors="replace").splitlines()[-20:]
        raise StartError("\n".join([problem, "its last log lines:", *(f"    {line}" for line in lines or ["(none)"])]))

    async def ended(self, seconds: float | None = None) -> str:
        """Wait for the end and its output, at most `seconds`, and say how it ended."""
        try:
            code = await asyncio.wait_for(self._process.wait(), seconds)
            await asyncio.wait([self._output], timeout=1)
        except TimeoutError:
            return "still running"
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    async def stop(self, seconds: float) -> None:
        """SIGTERM, and SIGKILL after `seconds`."""
        for number, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, None)):
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    self._process.send_signal(number)
                await self.ended(patience)


class _Supervisor:
    """A server that is started again whenever it ends, until `stop`."""

    def __init__(self, release: Path, environment: Mapping[str, str], listener: socket.socket, log: _Log) -> None:
        self._release = release
        self._environment = environment
        self._listener = listener
        self._log = log
        self._server: _Server | None = None
        self._serving = False
        self._control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    async def start(self) -> None:
        """Start the server and return when it is ready, or raise StartError."""
        self._server = await _Server.start(self._release, self._environment, self._listener, self._log)
        await self._server.ready()
        self._serving = True

    def open_control(self) -> None:
        """From now on tell everyone who connects the status, and hand them the listening socket."""
        self._control.bind("control.sock")
        Path("control.sock").chmod(0o600)
        self._control.listen(16)
        self._control.setblocking(False)
        asyncio.get_running_loop().add_reader(self._control, self._tell)

    def _tell(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._control.accept()
            with connection:
                status = Status(os.getpid(), self._listener.getsockname()[1], self._serving)
                socket.send_fds(connection, [json.dumps(asdict(status)).encode()], [self._listener.fileno()])

    async def keep_running(self) -> None:
        """Start the server again whenever it ends, at once at first and then ever more patiently."""
        wait = 0.0
        since = time.monotonic()
        while True:
            how = await self._server.ended() if self._server else "not started"
            self._serving = False
            wait = 0.0 if time.monotonic() - since > LONGEST_BACKOFF else wait
            self._log.note(f"the server ended ({how}); starting it again in {wait:.1f} s")
            await asyncio.sleep(wait)
            wait = min(max(wait * 2, 0.2), LONGEST_BACKOFF)
            try:
                await self.start()
                since = time.monotonic()
                self._log.note("the server is ready again")
            except StartError as error:
                self._log.note(str(error).splitlines()[0])

    async def stop(self) -> None:
        """End the server, letting it finish its requests."""
        self._serving = False
        if self._server:
            await self._server.stop(STOP_SECONDS)


async def _until_unwanted() -> None:
    """Return on SIGTERM, or when the run's folder has been removed."""
    wanted = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, wanted.set)
    while not wanted.is_set() and Path("supervisor.pid").exists():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(wanted.wait(), 1)


async def _supervise(state: Path, kept_port: int) -> None:
    run = Path.cwd()
    spec = json.loads(Path("spec.json").read_text())
    others = [other for other in runs(state) if other != run]
    statuses = {other: status for other in others if (status := ask(other))}
    before = next(iter(statuses), None)
    for leftover in others:
        if leftover != before:
            retire(leftover)

    listener = None
    if before and spec["port"] in (0, statuses[before].port):
        listener = _take_listener(before)
    listener = listener or _listen(spec["port"], kept_port)
    log = _Log(state / LOG)
    supervisor = _Supervisor(state / "releases" / spec["release"], spec["environment"], listener, log)
    log.note(f"starting release {spec['release'][:12]} on port {listener.getsockname()[1]}")
    try:
        await supervisor.start()
    except StartError as error:
        log.note(f"release {spec['release'][:12]} is not served: {str(error).splitlines()[0]}")
        raise
    supervisor.open_control()
    Path("link").symlink_to(run.name)
    Path("link").replace(state / "current")
    keeper = asyncio.create_task(supervisor.keep_running())
    if before:
        log.note(f"release {spec['release'][:12]} serves; ending the run before it")
        await asyncio.to_thread(retire, before)
    prune(state)
    _report({"pid": os.getpid(), "port": listener.getsockname()[1]})
    unwanted = asyncio.create_task(_until_unwanted())
    await asyncio.wait({keeper, unwanted}, return_when=asyncio.FIRST_COMPLETED)
    keeper.cancel()
    await supervisor.stop()
    log.note("ended")


def _report(result: dict[str, object]) -> None:
    """Tell the creator, who waits for one line, and let go of it."""
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(result), flush=True)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.close(silence)


def main(run: str, kept_port: str) -> int:
    """Serve what `run`/spec.json asks for until told to end; report one JSON line, the status or an error."""
    os.chdir(run)
    lock = _claim(Path("supervisor.pid"))
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    try:
        asyncio.run(_supervise(Path(".."), int(kept_port)))
    except (StartError, OSError) as error:
        _report({"error": str(error)})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
