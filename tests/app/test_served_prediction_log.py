"""The prediction log of a server, over HTTP. What the log itself does with its lines: test_prediction_log.py."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.app.conftest import StartServer
from tests.app.harness import SETOSA, Server

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
BODY = json.dumps({"input": SETOSA})
INFER = {"inputs": [{"name": "input", "datatype": "FP32", "shape": [2, 3], "data": [*SETOSA, 6.5, 5.5, 2.0]}]}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "predictions"


def end(server: Server) -> None:
    server.signal()
    assert server.wait() == 0


def lines(*files: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_predictions_of_both_protocols_are_logged_as_they_were_sent_and_answered(
    start_server: StartServer, file: Path
) -> None:
    server = start_server(PREDICTION_LOG=str(file), PREDICTION_LOG_INPUTS="true")
    one = server.post(BODY, headers={"x-request-id": "first", "traceparent": TRACEPARENT}).json()
    many = server.post(json.dumps({"input": [SETOSA, SETOSA]})).json()
    two = server.post(json.dumps(INFER), path="/v2/models/iris/infer", headers={"x-request-id": "third"}).json()
    assert server.post('{"input": "no"}').status_code == 422
    end(server)
    first, second, third = lines(file)
    assert (first["request_id"], first["traceparent"], first["rows"]) == ("first", TRACEPARENT, 1)
    assert (first["model"], first["version"]) == ("iris", "1")
    assert 0 < first["seconds"] < 5
    assert first["inputs"]["input"] == [pytest.approx(SETOSA)]
    assert first["outputs"]["species"] == [0]
    assert first["outputs"]["probabilities"][0] == list(one["prediction"]["probabilities"].values())
    assert second["rows"] == 2
    assert second["outputs"]["probabilities"][1] == list(many["predictions"][1]["probabilities"].values())
    assert third["request_id"] == "third"
    assert third["inputs"]["input"][1] == [6.5, 5.5, 2.0]
    assert third["outputs"]["species"] == two["outputs"][0]["data"] == [0, 2]


def test_unless_it_is_asked_for_nothing_that_a_client_sent_is_written(start_server: StartServer, file: Path) -> None:
    server = start_server(PREDICTION_LOG=str(file))
    assert server.post(BODY, headers={"x-request-id": "customer-17", "traceparent": TRACEPARENT}).status_code == 200
    end(server)
    (line,) = lines(file)
    assert set(line) == {"time", "request_sha256", "model", "version", "rows", "seconds", "outputs"}
    assert line["request_sha256"] == hashlib.sha256(b"customer-17").hexdigest()


def test_lines_are_written_while_the_server_runs(start_server: StartServer, file: Path) -> None:
    server = start_server(PREDICTION_LOG=str(file))
    assert server.post(BODY).status_code == 200
    give_up = time.monotonic() + 5
    while not file.read_text() and time.monotonic() < give_up:
        time.sleep(0.05)
    assert len(lines(file)) == 1


def test_a_full_file_is_set_aside(start_server: StartServer, file: Path) -> None:
    server = start_server(PREDICTION_LOG=str(file), PREDICTION_LOG_BYTES="1024")
    for _ in range(8):
        assert server.post(BODY).status_code == 200
    end(server)
    files = sorted(file.parent.glob("predictions*"))
    assert len(files) > 1
    assert all(each.stat().st_size <= 1024 for each in files)
    assert len(lines(*files)) == 8


def test_the_rate_decides_by_the_request_id(start_server: StartServer, tmp_path: Path) -> None:
    logged: list[set[str]] = []
    for replica in ("a", "b"):
        file = tmp_path / replica
        server = start_server(PREDICTION_LOG=str(file), PREDICTION_LOG_RATE="0.5", PREDICTION_LOG_INPUTS="true")
        for number in range(40):
            assert server.post(BODY, headers={"x-request-id": f"id-{number}"}).status_code == 200
        end(server)
        logged.append({line["request_id"] for line in lines(file)})
    assert logged[0] == logged[1]
    assert 8 < len(logged[0]) < 32


@pytest.mark.parametrize(
    ("environment", "mistake"),
    [
        ({"PREDICTION_LOG": "/nowhere/at/all"}, "PREDICTION_LOG='/nowhere/at/all' cannot be written"),
        ({"PREDICTION_LOG_RATE": "2"}, "PREDICTION_LOG_RATE='2' must be a number from 0 to 1"),
        ({"PREDICTION_LOG_RATE": "nan"}, "PREDICTION_LOG_RATE='nan' must be a number from 0 to 1"),
        ({"PREDICTION_LOG_INPUTS": "yes"}, "PREDICTION_LOG_INPUTS='yes' must be true or false"),
        ({"PREDICTION_LOG_BYTES": "10"}, "PREDICTION_LOG_BYTES='10' must be a whole number"),
    ],
)
def test_a_setting_that_cannot_work_is_a_reason_not_to_start(
    start_server: StartServer, environment: dict[str, str], mistake: str
) -> None:
    server = start_server(**environment)
    assert server.wait() == 1
    assert mistake in server.event("cannot_start")["reason"]
