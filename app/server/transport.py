"""HTTP by granian, embedded: its Rust side parses and writes, our event loop answers.

What granian does when told to stop (tests/app holds it to that): it closes its listening descriptor and idle
connections at once, reads and answers what has begun, adding `connection: close`, and ends when the last has ended.
"""

from __future__ import annotations

import os
import socket
import sys
from typing import Protocol

from granian._granian import RSGIHeaders, RSGIHTTPProtocol, RSGIProtocolClosed, RSGIProtocolError, SocketHolder
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server.embed import Server

from .app import App, Request
from .listener import BACKLOG
from .problem import Problem

_MOST_CONNECTIONS = 16_384
_IDLE_MILLISECONDS = 75_000
"""Longer than the 60 s after which common load balancers drop an idle connection: they must be the first to close."""


class _Scope(Protocol):
    """The part of granian's request head that is used here."""

    method: str
    path: str
    headers: RSGIHeaders


class _Embedded(Server):
    """granian's server on a socket that is open already."""

    def __init__(self, target: object, listener: socket.socket) -> None:
        super().__init__(
            target,
            interface=Interfaces.RSGI,
            http=HTTPModes.http1,
            websockets=False,
            backlog=BACKLOG,
            backpressure=_MOST_CONNECTIONS,
            http1_settings=HTTP1Settings(header_read_timeout=_IDLE_MILLISECONDS),
            log_enabled=False,
            log_level=LogLevels.critical,
        )
        self._listener = listener
        self._inode = os.fstat(listener.fileno()).st_ino
        self._descriptor = -1

    def _init_shared_socket(self) -> None:
        # Its own would set SO_REUSEPORT, so that a taken port goes unnoticed.
        self._ssp = None
        self._descriptor = self._listener.detach()
        backlog = (self.backlog,) if sys.platform.startswith(("linux", "freebsd")) else ()
        self._shd = SocketHolder(self._descriptor, False, *backlog)  # pyright: ignore[reportCallIssue] - its stub is short

    def stop_accepting(self) -> None:
        """Serve on, but take no new connection.

        granian can only do both at once, and then closes connections whose first bytes are still on their way. So its
        listening descriptor is exchanged for one that nobody connects to. The socket itself lives on in whoever shares
        it, with all connections that wait in its queue.
        """
        if os.fstat(self._descriptor).st_ino != self._inode:
            return
        with socket.create_server(("127.0.0.1", 0), backlog=1) as unknown:
            unknown.setblocking(False)
            os.dup2(unknown.fileno(), self._descriptor, inheritable=False)


class Transport:
    """Serves an App on a bound socket."""

    def __init__(self, app: App, listener: socket.socket, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._server = _Embedded(self._answer, listener)
        self.in_flight = 0
        """Requests that are being read or answered."""

    async def serve(self) -> None:
        """Accept and answer until `stop`, and until every request that had begun is answered."""
        await self._server.serve()

    def stop_accepting(self) -> None:
        """Take no new connections; those that are open are served on."""
        self._server.stop_accepting()

    def stop(self) -> None:
        """Close idle connections and let `serve` return when the last request in flight is answered."""
        self._server.stop()

    async def _answer(self, scope: _Scope, protocol: RSGIHTTPProtocol) -> None:
        self.in_flight += 1
        try:
            request = Request(scope.method, scope.path, scope.headers.get, lambda: self._read(scope, protocol))
            response = await self._app.handle(request)
            protocol.response_bytes(response.status, list(response.headers), response.body)
        except _Gone:
            pass
        finally:
            self.in_flight -= 1

    async def _read(self, scope: _Scope, protocol: RSGIHTTPProtocol) -> bytes:
        limit = self._max_body_bytes
        length = scope.headers.get("content-length")
        try:
            if length is not None:
                if int(length) > limit:
                    raise _too_long(limit)
                return await protocol()
            body = bytearray()
            async for chunk in protocol:
                body += chunk
                if len(body) > limit:
                    raise _too_long(limit)
            return bytes(body)
        except (RSGIProtocolClosed, RSGIProtocolError):
            raise _Gone from None


class _Gone(BaseException):
    """The client left before its request was complete: there is no one to answer. Passes through App.handle."""


def _too_long(limit: int) -> Problem:
    return Problem(413, "body_too_large", f"the body may have {limit} bytes", headers=(("connection", "close"),))
