"""HTTP without a model: a core that echoes its requests, connections without sockets, and a parser of their answers."""

from __future__ import annotations

import asyncio
import random
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from server.errors import Problem
from server.http.connection import Connection, Limits, Shared
from server.http.messages import Request, Response
from server.http.transport import Transport


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


def read_answers(stream: bytes, heads: frozenset[int] | set[int] = frozenset()) -> list[Answer]:
    """Parse all answers in a stream, complete to the last byte; those at the indices in `heads` have no body."""
    answers: list[Answer] = []
    while stream:
        head, end, stream = stream.partition(b"\r\n\r\n")
        assert end, head
        first, *lines = head.decode("latin-1").split("\r\n")
        line = re.fullmatch(r"HTTP/1\.1 (\d{3}) [A-Za-z -]+", first)
        assert line, first
        if line[1] == "100":
            assert lines == []
            answers.append(Answer(100, {}, b""))
            continue
        headers = dict(each.split(": ", 1) for each in lines)
        assert len(headers) == len(lines), lines
        length = 0 if len(answers) in heads else int(headers["content-length"])
        assert len(stream) >= length, "an answer's end is missing"
        answers.append(Answer(int(line[1]), headers, stream[:length]))
        stream = stream[length:]
    return answers


class Core:
    """Echoes each request at once; one to /later at `finish`, one to /refused without its body."""

    def __init__(self) -> None:
        self.handled: list[Request] = []
        self.waiting: list[Request] = []
        self.problems: list[Problem] = []

    def refuse(self, request: Request) -> Response | None:
        request.id = b"id"
        return Response(401, (), b"refused") if request.path == "/refused" else None

    def handle(self, request: Request) -> None:
        self.handled.append(request)
        if request.path.startswith("/later"):
            self.waiting.append(request)
        else:
            self.finish(request)

    def finish(self, request: Request, body: bytes | None = None) -> None:
        if request in self.waiting:
            self.waiting.remove(request)
        if body is None:
            body = f"{request.method} {request.path} ".encode() + request.body
        request.reply(Response(200, (("content-type", "text/plain"),), body))

    def problem(self, problem: Problem, request: Request | None) -> Response:
        self.problems.append(problem)
        return Response(problem.status, problem.headers, problem.message.encode())


class Wire(asyncio.Transport):
    """Fake transport, as strict as asyncio's."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.connection = connection
        self.written = b""
        self.unflushed = 0
        self.reading = True
        self.eof = False
        self.closing = False
        self.aborted = False
        self.lost = False
        connection.connection_made(self)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.eof:
            raise RuntimeError("write after write_eof")
        if not self.closing:
            self.written += bytes(data)

    def write_eof(self) -> None:
        self.eof = True

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = self.aborted = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_write_buffer_size(self) -> int:
        return self.unflushed

    @property
    def ended(self) -> bool:
        """Whether the server has closed its side."""
        return self.eof or self.closing

    def feed(self, data: bytes) -> Wire:
        """Send `data` as the client, unless the server has stopped reading."""
        if self.reading and not self.closing:
            self.connection.data_received(data)
        return self

    def lose(self) -> None:
        """End the connection."""
        if not self.lost:
            self.closing = self.lost = True
            self.connection.connection_lost(None)

    def answers(self, heads: frozenset[int] | set[int] = frozenset()) -> list[Answer]:
        return read_answers(self.written, heads)


class Side:
    """Server side of connections that share a core and limits."""

    def __init__(self, **limits: Any) -> None:
        self.core = Core()
        self.shared = Shared(self.core, Limits(**{"body_bytes": 100_000, "all_bodies_bytes": 1_000_000} | limits))
        self.shared.date = b"date: today\r\n"

    def connect(self) -> Wire:
        return Wire(Connection(self.shared))

    def tell(self, data: bytes) -> Wire:
        """Connect a new client that sends `data`."""
        return self.connect().feed(data)

    def pass_time(self, seconds: float) -> None:
        self.shared.now += seconds
        for connection in list(self.shared.connections):
            connection.check()


class Live:
    """A Transport on a real event loop in a thread."""

    def __init__(self, new_loop: Callable[[], asyncio.AbstractEventLoop], limits: Limits) -> None:
        self.core = Core()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.complaints: list[dict[str, Any]] = []
        self._started = threading.Event()
        self._limits = limits
        self._thread = threading.Thread(target=self._run, args=(new_loop,))
        self._thread.start()
        assert self._started.wait(10)

    def _run(self, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.loop.set_exception_handler(lambda _, context: self.complaints.append(context))
        self.transport = Transport(self.core, self._listener, self._limits, self._finish_some)
        await self.transport.accept()
        self._started.set()
        await self.transport.serve()

    def _finish_some(self) -> None:
        for request in list(self.core.waiting):
            self.core.waiting.remove(request)
            if not request.abandoned:
                self.core.finish(request)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.transport.stop)
        self._thread.join(10)
        assert not self._thread.is_alive()


@contextmanager
def live(new_loop: Callable[[], asyncio.AbstractEventLoop], **limits: Any) -> Iterator[Live]:
    server = Live(new_loop, Limits(**{"body_bytes": 100_000, "all_bodies_bytes": 1_000_000} | limits))
    try:
        yield server
    finally:
        server.stop()
    assert server.complaints == []


def seeded(seed: int) -> random.Random:
    """Make a reproducible source of randomness."""
    return random.Random(seed)  # noqa: S311


def read_to_end(client: socket.socket) -> bytes:
    """Receive until the server closes its side."""
    found = b""
    while chunk := client.recv(65_536):
        found += chunk
    return found
