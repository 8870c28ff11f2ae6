"""Accepts connections on a listening socket, keeps their clock and ends them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from email.utils import formatdate

from .. import log
from .connection import Connection, Core, Limits, Shared
from .listener import BACKLOG

_TICK_SECONDS = 0.25
_LOG_SECONDS = 10.0
"""From one log line about refused connections to the next."""


class Transport:
    """Serves a Core on a listening socket; calls `on_tick` four times a second."""

    def __init__(self, core: Core, listener: socket.socket, limits: Limits, on_tick: Callable[[], None]) -> None:
        self._listener = listener
        self._shared = Shared(core, limits, on_close=self._connection_closed)
        self._server: asyncio.Server | None = None
        self._ended = asyncio.Event()
        self._stopping = False
        self._on_tick = on_tick
        self._refused_logged = 0
        self._refused_log_due = 0.0

    @property
    def in_flight(self) -> int:
        """Requests that are being read or answered."""
        return sum(connection.unanswered for connection in self._shared.connections)

    @property
    def connections(self) -> int:
        """Connected clients."""
        return len(self._shared.connections)

    @property
    def refused(self) -> int:
        """Connections so far that were turned away for being beyond the limit."""
        return self._shared.refused

    async def accept(self) -> None:
        """Accept connections from now on."""
        self._refresh()
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Connection(self._shared), sock=self._listener, backlog=BACKLOG
        )

    async def serve(self) -> None:
        """Answer until `stop`, and until every request that had begun is answered."""
        ticks = asyncio.create_task(self._tick())
        try:
            await self._ended.wait()
        finally:
            ticks.cancel()
            self.stop_accepting()

    def drain(self) -> None:
        """Make every answer from now on its connection's last."""
        self._shared.draining = True

    def stop_accepting(self) -> None:
        """Accept no new connections; open ones are served on.

        A shared listening socket lives on in the processes that share it, with the connections in its backlog.
        """
        if self._server:
            self._server.close()

    def stop(self) -> None:
        """Close idle connections; `serve` returns when the last request in flight is answered."""
        self.drain()
        self._stopping = True
        for connection in list(self._shared.connections):
            connection.close_if_idle()
        self._connection_closed()

    def _connection_closed(self) -> None:
        if self._stopping and not self._shared.connections:
            self._ended.set()

    async def _tick(self) -> None:
        while True:
            self._refresh()
            try:
                for connection in list(self._shared.connections):
                    connection.check()
                self._log_refused()
                self._on_tick()
            except Exception:
                log.logger.exception("periodic_check_failed")
            await asyncio.sleep(_TICK_SECONDS)

    def _log_refused(self) -> None:
        shared = self._shared
        refused = shared.refused - self._refused_logged
        if refused and shared.now >= self._refused_log_due:
            log.warning("connections_refused", refused=refused, limit=shared.limits.connections)
            self._refused_logged = shared.refused
            self._refused_log_due = shared.now + _LOG_SECONDS

    def _refresh(self) -> None:
        self._shared.now = asyncio.get_running_loop().time()
        self._shared.idle = None
        self._shared.date = f"date: {formatdate(usegmt=True)}\r\n".encode()
