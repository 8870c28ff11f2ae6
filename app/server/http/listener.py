"""The listening socket, opened before the slow imports and the model.

A taken port shows at once, and a client that connects meanwhile, such as a first probe, waits for its answer instead of
being refused and coming back a second later.
"""

from __future__ import annotations

import errno
import socket

from ..errors import StartError

BACKLOG = 1024
"""Connections that wait to be accepted."""


def open_listener(host: str, port: int, listen_fd: int | None) -> socket.socket:
    """Listen on `host` and `port`, or take over the listening socket `listen_fd`. Raises StartError."""
    if listen_fd is not None:
        return _inherited(listen_fd)
    where = f"HOST={host} PORT={port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        raise _cannot_listen(where, error) from None
    return listener


def _inherited(descriptor: int) -> socket.socket:
    try:
        listener = socket.socket(fileno=descriptor)
        listening = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise StartError(f"LISTEN_FD={descriptor} is not a socket: {error.strerror}") from None
    if not listening:
        raise StartError(f"LISTEN_FD={descriptor} is a socket that does not listen")
    return listener


def _cannot_listen(where: str, error: OSError) -> StartError:
    if error.errno == errno.EADDRINUSE:
        return StartError(f"{where}: the port is taken by another process")
    return StartError(f"{where}: cannot listen there: {error.strerror}")
