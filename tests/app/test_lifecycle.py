from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.app.conftest import StartServer
from tests.app.harness import MODEL, SETOSA, Server, slow_model

BODY = json.dumps({"input": SETOSA}).encode()
HEAD = f"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: {len(BODY)}\r\n\r\n".encode()


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=10)


def read_all(connection: socket.socket) -> bytes:
    found = b""
    while chunk := connection.recv(4096):
        found += chunk
    return found


def test_the_log_says_where_it_listens_and_what_it_serves(start_server: StartServer) -> None:
    server = start_server()
    ready = server.event("ready")
    assert (ready["model"], ready["version"], ready["level"]) == ("iris", "1", "info")
    assert ready["address"].startswith("http://127.0.0.1:")


def test_it_leaves_nothing_in_the_home_folder_and_reports_to_nobody(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server(HOME=str(tmp_path))
    assert server.post(BODY).status_code == 200
    server.signal()
    assert server.wait() == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_well_though_a_connection_is_idle(start_server: StartServer, number: signal.Signals) -> None:
    server = start_server()
    with connect(server) as idle:
        idle.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        assert idle.recv(4096).startswith(b"HTTP/1.1 200")
        server.signal(number)
        assert server.wait(5) == 0
        assert idle.recv(4096) == b""
    assert [line["event"] for line in server.logs] == ["ready", "draining", "stopped"]


def test_while_it_drains_it_is_not_ready_but_answers_and_closes(start_server: StartServer) -> None:
    server = start_server(DRAIN_SECONDS="20")
    with httpx.Client(base_url=server.url, trust_env=False) as client:
        assert "connection" not in client.get("/v2/health/ready").headers
        server.signal()
        server.event("draining")
        ready = client.get("/v2/health/ready")
        assert (ready.status_code, ready.json()) == (503, {"ready": False})
        for _ in range(3):
            answer = client.post("/predict", content=BODY)
            assert (answer.status_code, answer.headers["connection"]) == (200, "close")
    server.signal()  # the second one cuts the drain short
    assert server.wait(5) == 0


def test_who_connects_while_the_model_loads_waits_for_the_answer(start_server: StartServer, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = start_server(PORT=str(port), MODEL_DIR=str(slow_model(tmp_path, 2_000_000)))
    deadline = time.monotonic() + 20
    while True:
        try:
            early = socket.create_connection(("127.0.0.1", port), timeout=20)
            break
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
    with early:
        assert server.stderr == [], "it was ready already"
        early.sendall(b"GET /v2/health/ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert read_all(early).startswith(b"HTTP/1.1 200")
    assert server.event("ready")


def wait_until_refused(server: Server) -> None:
    """Past drain and linger the listening socket is gone."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            connect(server).close()
        except ConnectionRefusedError:
            return
        except ConnectionResetError:  # it closed between the two
            pass
        time.sleep(0.05)
    pytest.fail("the server still accepts connections")


def test_a_request_that_has_begun_is_answered_after_the_signal(start_server: StartServer) -> None:
    server = start_server()
    with connect(server) as slow:
        slow.sendall(HEAD + BODY[:5])
        time.sleep(0.1)
        server.signal()
        server.event("draining")
        wait_until_refused(server)
        slow.sendall(BODY[5:])
        answer = read_all(slow)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in answer
    assert server.wait(5) == 0
    assert server.logs[-1]["event"] == "stopped"


def test_a_running_prediction_is_answered_after_the_signal(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server(MODEL_DIR=str(slow_model(tmp_path, 1_000_000)))
    server.event("ready")
    with connect(server) as connection:
        body = b'{"input": [1]}'
        connection.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        time.sleep(0.5)
        server.signal()
        assert server.event("draining")["in_flight"] == 1
        assert b'"prediction":1000001.0' in read_all(connection)
    assert server.wait(10) == 0


def test_the_grace_period_bounds_the_wait(start_server: StartServer) -> None:
    server = start_server(GRACE_SECONDS="0.2")
    with connect(server) as stuck:
        stuck.sendall(HEAD)
        time.sleep(0.1)
        server.signal()
        assert server.wait(5) == 0
    assert server.logs[-1]["event"] == "stopped with requests unanswered"
    assert server.logs[-1]["unanswered"] == 1


@contextmanager
def _taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield taken.getsockname()[1]


def _refusal(server: Server) -> str:
    assert server.wait() == 1
    assert len(server.stderr) == 1
    assert server.logs[0]["event"] == "cannot start"
    assert server.process.stdout is not None
    assert server.process.stdout.read() == ""
    return server.logs[0]["reason"]


def test_a_taken_port_is_refused(start_server: StartServer) -> None:
    with _taken_port() as port:
        assert (
            _refusal(start_server(PORT=str(port)))
            == f"HOST=127.0.0.1 PORT={port}: the port is taken by another process"
        )


def test_a_bad_environment_is_refused(start_server: StartServer) -> None:
    reason = _refusal(start_server(PORT="eighty", MAX_ROWS="none"))
    assert "PORT='eighty' must be" in reason
    assert "MAX_ROWS='none' must be" in reason


def test_a_host_that_is_not_ours_is_refused(start_server: StartServer) -> None:
    assert "cannot listen there" in _refusal(start_server(HOST="192.0.2.1"))


def test_a_missing_or_broken_model_is_refused(start_server: StartServer, tmp_path: Path) -> None:
    assert "model.json cannot be read" in _refusal(start_server(MODEL_DIR=str(tmp_path)))
    (tmp_path / "model.json").write_bytes((MODEL / "model.json").read_bytes())
    (tmp_path / "model.onnx").write_bytes(b"\x08\x08")
    assert "model.onnx" in _refusal(start_server(MODEL_DIR=str(tmp_path)))


def test_an_unreadable_key_file_is_refused(start_server: StartServer, tmp_path: Path) -> None:
    reason = _refusal(start_server(API_KEY_FILE=str(tmp_path / "none")))
    assert reason.endswith("cannot be read: No such file or directory")


def test_a_descriptor_that_does_not_listen_is_refused(start_server: StartServer) -> None:
    with socket.socket() as silent:
        descriptor = silent.fileno()
        reason = _refusal(start_server(pass_fds=(descriptor,), LISTEN_FD=str(descriptor)))
        assert reason == f"LISTEN_FD={descriptor} is a socket that does not listen"
    read, write = os.pipe()
    try:
        assert "is not a socket" in _refusal(start_server(pass_fds=(read,), LISTEN_FD=str(read)))
    finally:
        os.close(read)
        os.close(write)


class Load:
    """Constant predictions from threads, half on fresh connections, half on ones that live as long as they are let."""

    def __init__(self, port: int) -> None:
        self.failures: list[str] = []
        self.answers = 0
        self._port = port
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(fresh,)) for fresh in (True, True, False, False)]

    def _run(self, fresh: bool) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        while not self._stop.is_set():
            try:
                connection.request("POST", "/predict", BODY)
                response = connection.getresponse()
                if response.status != 200 or b"setosa" not in response.read():
                    self.failures.append(f"status {response.status}")
                self.answers += 1
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                connection.close()
            if fresh:
                connection.close()
        connection.close()

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_hand_over_on_a_shared_socket_loses_no_request(start_server: StartServer) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        descriptor, port = listener.fileno(), listener.getsockname()[1]

        def start() -> Server:
            server = start_server(pass_fds=(descriptor,), LISTEN_FD=str(descriptor), DRAIN_SECONDS="0.1")
            assert server.port == port
            return server

        old = start()
        with Load(port) as load:
            for _ in range(4):
                new = start()
                before = load.answers
                old.signal()
                assert old.wait() == 0
                assert old.logs[-1]["event"] == "stopped"
                assert load.answers > before
                old = new
        assert load.failures == []
        assert load.answers > 100
