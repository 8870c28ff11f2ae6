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
_EVERY_ADDRESS, _EVERY_IPV4_ADDRESS = "::", "0.0.0.0"  # noqa: S104  # in a container
_NO_IPV6 = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})


def open_listener(host: str, port: int, listen_fd: int | None) -> socket.socket:
    """Listen on `host` and `port`, or take over the listening socket `listen_fd`. Raises StartError.

    `::` is every address, IPv6 and IPv4; on a machine without IPv6, every IPv4 address.
    """
    if listen_fd is not None:
        return _inherited(listen_fd)
    try:
        return _listen(host, port)
    except OSError as error:
        if host == _EVERY_ADDRESS and error.errno in _NO_IPV6:
            return open_listener(_EVERY_IPV4_ADDRESS, port, None)
        raise _cannot_listen(f"HOST={host} PORT={port}", error) from None


def _listen(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if host == _EVERY_ADDRESS:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # whatever the machine's default
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
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
