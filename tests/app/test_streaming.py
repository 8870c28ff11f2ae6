"""Answers piece by piece, from the real server with an author's generator."""

from __future__ import annotations

import hashlib
import json
import signal
import socket
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from server.streaming import accepts_json, prefers_stream
from tests.app.conftest import StartServer
from tests.app.harness import Server, tensor
from tests.app.wire import head, read_head, read_to_end

CODE = """
import time
from collections.abc import Iterator
from pathlib import Path


class Predictor:
    def __init__(self, folder: Path) -> None:
        self.trace = folder / "trace"

    def predict(self, text: str) -> Iterator[str]:
        word, _, wanted = text.partition("*")
        if word == "refused":
            raise ValueError("no such word")
        if word == "broken":
            raise RuntimeError("secret detail")
        if word == "late":
            time.sleep(0.5)
        try:
            for number in range(int(wanted or 3)):
                if word == "half" and number == 2:
                    raise ValueError("half is enough")
                if word == "slow":
                    time.sleep(0.02)
                with self.trace.open("a") as trace:
                    trace.write(f"{word} ")
                yield word * 20_000 if word == "wide" else word
        finally:
            with self.trace.open("a") as trace:
                trace.write(f"{word}-closed ")
"""
STREAM = "accept: text/event-stream"


class Event(NamedTuple):
    name: str
    data: Any


def write_predictor(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    code = textwrap.dedent(CODE)
    (folder / "predictor.py").write_text(code)
    description = {
        "name": "chat",
        "version": "1",
        "format": "python",
        "predictor": {
            "entry": "Predictor",
            "call": "row",
            "streams": True,
            "sha256": {"predictor.py": hashlib.sha256(code.encode()).hexdigest()},
        },
        "inputs": [tensor("text", "BYTES", [-1])],
        "outputs": [tensor("answer", "BYTES", [-1])],
        "example": {"input": "hi"},
    }
    (folder / "model.json").write_text(json.dumps(description))
    return folder


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = write_predictor(tmp_path_factory.mktemp("chat") / "model")
    server = Server({"MODEL_DIR": str(folder), "MAX_STREAMS": "4", "CORS_ORIGINS": "https://app.example.com"})
    server.folder = folder  # type: ignore[attr-defined]
    yield server
    server.stop()


def trace(server: Server) -> list[str]:
    return (server.folder / "trace").read_text().split()  # type: ignore[attr-defined]


def wait_until(happened: Any, seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.01)


def asked(text: str | list[str], *headers: str) -> bytes:
    body = json.dumps({"input": text}).encode()
    return head("/predict", STREAM, *headers, length=len(body)) + body


def read_until(client: socket.socket, wanted: bytes) -> bytes:
    found = b""
    while wanted not in found:
        chunk = client.recv(65_536)
        assert chunk
        found += chunk
    return found


def events(body: bytes | str) -> list[Event]:
    text = body.decode() if isinstance(body, bytes) else body
    found: list[Event] = []
    for each in text.split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in each.split("\n"))
        found.append(Event(fields.get("event", "message"), json.loads(fields["data"])))
    return found


def read_chunked(stream: bytes) -> tuple[bytes, bytes]:
    """The body and what follows it."""
    body = b""
    while True:
        size, _, stream = stream.partition(b"\r\n")
        length = int(size, 16)
        body, stream = body + stream[:length], stream[length + 2 :]
        if not length:
            return body, stream


def ask(server: Server, text: str | list[str], **headers: str) -> httpx.Response:
    named = {"accept": "text/event-stream"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return server.post(json.dumps({"input": text}), headers=named)


def metric(server: Server, line: str) -> float:
    found = [each for each in server.get("/metrics").text.splitlines() if each.startswith(f"{line} ")]
    return float(found[0].rpartition(" ")[2])


def test_pieces_come_as_events_and_the_end_says_how_many(chat: Server) -> None:
    response = ask(chat, "hi", x_request_id="mine")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-accel-buffering"] == "no"
    assert response.headers["transfer-encoding"] == "chunked"
    assert response.headers["x-request-id"] == "mine"
    end = Event("end", {"model": {"name": "chat", "version": "1"}, "pieces": 3})
    assert events(response.text) == [Event("message", "hi")] * 3 + [end]


def test_without_the_header_the_pieces_are_joined(chat: Server) -> None:
    response = chat.post(b'{"input": "hi"}')
    assert (response.status_code, response.json()["prediction"]) == (200, "hihihi")


def test_no_piece_at_all_is_an_end(chat: Server) -> None:
    assert events(ask(chat, "no*0").text) == [Event("end", {"model": {"name": "chat", "version": "1"}, "pieces": 0})]


@pytest.mark.parametrize(
    ("text", "status", "code", "path"),
    [
        ("refused", 422, "rejected_by_predictor", "$.input"),
        (["refused"], 422, "rejected_by_predictor", "$.input[0]"),
        ("broken", 500, "model_failed", None),
        (["a", "b"], 422, "not_one_row", "$.input"),
        (7, 422, "wrong_type", "$.input"),
    ],
)
def test_a_failure_before_the_first_piece_is_an_ordinary_error(
    chat: Server, text: Any, status: int, code: str, path: str | None
) -> None:
    response = ask(chat, text)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error.get("path")) == (status, code, path)
    assert "secret" not in response.text


def test_a_failure_after_pieces_is_an_event(chat: Server) -> None:
    response = ask(chat, "half")
    error = {"code": "rejected_by_predictor", "message": "half is enough", "path": "$.input"}
    assert response.status_code == 200
    assert events(response.text) == [Event("message", "half")] * 2 + [Event("error", {"error": error})]


def test_a_model_that_does_not_stream_says_so_unless_json_will_do(iris: Server) -> None:
    body = b'{"input": [5.1, 1.4, 0.2]}'
    refused = iris.post(body, headers={"accept": "text/event-stream"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (406, "not_streamed")
    for accept in ("*/*", "application/json", "text/event-stream, application/json;q=0.5", "text/event-stream, */*"):
        assert iris.post(body, headers={"accept": accept}).status_code == 200


@pytest.mark.parametrize(
    ("accept", "stream", "json_too"),
    [
        (b"text/event-stream", True, False),
        (b"Text/Event-Stream", True, False),
        (b"application/json, text/event-stream", True, True),
        (b"application/json;q=0.9, text/event-stream;q=0.5", False, True),
        (b"text/event-stream;q=0", False, False),
        (b"text/event-stream;q=x, */*;q=0", True, False),
        (b"text/html", False, False),
        (b"", False, False),
        (b",;=;q=", False, False),
    ],
)
def test_accept(accept: bytes, stream: bool, json_too: bool) -> None:
    assert (prefers_stream(accept), accepts_json(accept)) == (stream, json_too)


def test_a_connection_goes_on_after_a_stream_and_requests_sent_ahead_wait_for_its_end(chat: Server) -> None:
    with chat.connect() as client:
        plain = b'{"input": "b"}'
        client.sendall(
            asked("a") + head("/predict", length=len(plain)) + plain + asked("c", "upgrade: h2c", "connection: close")
        )
        received = read_to_end(client)
    first, _, rest = received.partition(b"\r\n\r\n")
    assert read_head(first)[1].get("connection") is None
    body, rest = read_chunked(rest)
    assert [event.data for event in events(body)[:-1]] == ["a"] * 3
    second, _, rest = rest.partition(b"\r\n\r\n")
    length = int(read_head(second)[1]["content-length"])
    assert json.loads(rest[:length])["prediction"] == "bbb"
    third, _, rest = rest[length:].partition(b"\r\n\r\n")
    assert read_head(third)[1]["connection"] == "close"
    body, rest = read_chunked(rest)
    assert ([event.data for event in events(body)[:-1]], rest) == (["c"] * 3, b"")


def test_http_1_0_gets_the_bare_events_until_the_end(chat: Server) -> None:
    with chat.connect() as client:
        client.sendall(asked("old").replace(b"HTTP/1.1", b"HTTP/1.0"))
        first, _, body = read_to_end(client).partition(b"\r\n\r\n")
    headers = read_head(first)[1]
    assert headers["connection"] == "close"
    assert "transfer-encoding" not in headers
    assert [event.name for event in events(body)] == ["message"] * 3 + ["end"]


def test_who_leaves_stops_the_generator_and_its_finally_runs(chat: Server) -> None:
    before = metric(chat, 'model_streams_total{outcome="abandoned"}')
    with chat.connect() as client:
        client.sendall(asked("slow*10000"))
        assert b"slow" in read_until(client, b"data: ")
    wait_until(lambda: "slow-closed" in trace(chat))
    assert trace(chat).count("slow") < 500
    wait_until(lambda: metric(chat, "model_active_streams") == 0)
    assert metric(chat, 'model_streams_total{outcome="abandoned"}') == before + 1


def test_a_slow_reader_stops_its_generator_and_not_the_others(chat: Server) -> None:
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", chat.port))
        client.sendall(asked("wide*100000"))
        wait_until(lambda: "wide" in trace(chat))
        reached = -1
        while (now := trace(chat).count("wide")) != reached:
            reached = now
            assert ask(chat, "other").status_code == 200
            time.sleep(0.3)
        assert reached < 1000  # of 80 kB each: what the kernel's buffers hold
        while trace(chat).count("wide") == reached:
            client.recv(1 << 20)
    wait_until(lambda: "wide-closed" in trace(chat))


def test_streams_and_whole_answers_take_turns(chat: Server) -> None:
    with chat.connect() as one, chat.connect() as two:
        one.sendall(asked("slow*100"))
        two.sendall(asked("slow*100"))
        started = time.monotonic()
        assert chat.post(b'{"input": "hi"}').status_code == 200
        assert time.monotonic() - started < 1  # the streams take four seconds
        assert one.recv(65_536)
        assert two.recv(65_536)


def test_no_more_than_so_many_at_once(chat: Server) -> None:
    wait_until(lambda: metric(chat, "model_active_streams") == 0)
    clients = [chat.connect() for _ in range(4)]
    try:
        for client in clients:
            client.sendall(asked("slow*10000"))
            assert client.recv(1024)
        assert metric(chat, "model_active_streams") == 4
        refused = ask(chat, "hi")
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_streams")
        assert refused.headers["retry-after"] == "1"
    finally:
        for client in clients:
            client.close()
    wait_until(lambda: metric(chat, "model_active_streams") == 0)
    assert ask(chat, "hi").status_code == 200


def test_the_first_piece_must_come_in_time(chat: Server) -> None:
    late = ask(chat, "late", x_request_timeout_ms="100")
    assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")
    wait_until(lambda: metric(chat, "model_active_streams") == 0)
    assert ask(chat, "slow*20", x_request_timeout_ms="200").text.count("slow") == 20


def test_the_description_has_the_stream(chat: Server, iris: Server) -> None:
    def media(server: Server) -> list[str]:
        responses = server.get("/openapi.json").json()["paths"]["/predict"]["post"]["responses"]
        assert "406" in responses
        return list(responses["200"]["content"])

    assert media(chat) == ["application/json", "text/event-stream"]
    assert media(iris) == ["application/json"]


def test_other_pages_may_read_it(chat: Server) -> None:
    origin = "https://app.example.com"
    assert ask(chat, "hi", origin=origin).headers["access-control-allow-origin"] == origin


def test_metrics(chat: Server) -> None:
    def read() -> list[float]:
        names = ('model_streams_total{outcome="completed"}', "model_stream_pieces_total")
        return [metric(chat, name) for name in (*names, "model_stream_first_piece_seconds_count")]

    before = read()
    ask(chat, "hi*5")
    assert [now - then for now, then in zip(read(), before, strict=True)] == [1, 5, 1]


def test_a_whole_answer_must_end_in_time_and_the_key_is_asked_for(start_server: StartServer, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret")
    folder = write_predictor(tmp_path / "model")
    server = start_server(MODEL_DIR=str(folder), STREAM_SECONDS="0.3", API_KEY_FILE=str(tmp_path / "key"))
    assert ask(server, "slow*10000").status_code == 401
    *pieces, last = events(ask(server, "slow*10000", authorization="Bearer secret").text)
    assert {event.name for event in pieces} == {"message"}
    assert (last.name, last.data["error"]["code"]) == ("error", "stream_too_long")
    assert "STREAM_SECONDS" in last.data["error"]["message"]
    wait_until(lambda: (folder / "trace").read_text().endswith("slow-closed "))


@pytest.mark.parametrize(("text", "last"), [("slow*20", "end"), ("slow*10000", "error")])
def test_a_stop_waits_for_a_stream_and_cuts_it_after_the_grace_period(
    start_server: StartServer, tmp_path: Path, text: str, last: str
) -> None:
    folder = write_predictor(tmp_path / "model")
    server = start_server(MODEL_DIR=str(folder), GRACE_SECONDS="1.5")
    with server.connect() as client:
        client.sendall(asked(text))
        received = read_until(client, b"data: ")
        server.signal(signal.SIGTERM)
        received += read_to_end(client)
    body, rest = read_chunked(received.partition(b"\r\n\r\n")[2])
    found = events(body)[-1]
    assert (found.name, rest) == (last, b"")
    if last == "error":
        assert found.data["error"]["code"] == "stopping"
    assert server.wait() == 0
    assert (folder / "trace").read_text().endswith("slow-closed ")
