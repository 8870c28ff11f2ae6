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
from tests.app.wire import Answer, read_answers, read_to_end

BODY = json.dumps({"input": SETOSA}).encode()
HEAD = f"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: {len(BODY)}\r\n\r\n".encode()


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=10)


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


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def connect_early(port: int) -> socket.socket:
    """To a server that is not ready yet, as soon as it listens."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=20)
        except ConnectionRefusedError:
            assert time.monotonic() < deadline


def ask(connection: socket.socket, request: bytes, *, last: bool = False) -> Answer:
    close = b"connection: close\r\n" if last else b""
    connection.sendall(request.replace(b"\r\n\r\n", b"\r\nhost: x\r\n" + close + b"\r\n", 1))
    found = read_to_end(connection) if last else connection.recv(65_536)
    (answer,) = read_answers(found)
    return answer


LIVE = b"GET /v2/health/live HTTP/1.1\r\n\r\n"
READY = b"GET /v2/health/ready HTTP/1.1\r\n\r\n"
PREDICT = b"POST /predict HTTP/1.1\r\ncontent-length: 14\r\n\r\n" + b'{"input": [1]}'


def test_while_the_model_loads_it_lives_and_says_that_it_is_not_ready(
    start_server: StartServer, tmp_path: Path
) -> None:
    port = free_port()
    server = start_server(PORT=str(port), MODEL_DIR=str(slow_model(tmp_path, 1_000_000)))
    with connect_early(port) as early:
        live = ask(early, LIVE)
        assert (live.status, live.body) == (200, b'{"live":true}')
        before = time.monotonic()
        ready = ask(early, READY)
        assert (ready.status, ready.body) == (503, b'{"ready":false}')
        assert 0.6 < time.monotonic() - before < 1
        answer = ask(early, PREDICT)
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert server.stderr == [], "it was ready already"
        server.event("ready")
        assert ask(early, READY).status == 200
        assert ask(early, PREDICT, last=True).status == 200


def test_a_probe_that_comes_just_before_the_model_is_loaded_waits_for_the_yes(start_server: StartServer) -> None:
    port = free_port()
    start_server(PORT=str(port))
    with connect_early(port) as early:
        assert ask(early, READY, last=True).status == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_model_loads_ends_it_well(
    start_server: StartServer, tmp_path: Path, number: signal.Signals
) -> None:
    port = free_port()
    server = start_server(PORT=str(port), MODEL_DIR=str(slow_model(tmp_path, 5_000_000)))
    with connect_early(port) as early, connect_early(port) as probe:
        assert ask(early, LIVE).status == 200
        probe.sendall(b"GET /v2/health/ready HTTP/1.1\r\nhost: x\r\n\r\n")
        time.sleep(0.1)
        server.signal(number)
        assert server.wait(3) == 0
        assert read_answers(read_to_end(probe))[0].status == 503
    assert [line["event"] for line in server.logs] == ["draining", "stopped"]


def test_a_signal_at_any_moment_of_the_start_ends_it_well(start_server: StartServer) -> None:
    for milliseconds in range(0, 400, 50):
        server = start_server()
        time.sleep(milliseconds / 1000)
        server.signal()
        assert server.wait(5) in (0, -signal.SIGTERM), server.stderr  # not even Python has started at first
        assert not [line for line in server.logs if line["level"] == "error"]


def test_on_a_shared_socket_it_answers_only_when_it_is_ready(start_server: StartServer, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        descriptor, port = listener.fileno(), listener.getsockname()[1]
        folder = str(slow_model(tmp_path, 300_000))
        server = start_server(pass_fds=(descriptor,), LISTEN_FD=str(descriptor), MODEL_DIR=folder)
        with connect_early(port) as early:
            assert ask(early, PREDICT, last=True).body.endswith(b'"prediction":300001.0}')
        server.signal()
        assert server.wait(5) == 0
        with socket.create_connection(("127.0.0.1", port)):  # the socket lives on
            pass


def test_ready_is_told_once_and_when_it_is_true(start_server: StartServer) -> None:
    read, write = os.pipe()
    try:
        server = start_server(pass_fds=(write,), READY_FD=str(write))
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            assert pipe.read() == b"ready\n"
        assert server.stderr == [] or server.event("ready")
        assert server.post(BODY).status_code == 200
    finally:
        server.stop()


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
        answer = read_to_end(slow)
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
        assert b'"prediction":1000001.0' in read_to_end(connection)
    assert server.wait(10) == 0


def test_the_grace_period_bounds_the_wait(start_server: StartServer) -> None:
    server = start_server(GRACE_SECONDS="0.2")
    with connect(server) as stuck:
        stuck.sendall(HEAD)
        time.sleep(0.1)
        server.signal()
        assert server.wait(5) == 0
    assert server.logs[-1]["event"] == "stopped_unanswered"
    assert server.logs[-1]["unanswered"] == 1


def test_a_run_that_takes_longer_than_the_grace_period_is_given_up(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server(MODEL_DIR=str(slow_model(tmp_path, 1_000_000)), GRACE_SECONDS="0.2")
    server.event("ready")
    with connect(server) as connection:
        connection.sendall(PREDICT.replace(b"\r\n\r\n", b"\r\nhost: x\r\n\r\n", 1))
        time.sleep(0.3)
        before = time.monotonic()
        server.signal()
        assert server.wait(5) == 0
        assert time.monotonic() - before < 1.5
        assert read_to_end(connection) == b""
    assert server.logs[-1]["event"] == "stopped_unanswered"
    assert server.logs[-1]["unanswered"] == 1


def test_what_is_answered_but_not_closed_by_the_client_is_not_waited_for(start_server: StartServer) -> None:
    server = start_server(GRACE_SECONDS="0.5", DRAIN_SECONDS="0.1")
    with connect(server) as lingering:
        lingering.sendall(HEAD + BODY[:5])
        time.sleep(0.1)
        server.signal()
        server.event("draining")
        lingering.sendall(BODY[5:])
        assert server.wait(5) == 0
        assert lingering.recv(100).startswith(b"HTTP/1.1 200")
    assert server.logs[-1]["event"] == "stopped"


@contextmanager
def _taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield taken.getsockname()[1]


def _refusal(server: Server) -> str:
    assert server.wait() == 1
    assert len(server.stderr) == 1
    assert server.logs[0]["event"] == "cannot_start"
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
