from __future__ import annotations

import contextlib
import http.client
import json
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.app.conftest import StartServer
from tests.app.harness import SETOSA, Server, tensor, write_model
from tests.app.wire import Answer, head, post, read_answers, read_to_end, seeded

GOOD = json.dumps({"input": SETOSA})
BAD_BODIES = [
    (b"", 400, "$"),
    (b"{", 400, "$"),
    (b"null", 422, "$"),
    (b"[1, 2, 3]", 422, "$"),
    (b"{}", 422, "$"),
    (b'{"input": [1, 2, NaN]}', 400, "$"),
    (b'{"input": [1, 2, 1e999]}', 422, "$.input[2]"),
    (b'{"input": [1, 2, null]}', 422, "$.input[2]"),
    (b'{"input": [1, 2, "3"]}', 422, "$.input[2]"),
    (b'{"input": [1, 2]}', 422, "$.input"),
    (b'{"input": [[1, 2, 3], [1, 2]]}', 422, "$.input[1]"),
    (b'{"input": [], "input": []}', 400, "$.input"),
    (b'\xef\xbb\xbf{"input": [1, 2, 3]}', 400, "$"),
    (b'{"input": [1, 2, 3]} x', 400, "$"),
    (b'{"input": "\xff"}', 422, "$.input"),
    (b'{"input": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", 400, "$"),
]


def tell(server: Server, *parts: bytes) -> list[Answer]:
    """Send `parts` on a new connection; the answers until the server closes it."""
    with server.connect() as connection:
        for part in parts:
            connection.sendall(part)
        return read_answers(read_to_end(connection))


def metrics(server: Server) -> dict[str, float]:
    lines = server.get("/metrics").text.splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def eventually(condition: Callable[[], Any], seconds: float = 10) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return value


def curl(*arguments: str) -> str:
    command = ["curl", "--silent", "--show-error", "--max-time", "10", "--noproxy", "*", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_the_curl_of_the_documentation(iris: Server) -> None:
    answer = json.loads(curl(f"{iris.url}/predict", "-d", '{"input": [1, 2, 3]}'))
    assert answer["model"] == {"name": "iris", "version": "1"}
    assert answer["prediction"]["species"] in answer["prediction"]["probabilities"]


def test_many_rows_in_order(iris: Server) -> None:
    rows = [SETOSA, [7.0, 6.1, 2.3], SETOSA]
    response = iris.post(json.dumps({"input": rows}))
    assert response.headers["content-type"] == "application/json"
    assert [row["species"] for row in response.json()["predictions"]] == ["setosa", "virginica", "setosa"]


def test_after_each_bad_input_the_next_good_one_is_answered_on_the_same_connection(iris: Server) -> None:
    with httpx.Client(base_url=iris.url, trust_env=False) as client:
        for body, status, path in BAD_BODIES:
            response = client.post("/predict", content=body)
            assert response.status_code == status, (body[:50], response.text)
            assert response.json()["error"].get("path", "$") == path, (body[:50], response.text)
            response = client.post("/predict", content=GOOD)
            assert (response.status_code, "connection" in response.headers) == (200, False)


def test_too_many_rows(iris: Server) -> None:
    response = iris.post(json.dumps({"input": [SETOSA] * 1001}))
    assert (response.status_code, response.json()["error"]["code"]) == (413, "too_many_rows")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_long_is_refused_and_the_server_goes_on(iris: Server, chunked: bool) -> None:
    body = b" " * 150_001
    response = iris.post(iter([body[:60_000], body[60_000:]]) if chunked else body)  # type: ignore[arg-type]
    assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_large")
    assert iris.post(GOOD).status_code == 200


def test_a_long_body_that_fits_is_read_whole(iris: Server) -> None:
    body = GOOD.ljust(150_000)
    assert iris.post(body).status_code == 200
    assert iris.post(iter([body[:50_000].encode(), body[50_000:].encode()])).status_code == 200  # type: ignore[arg-type]


def test_a_client_that_leaves_in_the_middle_does_no_harm(iris: Server) -> None:
    for _ in range(20):
        with iris.connect() as connection:
            connection.sendall(head("/predict", length=100) + b"{")
    assert iris.post(GOOD).status_code == 200
    assert [line for line in iris.logs if line["level"] == "error"] == []


@pytest.mark.parametrize(
    "bytes_sent",
    [b"hello\r\n\r\n", b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n", b"\x16\x03\x01\x02\x00"],
)
def test_what_is_not_http_is_answered_closed_and_the_server_goes_on(iris: Server, bytes_sent: bytes) -> None:
    (answer,) = tell(iris, bytes_sent)
    assert (answer.status, answer.headers["connection"]) == (400, "close")
    assert json.loads(answer.body)["error"]["code"] == "malformed_request"
    assert iris.post(GOOD).status_code == 200


def test_a_head_that_is_too_long(iris: Server) -> None:
    (answer,) = tell(iris, head("/predict", "a: " + "a" * 40_000, length=0))
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (431, "head_too_large")
    assert iris.post(GOOD, headers={"a": "a" * 30_000}).status_code == 200


def test_head_has_no_body(iris: Server) -> None:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", iris.port, timeout=10)) as connection:
        connection.request("HEAD", "/v2/health/ready")
        response = connection.getresponse()
        assert (response.status, response.read()) == (200, b"")


def test_a_query_does_not_matter(iris: Server) -> None:
    assert iris.get("/v2/health/live?verbose=1").json() == {"live": True}


def test_headers_that_are_not_text_do_no_harm(iris: Server) -> None:
    with iris.connect() as connection:
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\nauthorization: \xe9\xff\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")


def test_requests_sent_ahead_are_answered_in_order(iris: Server) -> None:
    rows = [[number / 100, 1, 1] for number in range(500)]
    bodies = [json.dumps({"input": row}).encode() for row in rows]
    stream = b"".join(post("/predict", body) for body in bodies)
    answers = tell(iris, stream, head("/v2/health/live", "connection: close", method="GET"))
    for body, answer in zip(bodies[::50], answers[:-1:50], strict=True):
        alone, found = iris.post(body).json(), json.loads(answer.body)
        assert found["prediction"].pop("probabilities") == pytest.approx(alone["prediction"].pop("probabilities"))
        assert found == alone
    assert [answer.status for answer in answers] == [200] * 501
    assert answers[-1].body == b'{"live":true}'


def test_a_request_id_comes_back_and_splits_no_answer(iris: Server) -> None:
    assert iris.post(GOOD, headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    assert iris.get("/nowhere").headers["x-request-id"] != iris.get("/nowhere").headers["x-request-id"]
    for given in ("a b", "a, b", "a%0d%0aset-cookie: b", "a" * 200):
        named = head("/%0d%0aset-cookie:%20b", f"x-request-id: {given}", "connection: close", method="GET")
        (answer,) = tell(iris, named)
        assert answer.status == 404
        assert answer.headers["x-request-id"] not in (given, "")
        assert "set-cookie" not in answer.headers
    (answer,) = tell(iris, head("/predict", "x-request-id: a\rset-cookie: b"))
    assert (answer.status, "set-cookie" in answer.headers) == (400, False)


def test_an_upgrade_is_not_taken_up_and_its_body_is_read(iris: Server) -> None:
    upgrade = post("/predict", GOOD.encode(), "connection: Upgrade, HTTP2-Settings", "upgrade: h2c")
    answers = tell(iris, upgrade * 2, post("/predict", b"{}", "connection: close"))
    assert [answer.status for answer in answers] == [200, 200, 422]


def test_expect_continue(iris: Server, tmp_path: Path) -> None:
    long = tmp_path / "long"
    long.write_bytes(b"x" * 200_000)
    post = ("--include", "--header", "Expect: 100-continue", f"{iris.url}/predict", "--data")
    assert curl(*post, GOOD).startswith("HTTP/1.1 100 Continue\n\nHTTP/1.1 200 OK\n")
    assert curl(*post, f"@{long}").startswith("HTTP/1.1 413 ")


@pytest.mark.parametrize("size", [10, 100_000, 5_000_000])
@pytest.mark.parametrize(
    ("path", "more", "status"),
    [("/nowhere", [], 404), ("/metrics", [], 405), ("/predict", ["content-type: text/plain"], 415)],
)
def test_an_early_no_is_read_by_a_client_that_sends_first(
    iris: Server, path: str, more: list[str], status: int, size: int
) -> None:
    with iris.connect() as connection:
        connection.sendall(head(path, *more, length=size) + b"x" * size)
        answer = connection.recv(65_536)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert (b"connection: close" in answer) == (size > 65_536)


def test_slow_clients(start_server: StartServer) -> None:
    server = start_server(READ_SECONDS="0.4")
    with server.connect() as slow_head, server.connect() as slow_body, server.connect() as deaf:
        slow_head.sendall(head("/predict")[:-2])
        slow_body.sendall(post("/predict", GOOD.encode())[:-1])
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        with pytest.raises(ConnectionError):
            deaf.sendall(head("/metrics", method="GET") * 200_000)
        for connection in (slow_head, slow_body):
            (answer,) = read_answers(read_to_end(connection))
            assert (answer.status, json.loads(answer.body)["error"]["code"]) == (408, "too_slow")
    assert server.post(GOOD).status_code == 200
    assert not [line for line in server.logs if line["level"] == "error"]


def test_the_bodies_of_all_clients_together_are_bounded(start_server: StartServer) -> None:
    server = start_server(MAX_BODY_BYTES="1000", MAX_QUEUE_BYTES="3000")
    with contextlib.ExitStack() as stack:
        others = [stack.enter_context(server.connect()) for _ in range(3)]
        for connection in others:
            connection.sendall(head("/predict", length=1_000) + b" " * 950)
        time.sleep(0.2)
        (answer,) = tell(server, post("/predict", GOOD.encode().ljust(1_000)))
        assert (answer.status, answer.headers["retry-after"]) == (429, "1")
        assert server.post(GOOD).status_code == 200
        for connection in others:
            connection.sendall(GOOD.encode().rjust(50))
            assert connection.recv(1_000).startswith(b"HTTP/1.1 200")
    assert server.post(GOOD.ljust(1_000)).status_code == 200


def test_who_leaves_while_waiting_is_not_computed_for(start_slow_server: StartServer) -> None:
    server = start_slow_server(1_000_000, QUEUE_SECONDS="1000")
    predict = post("/predict", b'{"input": [[1]]}')
    with server.connect() as first:
        first.sendall(predict)
        time.sleep(0.2)
        leaving = [server.connect() for _ in range(5)]
        for connection in leaving:
            connection.sendall(predict)
        eventually(lambda: metrics(server)["model_waiting_rows"] == 5)
        for connection in leaving:
            connection.close()
        eventually(lambda: metrics(server)["model_requests_abandoned_total"] == 5)
        assert b"1000001.0" in first.recv(1_000)
    assert server.post('{"input": [1]}').status_code == 200
    assert metrics(server)["model_batch_rows_sum"] == 2


def test_a_request_whose_time_is_up_is_not_computed(start_slow_server: StartServer) -> None:
    server = start_slow_server(400_000, QUEUE_SECONDS="1000")
    server.event("ready")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.post, '{"input": [1]}')
        time.sleep(0.1)
        late = server.post('{"input": [1]}', headers={"x-request-timeout-ms": "50"})
        assert late.status_code in (429, 504)
        assert first.result().status_code == 200
    samples = metrics(server)
    assert samples["model_requests_expired_total"] + samples["model_requests_shed_total"] == 1
    assert samples["model_batch_rows_sum"] == 1


FUZZED = [
    post("/predict", GOOD.encode()),
    head("/predict", "transfer-encoding: chunked") + b'5\r\n{"inp\r\n12;x\r\nut": [1, 2, 3.5]}  \r\n0\r\na: b\r\n\r\n',
    head("/predict", "x-request-timeout-ms: 1000", "x-request-id: a", "content-type: application/json", length=27)
    + b'{"inputs": {"features": 1}}',
    head("/v2/models/iris/infer", length=91)
    + b'{"inputs": [{"name": "features", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}\n',
    head("/v2/models/iris/infer", "inference-header-content-length: 107", length=119)
    + b'{"inputs":[{"name":"features","datatype":"FP32","shape":[1,3],"parameters":{"binary_data_size":12}}]      }'
    + np.array([1, 2, 3], np.float32).tobytes(),
    head("/predict", method="GET"),
    head("/v2/health/ready?a=b", "connection: upgrade", "upgrade: h2c", method="GET"),
]
ODD = [
    *(b"\r\n", b"\n", b"\0", b"\xff", b" ", b":", b",", b'"', b"[", b"{", b"}", b"]", b"-", b"%", b"null", b"NaN"),
    *(b"9" * 30, b"9" * 5_000, b"1e400", b"-1", b"\xed\xa0\x80", b"\\ud800", b"A" * 40_000),
    *(b"HTTP/1.0", b"[" * 2_000, b"transfer-encoding: chunked\r\n"),
    *(b"content-length: 5\r\n", b"expect: 100-continue\r\n", b"connection: close\r\n"),
]


def test_never_a_500_for_what_a_client_sent(start_server: StartServer) -> None:
    server = start_server()
    chance = seeded(6)
    statuses: Counter[int] = Counter()
    with httpx.Client(base_url=server.url, trust_env=False) as good:
        for _ in range(3_000):
            data = bytearray(chance.choice(FUZZED))
            for _ in range(chance.choice([1, 1, 2, 5])):
                at = chance.randrange(len(data))
                data[at : at + chance.choice([0, 0, 1, 3, 20])] = chance.choice(ODD)
            with server.connect() as connection:
                connection.settimeout(0.003)
                with contextlib.suppress(OSError):
                    connection.sendall(data)
                    statuses[int(connection.recv(65_536)[9:12])] += 1
            assert good.post("/predict", content=GOOD).status_code == 200
    seen = {int(name.split('code="')[1][:3]) for name in metrics(server) if name.startswith("model_requests_total")}
    assert seen | set(statuses) <= {100, 200, 400, 404, 405, 413, 415, 422, 429, 431, 501, 505}
    assert {200, 400, 404, 405, 422, 431} <= seen
    assert not [line for line in server.logs if line["level"] == "error"]


def test_the_api_key(start_server: StartServer, tmp_path: Path) -> None:
    key = "k3y-0123456789abcdef"
    file = tmp_path / "key"
    file.write_text(key + "\n")
    server = start_server(API_KEY_FILE=str(file), LOG_LEVEL="debug")
    assert server.post(GOOD).status_code == 401
    assert server.post(GOOD, headers={"authorization": f"Bearer {key}x"}).status_code == 401
    assert server.post(GOOD, headers={"authorization": f"Bearer {key}"}).status_code == 200
    assert server.get("/v2/health/ready").status_code == 200
    server.signal()
    assert server.wait() == 0
    assert key not in "".join(server.stderr)
    assert [line["status"] for line in server.logs if line["event"] == "request"] == [401, 401, 200, 200]


@pytest.fixture
def start_model(start_server: StartServer, tmp_path: Path) -> StartServer:
    return lambda nodes, **described: start_server(MODEL_DIR=str(write_model(tmp_path, nodes, **described)))


def test_an_output_that_is_not_finite_is_an_error_and_not_invalid_json(start_model: StartServer) -> None:
    server = start_model("y = Log(x)", example=[1.0])
    response = server.post('{"input": [[1], [0]]}')
    assert (response.status_code, response.json()["error"]["path"]) == (422, "$.input[1]")
    assert server.post('{"input": [1]}').json()["prediction"] == 0


def test_an_input_that_the_model_rejects_is_no_fault_of_the_server(start_model: StartServer) -> None:
    table = "table = Constant <value_floats = [1.0, 2.0]> ()"
    server = start_model(f"{table} y = Gather(table, x)", inputs=[tensor("x", "INT64", [-1, 1])], example=[0])
    response = server.post('{"input": [5]}')
    assert (response.status_code, response.json()["error"]["code"]) == (422, "model_failed")
    assert server.post('{"input": [1]}').json()["prediction"] == 2


def test_text_in_and_number_out(start_model: StartServer) -> None:
    values = r'keys_strings = ["say \"yes\"", "no"], values_floats = [1.0, 0.0], default_float = -1.0'
    nodes = f"y = ai.onnx.ml.LabelEncoder <{values}> (x)"
    server = start_model(nodes, inputs=[tensor("x", "BYTES", [-1, 1])], example=["no"])
    answer = server.post(json.dumps({"input": [['say "yes"'], ["no"], ["perhaps"]]})).json()
    assert answer["predictions"] == [1, 0, -1]


def test_a_slow_model_leaves_health_quick_and_sheds_what_it_cannot_hold(start_slow_server: StartServer) -> None:
    server = start_slow_server(150_000, MAX_QUEUE_ROWS="2")
    assert server.event("ready")["inline_rows"] == 0
    with ThreadPoolExecutor(6) as pool:
        posts = [pool.submit(server.post, f'{{"input": [{value}]}}') for value in range(6)]
        while not any(post.done() for post in posts):
            assert server.get("/v2/health/live").elapsed.total_seconds() < 1.5
        responses = [post.result() for post in posts]
    statuses = [response.status_code for response in responses]
    assert set(statuses) == {200, 429}
    for value, response in enumerate(responses):
        if response.status_code == 200:
            assert response.json()["prediction"] == 150_000 + value
        else:
            assert int(response.headers["retry-after"]) >= 1
