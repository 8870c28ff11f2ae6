"""Servers that answer badly or not at all, as the endpoint check asks them."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from infra import http_probe
from infra.endpoint_check import EndpointError, await_prediction


@pytest.fixture
def raw() -> Iterator[Callable[[Callable[[socket.socket], None]], str]]:
    listeners: list[socket.socket] = []
    held: list[socket.socket] = []

    def start(treat: Callable[[socket.socket], None]) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                held.append(connection)
                try:
                    treat(connection)
                except OSError:
                    continue

        threading.Thread(target=accept, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
    for connection in held:
        connection.close()


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_probe, "_FIRST_PAUSE_SECONDS", 0.02)


def fails(base: str) -> str:
    started = time.monotonic()
    with pytest.raises(EndpointError) as caught:
        await_prediction(base, readiness_path="/ready", example="{}", timeout_seconds=0.5)
    assert time.monotonic() - started < 4
    assert "did not answer a prediction within 0.5 seconds" in str(caught.value)
    return str(caught.value)


def test_a_server_that_accepts_and_says_nothing(raw: Any) -> None:
    assert "last answer: none (timed out)" in fails(raw(lambda _: None))


def test_a_server_that_sends_a_byte_at_a_time(raw: Any) -> None:
    def drip(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        for _ in range(200):
            connection.sendall(b"x")
            time.sleep(0.02)

    fails(raw(drip))


def test_a_server_that_closes_the_connection(raw: Any) -> None:
    def close(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.close()

    text = fails(raw(close))
    assert "last answer: none (" in text
    assert "closed connection" in text or "reset" in text


def test_a_server_that_speaks_no_http(raw: Any) -> None:
    assert "last answer: none (" in fails(raw(lambda connection: connection.sendall(b"SSH-2.0-x\r\n")))


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert "refused" in fails(f"http://127.0.0.1:{port}")


def test_a_name_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nothing)
    monkeypatch.setenv("no_proxy", "*")
    assert "Name or service not known" in fails("http://lb.example.com")


def test_another_scheme_is_no_way_in(tmp_path: Path) -> None:
    (tmp_path / "ready").write_text("{}")
    assert "unknown url type" in fails(f"file://{tmp_path}")
