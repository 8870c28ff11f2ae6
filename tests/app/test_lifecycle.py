from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.app.conftest import StartServer
from tests.app.harness import MODEL, SETOSA, Server
from tests.app.wire import Answer, head, post, read_answers, read_to_end

BODY = json.dumps({"input": SETOSA}).encode()
PREDICT_IRIS = post("/predict", BODY)
PREDICT = post("/predict", b'{"input": [1]}')
LIVE = head("/v2/health/live", method="GET")
READY = head("/v2/health/ready", method="GET")


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
    with server.connect() as idle:
        assert ask(idle, LIVE).status == 200
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
    connection.sendall(request.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n", 1) if last else request)
    (answer,) = read_answers(read_to_end(connection) if last else connection.recv(65_536))
    return answer


def test_while_the_model_loads_it_lives_and_says_that_it_is_not_ready(start_slow_server: StartServer) -> None:
    port = free_port()
    server = start_slow_server(1_000_000, PORT=str(port))
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
def test_a_signal_while_the_model_loads_ends_it_well(start_slow_server: StartServer, number: signal.Signals) -> None:
    port = free_port()
    server = start_slow_server(5_000_000, PORT=str(port))
    with connect_early(port) as early, connect_early(port) as probe:
        assert ask(early, LIVE).status == 200
        probe.sendall(READY)
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


def test_on_a_shared_socket_it_answers_only_when_it_is_ready(start_slow_server: StartServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        descriptor, port = listener.fileno(), listener.getsockname()[1]
        server = start_slow_server(300_000, pass_fds=(descriptor,), LISTEN_FD=str(descriptor))
        with connect_early(port) as early:
            assert ask(early, PREDICT, last=True).body.endswith(b'"prediction":300001.0}')
        server.signal()
        assert server.wait(5) == 0
        with socket.create_connection(("127.0.0.1", port)):  # the socket lives on
            pass


def test_ready_is_told_once_and_when_it_is_true(start_server: StartServer) -> None:
    read, write = os.pipe()
    server = start_server(pass_fds=(write,), READY_FD=str(write))
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        assert pipe.read() == b"ready\n"
    assert server.stderr == [] or server.event("ready")
    assert server.post(BODY).status_code == 200


def wait_until_refused(server: Server) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            server.connect().close()
        except ConnectionRefusedError:
            return
        except ConnectionResetError:  # it closed between the two
            pass
        time.sleep(0.05)
    pytest.fail("the server still accepts connections")


def test_a_request_that_has_begun_is_answered_after_the_signal(start_server: StartServer) -> None:
    server = start_server()
    with server.connect() as slow:
        slow.sendall(PREDICT_IRIS[:-5])
        time.sleep(0.1)
        server.signal()
        server.event("draining")
        wait_until_refused(server)
        slow.sendall(PREDICT_IRIS[-5:])
        (answer,) = read_answers(read_to_end(slow))
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert server.wait(5) == 0
    assert server.logs[-1]["event"] == "stopped"


def test_a_running_prediction_is_answered_after_the_signal(start_slow_server: StartServer) -> None:
    server = start_slow_server(1_000_000)
    with server.connect() as connection:
        connection.sendall(PREDICT)
        time.sleep(0.5)
        server.signal()
        assert server.event("draining")["in_flight"] == 1
        assert b'"prediction":1000001.0' in read_to_end(connection)
    assert server.wait(10) == 0


def test_the_grace_period_bounds_the_wait(start_server: StartServer) -> None:
    server = start_server(GRACE_SECONDS="0.2")
    with server.connect() as stuck:
        stuck.sendall(PREDICT_IRIS[: -len(BODY)])
        time.sleep(0.1)
        server.signal()
        assert server.wait(5) == 0
    assert (server.logs[-1]["event"], server.logs[-1]["unanswered"]) == ("stopped_unanswered", 1)


def test_a_run_that_takes_longer_than_the_grace_period_is_given_up(start_slow_server: StartServer) -> None:
    server = start_slow_server(2_000_000, GRACE_SECONDS="0.2")
    with server.connect() as connection:
        connection.sendall(PREDICT)
        time.sleep(0.3)
        before = time.monotonic()
        server.signal()
        assert server.wait(5) == 0
        assert time.monotonic() - before < 1.5
        assert read_to_end(connection) == b""
    assert (server.logs[-1]["event"], server.logs[-1]["unanswered"]) == ("stopped_unanswered", 1)


def test_what_is_answered_but_not_closed_by_the_client_is_not_waited_for(start_server: StartServer) -> None:
    server = start_server(GRACE_SECONDS="0.5", DRAIN_SECONDS="0.1")
    with server.connect() as lingering:
        lingering.sendall(PREDICT_IRIS[:-5])
        time.sleep(0.1)
        server.signal()
        server.event("draining")
        lingering.sendall(PREDICT_IRIS[-5:])
        assert server.wait(5) == 0
        assert lingering.recv(100).startswith(b"HTTP/1.1 200")
    assert server.logs[-1]["event"] == "stopped"


def _refusal(server: Server) -> str:
    assert server.wait() == 1
    assert len(server.stderr) == 1
    assert server.logs[0]["event"] == "cannot_start"
    assert server.process.stdout is not None
    assert server.process.stdout.read() == ""
    return server.logs[0]["reason"]


def test_a_taken_port_is_refused(start_server: StartServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        reason = _refusal(start_server(PORT=str(port)))
    assert reason == f"HOST=127.0.0.1 PORT={port}: the port is taken by another process"


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"PORT": "eighty", "MAX_ROWS": "none"}, "PORT='eighty' must be .*MAX_ROWS='none' must be "),
        ({"HOST": "192.0.2.1"}, "cannot listen there"),
        ({"API_KEY_FILE": "/does/not/exist"}, "cannot be read: No such file or directory$"),
    ],
)
def test_a_bad_environment_is_refused(start_server: StartServer, environment: dict[str, str], reason: str) -> None:
    assert re.search(reason, _refusal(start_server(**environment)))


def test_a_missing_or_broken_model_is_refused(start_server: StartServer, tmp_path: Path) -> None:
    assert "model.json cannot be read" in _refusal(start_server(MODEL_DIR=str(tmp_path)))
    (tmp_path / "model.json").write_bytes((MODEL / "model.json").read_bytes())
    (tmp_path / "model.onnx").write_bytes(b"\x08\x08")
    assert "model.onnx" in _refusal(start_server(MODEL_DIR=str(tmp_path)))


def test_a_descriptor_that_does_not_listen_is_refused(start_server: StartServer) -> None:
    with socket.socket() as silent:
        descriptor = silent.fileno()
        reason = _refusal(start_server(pass_fds=(descriptor,), LISTEN_FD=str(descriptor)))
        assert reason == f"LISTEN_FD={descriptor} is a socket that does not listen"
    with tempfile.TemporaryFile() as file:
        descriptor = file.fileno()
        assert "is not a socket" in _refusal(start_server(pass_fds=(descriptor,), LISTEN_FD=str(descriptor)))


class Load:
    """Constant predictions from threads, half on fresh connections, half on ones that live as long as they are let."""

    def __init__(self, port: int) -> None:
        self.failures: list[str] = []
        self.answers = 0
        self._port = port
        self._stop = threading.Event()
        self._threads = ThreadPoolExecutor(4)

    def _run(self, fresh: bool) -> None:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)) as connection:
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

    def __enter__(self) -> Load:
        self._runs = self._threads.map(self._run, (True, True, False, False))
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        list(self._runs)  # raises what a run has raised
        self._threads.shutdown()


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
