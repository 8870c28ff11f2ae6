"""HTTP without a model: a core that echoes its requests, connections without sockets, and a parser of their answers."""

from __future__ import annotations

import asyncio
import random
import re
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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


def head(path: str, *headers: str, length: int | None = None, method: str = "POST") -> bytes:
    size = [] if length is None else [f"content-length: {length}"]
    return "\r\n".join([f"{method} {path} HTTP/1.1", "host: x", *size, *headers, "", ""]).encode()


def post(path: str, body: bytes = b"", *headers: str) -> bytes:
    return head(path, *headers, length=len(body)) + body


def read_head(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    line = re.fullmatch(r"HTTP/1\.1 (\d{3}) [A-Za-z -]+", first)
    assert line, first
    headers = dict(each.split(": ", 1) for each in lines)
    assert len(headers) == len(lines), lines
    return int(line[1]), headers


def read_answers(stream: bytes) -> list[Answer]:
    """Parse all answers in a stream, complete to the last byte."""
    answers: list[Answer] = []
    while stream:
        head, end, stream = stream.partition(b"\r\n\r\n")
        assert end, head
        status, headers = read_head(head)
        assert status != 100 or headers == {}
        length = 0 if status == 100 else int(headers["content-length"])
        assert len(stream) >= length, "an answer's end is missing"
        answers.append(Answer(status, headers, stream[:length]))
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

    def vital(self, request: Request) -> bool:
        return request.path == "/vital"

    def handle(self, request: Request) -> None:
        self.handled.append(request)
        if request.path.startswith("/later"):
            self.waiting.append(request)
        else:
            self.finish(request)

    def finish(self, request: Request) -> None:
        if request in self.waiting:
            self.waiting.remove(request)
        body = f"{request.method} {request.path} ".encode() + request.body
        request.reply(Response(200, (("content-type", "text/plain"),), body))

    def finish_all(self) -> None:
        while self.waiting:
            self.finish(self.waiting[0])

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
        return self.eof or self.closing

    def feed(self, data: bytes) -> Wire:
        """Send `data` as the client, unless the server has stopped reading."""
        if self.reading and not self.closing:
            self.connection.data_received(data)
        return self

    def lose(self) -> None:
        if not self.lost:
            self.closing = self.lost = True
            self.connection.connection_lost(None)

    @property
    def answers(self) -> list[Answer]:
        return read_answers(self.written)

    @property
    def statuses(self) -> list[int]:
        return [answer.status for answer in self.answers]

    @property
    def bodies(self) -> list[bytes]:
        return [answer.body for answer in self.answers]


def limits_of(limits: dict[str, Any]) -> Limits:
    return Limits(**{"body_bytes": 100_000, "all_bodies_bytes": 1_000_000} | limits)


class Side:
    """Server side of connections that share a core and limits."""

    def __init__(self, **limits: Any) -> None:
        self.core = Core()
        self.shared = Shared(self.core, limits_of(limits))
        self.shared.date = b"date: today\r\n"

    def connect(self) -> Wire:
        return Wire(Connection(self.shared))

    def tell(self, data: bytes) -> Wire:
        return self.connect().feed(data)

    def tell_by_byte(self, data: bytes) -> Wire:
        wire = self.connect()
        for index in range(len(data)):
            wire.feed(data[index : index + 1])
        return wire

    def pass_time(self, seconds: float) -> None:
        self.shared.now += seconds
        self.shared.idle = None
        for connection in list(self.shared.connections):
            connection.check()


class Live(NamedTuple):
    core: Core
    transport: Transport
    port: int

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)


@contextmanager
def live(new_loop: Callable[[], asyncio.AbstractEventLoop], **limits: Any) -> Iterator[Live]:
    core = Core()
    listener = socket.create_server(("127.0.0.1", 0))
    complaints: list[dict[str, Any]] = []
    started: Future[tuple[asyncio.AbstractEventLoop, Transport]] = Future()

    def finish_some() -> None:
        for request in list(core.waiting):
            core.finish(request)

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        transport = Transport(core, listener, limits_of(limits), finish_some)
        await transport.accept()
        started.set_result((loop, transport))
        await transport.serve()

    with ThreadPoolExecutor(1) as pool, asyncio.Runner(loop_factory=new_loop) as runner:
        served = pool.submit(runner.run, serve())
        loop, transport = started.result(10)
        try:
            yield Live(core, transport, listener.getsockname()[1])
        finally:
            loop.call_soon_threadsafe(transport.stop)
            served.result(10)
    assert complaints == []


def seeded(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311


def read_to_end(client: socket.socket) -> bytes:
    found = b""
    while chunk := client.recv(65_536):
        found += chunk
    return found
