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


def answering(raw: Any, head: bytes, body: Callable[[socket.socket], None]) -> str:
    """A server that is ready, and whose prediction begins with `head` and goes on with `body`."""

    def answer(connection: socket.socket) -> None:
        asked = b""
        while b"\r\n\r\n" not in asked:
            asked += connection.recv(65536)
        if asked.startswith(b"GET"):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        else:
            connection.sendall(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n")
            body(connection)
            connection.shutdown(socket.SHUT_WR)

    return raw(answer)


def predict(base: str, timeout_seconds: float = 60) -> tuple[str | None, str | None]:
    return await_prediction(base, readiness_path="/ready", example="{}", timeout_seconds=timeout_seconds)


@pytest.mark.parametrize("framing", ["length", "chunks", "until it closes"])
def test_an_answer_of_100_mib_proves_the_endpoint(raw: Any, framing: str) -> None:
    piece = b"0.123456789," * 87_382  # 1 MiB
    first, last = b'{"prediction": [', b'1], "model": {"name": "wide", "version": "3"}}'
    parts = [first, *[piece] * 100, last]
    length = sum(map(len, parts))
    heads = {"length": b"Content-Length: %d\r\n" % length, "chunks": b"Transfer-Encoding: chunked\r\n"}

    def send(connection: socket.socket) -> None:
        for part in parts:
            connection.sendall(b"%x\r\n%b\r\n" % (len(part), part) if framing == "chunks" else part)
        if framing == "chunks":
            connection.sendall(b"0\r\n\r\n")

    assert predict(answering(raw, heads.get(framing, b""), send)) == ("wide", "3")


def test_an_endless_answer_ends_the_wait_at_once(raw: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_probe, "_MAX_ANSWER_BYTES", 4 * 1024 * 1024)

    def send(connection: socket.socket) -> None:
        while True:
            connection.sendall(b"[" * 65536)

    started = time.monotonic()
    with pytest.raises(EndpointError, match="answers the example prediction without end") as caught:
        predict(answering(raw, b"", send))
    assert time.monotonic() - started < 10
    assert "last answer: 200 (too long) [[[" in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_an_answer_that_takes_its_time_is_read_on(raw: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """At more than the slowest rate it may take longer than one request otherwise may."""
    monkeypatch.setattr(http_probe, "_MAX_REQUEST_SECONDS", 0.2)

    def send(connection: socket.socket) -> None:
        for part in [b"[", *[b"1," * 32768] * 10, b"1]"]:
            connection.sendall(part)
            time.sleep(0.05)

    assert predict(answering(raw, b"", send)) == (None, None)


def test_an_answer_that_drips_is_given_up_and_asked_for_again(raw: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_probe, "_MAX_REQUEST_SECONDS", 0.2)
    asked: list[int] = []

    def send(connection: socket.socket) -> None:
        asked.append(1)
        if len(asked) > 1:
            connection.sendall(b"{}")
            return
        for _ in range(200):
            connection.sendall(b"[")
            time.sleep(0.01)

    assert predict(answering(raw, b"", send)) == (None, None)
    assert len(asked) == 2


def test_an_answer_that_breaks_off_proves_nothing(raw: Any) -> None:
    base = answering(raw, b"Content-Length: 100\r\n", lambda connection: connection.sendall(b'{"label": 1}'))
    with pytest.raises(EndpointError, match=r'last answer: 200 \(broken off\) \{"label": 1\}'):
        predict(base, timeout_seconds=0.5)
