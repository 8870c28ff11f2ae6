"""Few open files and many clients: probes and scrapes get through, and the server says that it turned clients away."""

from __future__ import annotations

import resource
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from server.http import descriptors
from tests.app.harness import SETOSA, Server
from tests.app.test_transport import eventually, metrics
from tests.app.wire import Answer, head, post, read_answers, read_to_end

HARD, SOFT = 128, 40
BODY = f'{{"input": {SETOSA}}}'.encode()
LIVE, READY, METRICS = (head(path, method="GET") for path in ("/v2/health/live", "/v2/health/ready", "/metrics"))
BEGUN = b"POST"
"""A request's first bytes."""
LIMIT, SPARE = descriptors.share_out(HARD)


@contextmanager
def limited_server(tmp_path: Path, soft: int, hard: int) -> Iterator[Server]:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nulimit -Sn {soft}\nulimit -Hn {hard}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    server = Server({}, python=str(python))
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with limited_server(tmp_path, SOFT, HARD) as server:
        yield server


@contextmanager
def connected(server: Server, count: int, sent: bytes) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(count)]
        for client in clients:
            with suppress(ConnectionError):  # those that have made room
                client.sendall(sent)
        yield clients


def ask(server: Server, request: bytes) -> Answer:
    with server.connect() as client:
        client.sendall(request)
        (answer,) = read_answers(read_to_end(client))
    assert answer.headers["connection"] == "close"
    return answer


def test_the_soft_limit_is_raised_to_the_hard_one(server: Server) -> None:
    assert server.port
    assert resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE) == (HARD, HARD)
    assert metrics(server)["process_max_fds"] == HARD


@pytest.mark.parametrize("limit", [8, 12, 20, 63])
def test_too_few_open_files_for_the_server_itself_are_a_reason_not_to_start(tmp_path: Path, limit: int) -> None:
    with limited_server(tmp_path, limit, limit) as server:
        assert server.wait() == 1
        assert [line["event"] for line in server.logs] == ["cannot_start"]
        assert f"(ulimit -Hn) is {limit}, and the server needs 64" in server.logs[0]["reason"]


@pytest.mark.parametrize("limit", [64, HARD])
def test_the_log_says_how_many_clients_there_may_be(tmp_path: Path, limit: int) -> None:
    with limited_server(tmp_path, limit, limit) as server:
        assert server.event("ready")["connection_limit"] == descriptors.share_out(limit)[0]
        with connected(server, 4 * limit, b""):
            assert ask(server, LIVE).status == 200
        eventually(lambda: metrics(server)["model_connections"] == 1)
        assert server.post(BODY).status_code == 200


@pytest.mark.parametrize("clients", [LIMIT, LIMIT + SPARE, 4 * HARD])
def test_probes_and_scrapes_get_through_when_clients_have_used_up_the_connections(server: Server, clients: int) -> None:
    open_files = metrics(server)["process_open_fds"]
    with connected(server, clients, BEGUN):
        for _ in range(5):
            assert ask(server, LIVE).status == 200
            assert ask(server, READY).body == b'{"ready":true}'
        refused = ask(server, post("/predict", BODY))
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert b'"too_many_connections"' in refused.body
        text = ask(server, METRICS).body.decode()
        counted = next(float(line.split()[1]) for line in text.splitlines() if line.startswith("model_connections_re"))
        aborted = max(0, clients + 1 - LIMIT - SPARE)
        assert 1 + aborted <= counted <= 1 + max(0, clients - LIMIT)
    logged = eventually(lambda: [line for line in server.logs if line["event"] == "connections_refused"])
    assert (logged[0]["level"], logged[0]["limit"]) == ("warning", LIMIT)
    eventually(lambda: metrics(server)["model_connections"] == 1)
    assert server.post(BODY).status_code == 200
    assert metrics(server)["process_open_fds"] <= open_files + 1
    assert {line["event"] for line in server.logs} == {"ready", "connections_refused"}


@pytest.mark.parametrize("clients", [LIMIT, 4 * HARD])
def test_idle_clients_make_room_for_those_that_ask(server: Server, clients: int) -> None:
    with connected(server, clients, b"") as idle:
        eventually(lambda: server.post(BODY).status_code == 200, seconds=3)
        assert LIMIT - 1 <= sum(map(is_open, idle)) < min(clients, LIMIT + SPARE)


def is_open(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return bool(client.recv(1))
    except BlockingIOError:
        return True
    except ConnectionError:
        return False


def test_the_log_has_a_line_and_not_one_for_each_refused_connection(server: Server) -> None:
    with connected(server, 4 * HARD, BEGUN):
        assert ask(server, LIVE).status == 200
        eventually(lambda: len(server.logs) == 2)
        assert ask(server, post("/predict", BODY)).status == 503
        with pytest.raises(AssertionError, match="in time"):
            eventually(lambda: len(server.logs) > 2, seconds=1)
    assert [line["event"] for line in server.logs] == ["ready", "connections_refused"]


@pytest.mark.parametrize(
    ("limit", "connections", "spare"),
    [(16, 1, 8), (64, 1, 8), (128, 48, 8), (1_024, 840, 60), (20_000, 16_384, 1_024), (sys.maxsize, 16_384, 1_024)],
)
def test_the_limit_is_shared_out(limit: int, connections: int, spare: int) -> None:
    assert descriptors.share_out(limit) == (connections, spare)


def test_a_hard_limit_that_is_not_granted_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, resource.RLIM_INFINITY))
    assert descriptors.raise_limit() == 256
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    assert descriptors.raise_limit() == sys.maxsize
