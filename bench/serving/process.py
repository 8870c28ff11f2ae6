"""One server at a time, on one core: started, watched until it answers, weighed, and ended with all it has started."""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.serving import cores
from bench.serving.models import Array, Model
from bench.serving.peers import ROOT, Peer
from tools import environment

JSON = {"Content-Type": "application/json"}
_START_SECONDS = 90
_POLL_SECONDS = 0.01
_ANSWER_SECONDS = 10
_END_SECONDS = 15
_LOG_LINES = 15
_PR_SET_CHILD_SUBREAPER = 36


class DidNotRunError(Exception):
    """A server that did not start, or not answer as it should; the message has the last lines of its log."""


@dataclass(frozen=True)
class Post:
    """A request."""

    path: str
    body: bytes
    headers: Mapping[str, str]


def prediction(peer: Peer, row: Array) -> Post:
    """What a peer is asked for a row."""
    return Post(peer.path, json.dumps(peer.body(row.tolist())).encode(), JSON)


@dataclass(frozen=True)
class Running:
    """A server that has answered as ONNX Runtime does."""

    peer: Peer
    port: int
    seconds: float
    """From its start to its first answer."""

    def post(self, post: Post) -> bytes:
        """The body of a 200; a DidNotRunError otherwise."""
        return _post(self.port, post)


@contextmanager
def adopting() -> Generator[None]:
    """Processes that lose their parent become ours, so that none that a server starts is lost from sight.

    And SIGTERM becomes an exception, so that they are ended then too.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@contextmanager
def running(peer: Peer, model: Model, core: int, work: Path) -> Generator[Running]:
    """The server with the model, from its first right answer on; afterwards nothing of it is left."""
    programs = environment.separate(ROOT, peer.lock)
    folder = work / peer.name
    shutil.rmtree(folder, ignore_errors=True)
    if peer.files:
        shutil.copytree(ROOT / peer.files, folder)
    else:
        folder.mkdir()
    port, another_port = _free_ports(2)
    names = {"port": port, "another_port": another_port, "root": ROOT, "work": work}
    program, *arguments = [part.format(**names) for part in peer.command]
    variables = _variables(programs, model, port, work) | {
        name: value.format(**names) for name, value in peer.environment.items()
    }
    log = folder / "log"
    with ExitStack() as stack:
        out = stack.enter_context(log.open("w"))
        started = time.perf_counter()
        process = subprocess.Popen(
            [programs / program, *arguments],
            cwd=folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=cores.on(core),
        )
        stack.callback(_end, process, peer.stop)
        try:
            _wait_until_ready(process, peer, port)
            first = _post(port, prediction(peer, model.rows[0]))
            seconds = time.perf_counter() - started
            _check([first, *[_post(port, prediction(peer, row)) for row in model.rows[1:]]], model, peer)
            yield Running(peer, port, seconds)
        except DidNotRunError as error:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
            raise DidNotRunError(f"{peer.name}: {error}\n{tail}") from None


def memory() -> float:
    """What all descendants of this process hold, in MB of 10^6 bytes; shared pages are shared out (PSS)."""
    total = 0
    for pid in descendants():
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total * 1024 / 1e6


def descendants() -> list[int]:
    """The processes that this one has started, and those that they have."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    found = [os.getpid()]
    for pid in found:  # grows on the way
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]


def _variables(programs: Path, model: Model, port: int, work: Path) -> dict[str, str]:
    """The user's environment, with byte code kept as it is for any user: a first start is not what is measured."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV")}
    return kept | {
        "PATH": os.pathsep.join([str(programs), kept.get("PATH", os.defpath)]),
        "MODEL": str(model.file),
        "MODEL_DIR": str(model.folder),
        "PORT": str(port),
        "TMPDIR": str(work),
        "ORT_DISABLE_TELEMETRY": "1",
    }


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


def _wait_until_ready(process: subprocess.Popen[bytes], peer: Peer, port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        if process.poll() is not None:
            raise DidNotRunError(f"ended with status {process.returncode} before it was ready")
        try:
            status = _ask(port, "GET", peer.ready)[0]
        except (OSError, http.client.HTTPException) as reason:
            status = reason
        if status == 200:
            return
        if time.monotonic() > deadline:
            raise DidNotRunError(f"was not ready within {_START_SECONDS} s: {status}")
        time.sleep(_POLL_SECONDS)


def _check(answers: list[bytes], model: Model, peer: Peer) -> None:
    if peer.answer is None:
        return
    try:
        got = np.array([peer.answer(json.loads(answer)) for answer in answers], dtype=np.float32)
    except (ValueError, LookupError, TypeError) as error:
        raise DidNotRunError(f"answers {answers[0][:500]!r}: {error!r}") from error
    if got.size == len(answers):  # a row with one value may be that value
        got = got.reshape(-1, 1)
    if got.shape != model.expected.shape or not np.allclose(got, model.expected, rtol=1e-4, atol=1e-6):
        raise DidNotRunError(f"answers {got.tolist()} where ONNX Runtime has {model.expected.tolist()}")


def _post(port: int, post: Post) -> bytes:
    try:
        status, answer = _ask(port, "POST", post.path, post.body, post.headers)
    except (OSError, http.client.HTTPException) as error:
        raise DidNotRunError(f"POST {post.path}: {error!r}") from error
    if status != 200:
        raise DidNotRunError(f"POST {post.path} answers {status}: {answer[:500]!r}")
    return answer


def _ask(
    port: int, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER_SECONDS)
    try:
        connection.request(method, path, body, dict(headers or {}))
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _end(process: subprocess.Popen[bytes], stop: signal.Signals) -> None:
    process.send_signal(stop)
    deadline = time.monotonic() + _END_SECONDS
    while pids := descendants():
        for pid in pids:
            with suppress(ChildProcessError, ProcessLookupError):
                if time.monotonic() > deadline:
                    os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, os.WNOHANG)  # only our own children; the others' parents do that
        time.sleep(_POLL_SECONDS)
    process.wait()
