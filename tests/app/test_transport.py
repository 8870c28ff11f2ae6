from __future__ import annotations

import http.client
import json
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from onnx import helper

from tests.app.conftest import StartServer
from tests.app.harness import SETOSA, Server, constant, slow_model, tensor, write_model
from tests.app.test_codec import BAD

GOOD = json.dumps({"input": SETOSA})


def curl(*arguments: str) -> str:
    command = ["curl", "--silent", "--show-error", "--max-time", "10", "--noproxy", "*", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_the_curl_of_the_documentation(iris: Server) -> None:
    output = curl(f"{iris.url}/predict", "-d", '{"input": [1, 2, 3]}')
    answer = json.loads(output)
    assert answer["model"] == {"name": "iris", "version": "1"}
    assert answer["prediction"]["species"] in answer["prediction"]["probabilities"]


def test_many_rows_in_order(iris: Server) -> None:
    rows = [SETOSA, [7.0, 6.1, 2.3], SETOSA]
    response = iris.post(json.dumps({"input": rows}))
    assert response.headers["content-type"] == "application/json"
    assert [row["species"] for row in response.json()["predictions"]] == ["setosa", "virginica", "setosa"]


def test_after_each_bad_input_the_next_good_one_is_answered_on_the_same_connection(iris: Server) -> None:
    with httpx.Client(base_url=iris.url, trust_env=False) as client:
        for name, body, status, code, path in BAD:
            if code == "too_many_rows":
                continue
            response = client.post("/predict", content=body)
            assert response.status_code == status, name
            error = response.json()["error"]
            assert (error["code"], error.get("path")) == (code, path), name
            assert client.post("/predict", content=GOOD).status_code == 200, name


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
        with socket.create_connection(("127.0.0.1", iris.port)) as connection:
            connection.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
    assert iris.post(GOOD).status_code == 200
    assert [line for line in iris.logs if line["level"] == "error"] == []


@pytest.mark.parametrize(
    "bytes_sent",
    [b"hello\r\n\r\n", b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n", b"\x16\x03\x01\x02\x00"],
)
def test_what_is_not_http_is_closed_and_the_server_goes_on(iris: Server, bytes_sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", iris.port), timeout=10) as connection:
        connection.sendall(bytes_sent)
        connection.shutdown(socket.SHUT_WR)
        assert not connection.recv(1000).startswith(b"HTTP/1.1 5")
    assert iris.post(GOOD).status_code == 200


def test_head_has_no_body(iris: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", iris.port, timeout=10)
    connection.request("HEAD", "/v2/health/ready")
    response = connection.getresponse()
    assert (response.status, response.read()) == (200, b"")
    connection.close()


def test_a_query_does_not_matter(iris: Server) -> None:
    assert iris.get("/v2/health/live?verbose=1").json() == {"live": True}


def test_headers_that_are_not_text_do_no_harm(iris: Server) -> None:
    with socket.create_connection(("127.0.0.1", iris.port), timeout=10) as connection:
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\nauthorization: \xe9\xff\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")


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


def test_an_output_that_is_not_finite_is_an_error_and_not_invalid_json(
    start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server(MODEL_DIR=str(write_model(tmp_path, [helper.make_node("Log", ["x"], ["y"])], example=[1.0])))
    response = server.post('{"input": [[1], [0]]}')
    assert (response.status_code, response.json()["error"]["path"]) == (422, "$.input[1]")
    assert server.post('{"input": [1]}').json()["prediction"] == 0


def test_an_input_that_the_model_rejects_is_no_fault_of_the_server(start_server: StartServer, tmp_path: Path) -> None:
    folder = write_model(
        tmp_path,
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        inputs=[tensor("x", "INT64", [-1, 1])],
        example=[0],
        initializers=[constant("table", np.float32([1, 2]))],
    )
    server = start_server(MODEL_DIR=str(folder))
    response = server.post('{"input": [5]}')
    assert (response.status_code, response.json()["error"]["code"]) == (422, "model_failed")
    assert server.post('{"input": [1]}').json()["prediction"] == 2


def test_text_in_and_number_out(start_server: StartServer, tmp_path: Path) -> None:
    encoder = helper.make_node(
        "LabelEncoder",
        ["x"],
        ["y"],
        domain="ai.onnx.ml",
        keys_strings=['say "yes"', "no"],
        values_floats=[1.0, 0.0],
        default_float=-1.0,
    )
    folder = write_model(tmp_path, [encoder], inputs=[tensor("x", "BYTES", [-1, 1])], example=["no"])
    server = start_server(MODEL_DIR=str(folder))
    answer = server.post(json.dumps({"input": [['say "yes"'], ["no"], ["perhaps"]]})).json()
    assert answer["predictions"] == [1, 0, -1]


def test_a_slow_model_leaves_health_quick_and_sheds_what_it_cannot_hold(
    start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server(MODEL_DIR=str(slow_model(tmp_path, 150_000)), MAX_ROWS="2")
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
