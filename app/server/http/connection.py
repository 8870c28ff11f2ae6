"""HTTP/1.1 with one client, on the event loop. llhttp parses (by httptools), this keeps order and limits.

Requests that a client sends ahead are answered one after the other. Whatever a client does with its connection ends in
an answer or in the connection's end, within the limits' time.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import NamedTuple, Protocol, cast
from urllib.parse import unquote_to_bytes

import httptools

from ..errors import Problem
from .messages import Headers, Request, Response

_MOST_PIPELINED = 16
"""Requests of one client that wait for their turn; then its bytes are left in the kernel."""
_PIECE_BYTES = 8_192
"""Parsed at a time, unless it is one body: what is left of the client's bytes takes less memory than its requests."""
_SHORT_BODY_BYTES = 65_536
"""A body that nobody wants is read over up to here; for a longer one the connection is ended instead."""
_LINGER_SECONDS = 2.0
"""Between a last answer and the end: a reset while the client still sends would take the answer from it."""
_SMALL_BYTES = 1_024
"""A body's smaller pieces are put together at once: each by itself would take a multiple of its bytes."""
_HEADER_OVERHEAD = 32
"""Counted for each header besides name and value, as HTTP/2 does: what it takes in memory."""
_UPGRADE = frozenset({b"connection", b"upgrade", b"http2-settings"})
"""Headers that ask for another protocol."""
_HEAD_END = b"\r\n\r\n"
_MOST_KNOWN_HEADS = 512
_MOST_KNOWN_HEAD_BYTES = 2048
_UNCOMMON = frozenset({b"expect", b"upgrade", b"transfer-encoding", b"traceparent", b"x-request-id"})
"""Headers that need more than their values, or differ from request to request."""
_REASONS = {status.value: status.phrase for status in HTTPStatus}
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a client may do."""

    body_bytes: int
    """Of one request: 413."""
    all_bodies_bytes: int
    """Of all requests that are read or answered at a time: 429."""
    head_bytes: int = 32_768
    """Request line and headers: 431."""
    read_seconds: float = 30.0
    """From a request's first byte to its last: 408; and for taking an answer: the connection is cut."""
    idle_seconds: float = 75.0
    """Between requests. Longer than the 60 s of common load balancers, which must be the first to close."""
    connections: int = 16_384


class Core(Protocol):
    """What answers."""

    def refuse(self, request: Request) -> Response | None:
        """The answer to a request whose body need not be read, judged by its head."""
        ...

    def handle(self, request: Request) -> None:
        """Answer through `request.reply`, now or later. Never raises."""
        ...

    def problem(self, problem: Problem, request: Request | None) -> Response:
        """The answer to what is not a proper request."""
        ...


class _Head(NamedTuple):
    """A parsed head."""

    method: str
    path: str
    headers: dict[bytes, bytes]
    length: int
    """Of the body."""


class Shared:
    """What the connections of one server have in common."""

    def __init__(self, core: Core, limits: Limits) -> None:
        self.core = core
        self.limits = limits
        self.connections: set[Connection] = set()
        self.heads: dict[bytes, _Head] = {}
        """Parsed heads of whole requests, by their bytes."""
        self.body_bytes = 0
        """Of requests that are being read or answered."""
        self.now = 0.0
        """The event loop's time, a tick ago at most."""
        self.date = b""
        """The `date` header, with its line end."""
        self.draining = False
        """Every answer is its connection's last."""
        self.on_close: Callable[[], None] = lambda: None


class Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._parser = httptools.HttpRequestParser(self)
        self._transport = cast(asyncio.Transport, None)
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._head_bytes = 0
        self._whole = b""
        """The piece that is being parsed, if it began with a request."""
        self._unread: bytes | memoryview = b""
        """Has come, but is not parsed before the requests that wait have been answered."""
        self._bare_bytes = 0
        """Of the request that is being read, in pieces that brought nothing of its body and not its end."""
        self._request: Request | None = None
        """Whose head is complete and whose body is being read."""
        self._length = 0
        """What the body will have at least."""
        self._body: list[bytes | bytearray] = []
        self._body_bytes = 0
        self._early: Response | None = None
        """The answer to a request whose body is not wanted."""
        self._refusal: Response | None = None
        """The answer to what the parser was stopped at."""
        self._queue: deque[Request] = deque()
        self._active: Request | None = None
        """What is being answered."""
        self._starting = False
        self._parsing = False
        self._paused = False
        self._reading_since: float | None = None
        self._idle_since = shared.now
        self._stuck_since: float | None = None
        self._last: Response | None = None
        """To be sent after all others, and then the connection ends."""
        self._ending_since: float | None = None
        """Nothing more is read or answered."""

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self._transport = cast(asyncio.Transport, transport)
        self._shared.connections.add(self)
        if len(self._shared.connections) > self._shared.limits.connections:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        if self._last or self._ending_since is not None:
            return
        idle = self._reading_since is None and not self._active and not self._queue and self._stuck_since is None
        if idle and self._take_known(data):
            return
        if len(data) <= _PIECE_BYTES:
            self._whole = data if self._reading_since is None else b""
            self._parse(data)
            self._whole = b""
        else:
            self._unread = memoryview(data)
            self._parse_unread()

    def _take_known(self, data: bytes) -> bool:
        """Take a whole request whose head has been parsed before, byte for byte, on whichever connection.

        Most clients send the same few heads over and over; parsing them is a third of what a small request costs.
        """
        shared = self._shared
        end = data.find(_HEAD_END) + len(_HEAD_END)
        head = shared.heads.get(data[:end])
        if head is None or len(data) != end + head.length:
            return False
        if shared.body_bytes + head.length > shared.limits.all_bodies_bytes:
            return False
        request = Request(head.method, head.path, head.headers, self._reply, data[end:])
        request.early = shared.core.refuse(request)
        if not request.early:
            shared.body_bytes += head.length
        else:
            request.body = b""
        request.received = time.perf_counter()
        self._start(request)
        return True

    def _remember(self, request: Request) -> None:
        """Keep the head of a request that came in one piece, unless it is one that does not come again."""
        data, shared = self._whole, self._shared
        end = data.find(_HEAD_END) + len(_HEAD_END)
        length = len(data) - end
        headers = request.headers
        if (
            length == (len(request.body) if not request.early else -1)
            and length == int(headers.get(b"content-length", b"0"))
            and request.keep_alive
            and end <= _MOST_KNOWN_HEAD_BYTES
            and _UNCOMMON.isdisjoint(headers)
        ):
            if len(shared.heads) >= _MOST_KNOWN_HEADS:
                shared.heads.clear()
            shared.heads[data[:end]] = _Head(request.method, request.path, headers, length)

    def eof_received(self) -> bool:
        """The client sends no more. That is how one looks that has left, and it is taken for that."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended, on whichever side."""
        del exc  # whatever the reason
        if self._active:
            self._active.abandoned = True
            self._release()
        self._forget()
        del self._parser  # which holds on to this: memory is free at once, not when cycles are looked for
        self._ending_since = self._shared.now
        self._shared.connections.discard(self)
        self._shared.on_close()

    def pause_writing(self) -> None:
        """The client does not take what is written."""
        self._stuck_since = self._shared.now

    def resume_writing(self) -> None:
        """It does again."""
        self._stuck_since = None
        self._next()

    # Called by the parser.

    def on_message_begin(self) -> None:
        """A request's first byte."""
        self._url = b""
        self._headers = {}
        self._head_bytes = 0
        self._bare_bytes = 0
        self._reading_since = self._shared.now

    def on_url(self, url: bytes) -> None:
        """A part of the request's target."""
        self._url += url
        self._head_bytes += len(url)
        if self._head_bytes > self._shared.limits.head_bytes:
            self._stop_at_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; or a trailer, which is not wanted."""
        if self._request is None:
            name = name.lower()
            value = value.rstrip()
            headers = self._headers
            headers[name] = self._joined(name, value) if name in headers else value
        self._head_bytes += len(name) + len(value) + _HEADER_OVERHEAD
        if self._head_bytes > self._shared.limits.head_bytes:
            self._stop_at_head()

    def on_headers_complete(self) -> None:
        """The head is complete: is the body wanted?"""
        headers, parser = self._headers, self._parser
        if parser.should_upgrade():
            return  # see _stay
        request = Request(parser.get_method().decode(), _path(self._url), headers, self._reply)
        request.keep_alive = parser.should_keep_alive()
        self._request = request
        if b"connection" in headers or b"host" not in headers or not request.keep_alive:
            self._check_version(request)
        self._length = length = int(headers.get(b"content-length", b"0"))
        chunked = b"transfer-encoding" in headers
        if chunked and headers[b"transfer-encoding"].lower() != b"chunked":
            self._stop(Problem(501, "unknown_encoding", "the only transfer encoding here is chunked"))
        early = self._early = self._shared.core.refuse(request)
        expects = b"expect" in headers and headers[b"expect"].lower() == b"100-continue"
        if early and (expects or chunked or length > _SHORT_BODY_BYTES):
            self._refusal = early
            raise ValueError(early.status)
        if length > self._shared.limits.body_bytes:
            self._stop(self._body_too_large())
        if expects and not self._active and not self._queue and parser.get_http_version() == "1.1":
            self._transport.write(_CONTINUE)

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        if self._early:
            return
        shared = self._shared
        if self._body and len(body) < _SMALL_BYTES:
            self._gather(body)
        else:
            self._body.append(body)
        self._body_bytes += len(body)
        shared.body_bytes += len(body)
        if self._body_bytes > shared.limits.body_bytes:
            self._stop(self._body_too_large())
        if shared.body_bytes > shared.limits.all_bodies_bytes:
            message = "the bodies of the requests in flight fill the memory that is set aside for them"
            self._stop(Problem(429, "overloaded", message, headers=(("retry-after", "1"),)))

    def on_message_complete(self) -> None:
        """The request is complete."""
        request = self._request
        if request is None:
            return
        request.body = b"".join(self._body)  # no copy, when there is one
        request.early = self._early
        request.received = time.perf_counter()
        self._request = self._early = None
        self._body = []
        self._body_bytes = 0
        self._reading_since = None
        if not self._active and not self._queue and self._stuck_since is None:
            if self._whole:
                self._remember(request)
            self._start(request)
            if self._ending_since is not None:
                raise ValueError  # what follows is not read
            return
        self._queue.append(request)
        if len(self._queue) > _MOST_PIPELINED and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def _gather(self, piece: bytes) -> None:
        latest = self._body[-1]
        if isinstance(latest, bytearray):
            latest += piece
        else:
            self._body.append(bytearray(piece))

    def _parse_unread(self) -> None:
        """Parse on, until too many requests wait."""
        if self._parsing:
            return
        self._parsing = True
        while self._unread and not self._paused:
            body = self._length - self._body_bytes if self._request and not self._early else 0
            size = max(body, _PIECE_BYTES)
            piece, self._unread = self._unread[:size], self._unread[size:]
            self._parse(piece)
        self._parsing = False

    def _parse(self, data: bytes | memoryview) -> None:
        body_bytes = self._body_bytes
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._stay(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError as error:
            latest = self._queue[-1] if self._queue else self._active
            if self._ending_since is not None or (latest and not latest.keep_alive):
                return  # it follows a request that was its client's last
            if self._refusal is None:
                problem = Problem(400, "malformed_request", f"this is not HTTP/1.1: {error}")
                self._refusal = self._shared.core.problem(problem, self._request)
            self._finish_with(self._refusal)
            return
        # The parser keeps a header until its end, however long it is, and does not tell.
        if self._reading_since is not None and self._body_bytes == body_bytes and not self._early:
            self._bare_bytes += len(data)
            if self._bare_bytes > self._shared.limits.head_bytes:
                self._finish_with(self._shared.core.problem(self._head_too_large(), self._request))

    def _stay(self, rest: bytes | memoryview) -> None:
        """Take a request that asks for another protocol as one of this, with its body, which llhttp has left out."""
        headers = self._headers
        method = self._parser.get_method()
        if method == b"CONNECT":
            problem = Problem(501, "no_proxy", "this server is no proxy")
            self._finish_with(self._shared.core.problem(problem, None))
            return
        ends = b"connection: close\r\n" if b"close" in headers.get(b"connection", b"").lower() else b""
        kept = [b"%b: %b\r\n" % header for header in headers.items() if header[0] not in _UPGRADE]
        self._parser = httptools.HttpRequestParser(self)
        self._parse(b"%b %b HTTP/1.1\r\n%b%b\r\n" % (method, self._url, b"".join(kept), ends))
        if not self._last and self._ending_since is None:
            self._unread = b"".join((rest, self._unread))
            self._parse_unread()

    def _joined(self, name: bytes, value: bytes) -> bytes:
        if name == b"host":
            self._stop(Problem(400, "malformed_request", "a request names one host"))
        return self._headers[name] + b", " + value

    def _check_version(self, request: Request) -> None:
        version = self._parser.get_http_version()
        if version == "1.0":
            request.keep_alive = False
        elif version != "1.1":
            self._stop(Problem(505, "unknown_version", "this server speaks HTTP/1.1"))
        elif b"host" not in self._headers:
            self._stop(Problem(400, "malformed_request", "an HTTP/1.1 request must name its host"))

    def _stop_at_head(self) -> None:
        self._stop(self._head_too_large())

    def _head_too_large(self) -> Problem:
        message = f"request line and headers may have {self._shared.limits.head_bytes} bytes"
        return Problem(431, "head_too_large", message)

    def _body_too_large(self) -> Problem:
        return Problem(413, "body_too_large", f"the body may have {self._shared.limits.body_bytes} bytes")

    def _stop(self, problem: Problem) -> None:
        """Leave the parser, for good: httptools turns what a callback raises into its own error."""
        self._refusal = self._shared.core.problem(problem, self._request)
        raise problem

    # One answer after the other.

    def _start(self, request: Request) -> None:
        self._active = request
        if request.early:
            self._reply(request.early)
        else:
            self._shared.core.handle(request)

    def _next(self) -> None:
        """What comes after an answer."""
        if self._starting:  # an answer has been given at once: the loop below goes on
            return
        self._starting = True
        while self._queue and not self._active and self._stuck_since is None:
            self._start(self._queue.popleft())
        self._starting = False
        if self._active or self._queue or self._ending_since is not None:
            return
        if self._last:
            self._write(self._last, self._request, keep_alive=False)
            self._end()
        elif self._paused:
            self._read_on()

    def _read_on(self) -> None:
        self._paused = False
        if self._reading_since is not None:
            self._reading_since = self._shared.now
        self._parse_unread()
        if not self._paused and self._ending_since is None:
            self._transport.resume_reading()

    def _reply(self, response: Response) -> None:
        request = self._active
        if request is None:
            return  # the client has left
        keep_alive = request.keep_alive and not response.close and not self._shared.draining
        self._release()
        self._write(response, request, keep_alive=keep_alive)
        self._idle_since = self._shared.now
        if not keep_alive:
            self._end()
        elif self._queue or self._last or self._paused:
            self._next()

    def _release(self) -> None:
        """The active request is over."""
        if self._active:
            self._shared.body_bytes -= len(self._active.body)
            self._active.reply = _nobody
            self._active = None

    def _write(self, response: Response, request: Request | None, *, keep_alive: bool) -> None:
        self._transport.write(
            b"%b%b%b%bcontent-length: %d\r\n\r\n%b"
            % (
                _head(response.status, response.headers),
                self._shared.date,
                b"x-request-id: %b\r\n" % request.id if request and request.id else b"",
                b"" if keep_alive else b"connection: close\r\n",
                len(response.body),
                b"" if request and request.method == "HEAD" else response.body,
            )
        )

    def _finish_with(self, response: Response) -> None:
        """Answer what is complete, then this, then end the connection."""
        self._last = response
        self._reading_since = None
        self._drop_body()
        self._unread = b""
        self._next()

    def _end(self) -> None:
        """End the connection after what is written; the client is the first to close it, if it is quick."""
        self._ending_since = self._shared.now
        self._forget()
        self._transport.resume_reading()
        self._transport.write_eof()

    def _forget(self) -> None:
        """Let go of all that is not answered."""
        self._drop_body()
        self._shared.body_bytes -= sum(len(request.body) for request in self._queue)
        self._queue.clear()
        self._unread = b""

    def _drop_body(self) -> None:
        self._shared.body_bytes -= self._body_bytes
        self._body_bytes = 0
        self._body = []

    # Called by the transport.

    @property
    def unanswered(self) -> int:
        """Requests that have begun."""
        reading = self._reading_since is not None and self._ending_since is None
        return len(self._queue) + (self._active is not None) + reading

    def stop(self) -> None:
        """End the connection, unless a request is on it."""
        if not self.unanswered and self._ending_since is None:
            self._close()

    def check(self) -> None:
        """Hold the client to the limits' times; to be called now and then."""
        now, limits = self._shared.now, self._shared.limits
        if self._ending_since is not None:
            patience = limits.read_seconds if self._transport.get_write_buffer_size() else _LINGER_SECONDS
            if now - self._ending_since > patience:
                self._transport.abort()
        elif self._stuck_since is not None:
            if now - self._stuck_since > limits.read_seconds:
                self._transport.abort()
        elif self._reading_since is not None:
            if now - self._reading_since > limits.read_seconds and not self._paused:
                message = f"a request must arrive within {limits.read_seconds:g} seconds"
                self._finish_with(self._shared.core.problem(Problem(408, "too_slow", message), self._request))
        elif not self._active and now - self._idle_since > limits.idle_seconds:
            self._close()

    def _close(self) -> None:
        self._ending_since = self._shared.now
        self._transport.close()


def _nobody(_: Response) -> None:
    """Who waits for an answer that has been given, or whose client has left."""


@lru_cache(maxsize=256)
def _path(url: bytes) -> str:
    """The target's path: of `/a?b`, and of `http://host/a?b`, which proxies send."""
    path = url.partition(b"?")[0]
    if not path.startswith(b"/") and b"://" in path:
        path = b"/" + path.partition(b"://")[2].partition(b"/")[2]
    return (unquote_to_bytes(path) if b"%" in path else path).decode("utf-8", "replace")


@lru_cache(maxsize=256)
def _head(status: int, headers: Headers) -> bytes:
    """Status line and headers, as they are sent."""
    lines = [f"HTTP/1.1 {status} {_REASONS[status]}", *(f"{name}: {value}" for name, value in headers), ""]
    return "\r\n".join(lines).encode("latin-1")
