from __future__ import annotations

import errno
import socket
from pathlib import Path

import pytest

from server.errors import StartError
from server.http import listener
from server.settings import read_settings
from tests.app.conftest import StartServer

HAS_IPV6 = Path("/proc/net/if_inet6").exists() and bool(Path("/proc/net/if_inet6").read_text())
LOOPBACKS = ["127.0.0.1", *(["::1"] if HAS_IPV6 else [])]


def test_by_default_it_answers_on_ipv6_and_on_ipv4(start_server: StartServer) -> None:
    server = start_server(HOST=read_settings({}).host)
    assert server.url.startswith("http://[::]:" if HAS_IPV6 else "http://0.0.0.0:")
    for host in LOOPBACKS:
        with socket.create_connection((host, server.port), timeout=10) as client:
            client.sendall(b"GET /v2/health/live HTTP/1.0\r\n\r\n")
            assert client.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_an_ipv4_address_alone_is_taken_at_its_word(start_server: StartServer) -> None:
    server = start_server(HOST="0.0.0.0")
    with server.connect() as client:
        assert client.getpeername()[0] == "127.0.0.1"
    if HAS_IPV6:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("::1", server.port), timeout=10)


class NoIPv6(socket.socket):
    """As on a machine whose kernel was started without IPv6, or whose interfaces have none."""

    step = ""

    def __init__(self, family: int = -1, *more: int) -> None:
        if family == socket.AF_INET6 and self.step == "socket":
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        super().__init__(family, *more)

    def bind(self, address: object) -> None:
        if self.family == socket.AF_INET6:
            raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
        super().bind(address)  # type: ignore[arg-type]


@pytest.mark.parametrize("step", ["socket", "bind"])
def test_without_ipv6_it_listens_on_ipv4(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    monkeypatch.setattr(NoIPv6, "step", step)
    monkeypatch.setattr(socket, "socket", NoIPv6)
    with listener.open_listener("::", 0, None) as opened:
        assert opened.getsockname()[0] == "0.0.0.0"
        with socket.create_connection(("127.0.0.1", opened.getsockname()[1]), timeout=10):
            pass
    with pytest.raises(StartError, match=r"^HOST=::1 PORT=0: cannot listen there: "):
        listener.open_listener("::1", 0, None)


def test_a_port_that_is_taken_on_either_family_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=f"^HOST=:: PORT={port}: the port is taken by another process$"):
            listener.open_listener("::", port, None)
