"""Our HTTP server with a constant for an answer, read body and all: what is left for everything else to spend."""

from __future__ import annotations

import asyncio
import os
import signal
import socket

import uvloop

from server.errors import Problem
from server.http.connection import Limits
from server.http.messages import JSON, Request, Response
from server.http.transport import Transport

_ANSWER = (
    b'{"model":{"name":"tiny","version":"1"},"prediction":[0.75837451219558716,0.21795344352722168,0.0236720405519009]}'
)


class Constant:
    """A Core that looks at nothing."""

    def __init__(self) -> None:
        self._answer = Response(200, JSON, _ANSWER)

    def refuse(self, request: Request) -> Response | None:
        """Every body is wanted."""
        request.id = b"0"

    def vital(self, request: Request) -> bool:
        """No request goes before another."""
        del request
        return False

    def handle(self, request: Request) -> None:
        """The answer."""
        request.reply(self._answer)

    def problem(self, problem: Problem, request: Request | None) -> Response:
        """None is expected."""
        raise AssertionError(problem, request)


async def serve() -> None:
    """Until SIGTERM."""
    listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
    transport = Transport(Constant(), listener, Limits(body_bytes=2**20, all_bodies_bytes=2**26), lambda: None)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, transport.stop)
    await transport.accept()
    await transport.serve()


uvloop.run(serve())
