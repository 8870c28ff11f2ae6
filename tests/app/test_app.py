from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from server.app import App, ModelId, Request, Response
from server.batching import Batcher
from server.codec import Decoder
from server.manifest import Input
from server.metrics import Metrics
from server.problem import Problem

KEY = b"0123456789abcdef"


def make_app(predict: Any, api_key: bytes | None = None) -> App:
    metrics = Metrics("m", "7")
    batcher = Batcher(predict, inline_rows=100, max_rows=100, on_batch=metrics.ran)
    metrics.watch_waiting(lambda: batcher.waiting_rows)
    decoder = Decoder(Input(name="x", datatype="FP32", shape=[-1, 2]), max_rows=10)
    return App(model=ModelId("m", "7"), decoder=decoder, batcher=batcher, metrics=metrics, api_key=api_key)


def total(rows: Any) -> list[Any]:
    return [
        Problem(422, "non_finite_output", "not finite") if value == 13 else value
        for value in np.asarray(rows).sum(axis=1).tolist()
    ]


def call(app: App, method: str, path: str, body: bytes = b"", **headers: str) -> Response:
    async def read() -> bytes:
        return body

    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return asyncio.run(app.handle(Request(method, path, named.get, read)))


def predict(app: App, body: bytes = b'{"input": [1, 2]}', **headers: str) -> tuple[int, Any]:
    response = call(app, "POST", "/predict", body, **headers)
    return response.status, json.loads(response.body)


def test_one_row_and_many() -> None:
    app = make_app(total)
    assert predict(app) == (200, {"model": {"name": "m", "version": "7"}, "prediction": 3})
    assert predict(app, b'{"input": [[1, 2], [3, 4]]}') == (
        200,
        {"model": {"name": "m", "version": "7"}, "predictions": [3, 7]},
    )


@pytest.mark.parametrize(
    ("body", "path"), [(b'{"input": [6, 7]}', "$.input"), (b'{"input": [[1, 2], [6, 7]]}', "$.input[1]")]
)
def test_a_row_without_an_answer_is_named(body: bytes, path: str) -> None:
    status, answer = predict(make_app(total), body)
    assert (status, answer["error"]["code"], answer["error"]["path"]) == (422, "non_finite_output", path)


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "application/json",
        "application/json; charset=utf-8",
        "Application/JSON",
        "application/x-www-form-urlencoded",
    ],
)
def test_content_types_that_are_taken(content_type: str) -> None:
    assert predict(make_app(total), content_type=content_type)[0] == 200


@pytest.mark.parametrize("content_type", ["text/plain", "multipart/form-data; boundary=x", "application/xml", "json"])
def test_content_types_that_are_not(content_type: str) -> None:
    status, answer = predict(make_app(total), content_type=content_type)
    assert (status, answer["error"]["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize("path", ["/", "/predict/", "/Predict", "/v2/health", "/favicon.ico"])
def test_other_paths_are_not_found(path: str) -> None:
    response = call(make_app(total), "GET", path)
    assert response.status == 404
    assert json.loads(response.body)["error"]["code"] == "not_found"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/predict", "POST"),
        ("PUT", "/predict", "POST"),
        ("POST", "/metrics", "GET, HEAD"),
        ("DELETE", "/v2/health/live", "GET, HEAD"),
    ],
)
def test_other_methods_are_told_which_are_allowed(method: str, path: str, allow: str) -> None:
    response = call(make_app(total), method, path)
    assert response.status == 405
    assert dict(response.headers)["allow"] == allow


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer 0123456789abcdeX", "Bearer 0123456789abcdef0", "Basic 0123456789abcdef", "Bearer é"],
)
def test_a_wrong_key_is_turned_away_before_the_body_is_read(authorization: str) -> None:
    async def never() -> bytes:
        raise AssertionError("the body was read")

    app = make_app(total, KEY)
    response = asyncio.run(app.handle(Request("POST", "/predict", {"authorization": authorization}.get, never)))
    assert response.status == 401
    assert dict(response.headers)["www-authenticate"] == "Bearer"
    assert KEY not in response.body


def test_the_right_key_is_let_in_and_only_predictions_need_it() -> None:
    app = make_app(total, KEY)
    assert predict(app, authorization=f"Bearer {KEY.decode()}")[0] == 200
    for path in ("/v2/health/live", "/v2/health/ready", "/metrics"):
        assert call(app, "GET", path).status == 200


def test_draining_is_not_ready_and_closes_connections_but_still_answers() -> None:
    app = make_app(total)
    assert call(app, "GET", "/v2/health/ready").status == 200
    app.draining = True
    ready = call(app, "GET", "/v2/health/ready")
    assert (ready.status, json.loads(ready.body)) == (503, {"ready": False})
    assert call(app, "GET", "/v2/health/live").status == 200
    answer = call(app, "POST", "/predict", b'{"input": [1, 2]}')
    assert answer.status == 200
    assert dict(answer.headers)["connection"] == "close"


def test_a_bug_is_answered_without_its_details_and_the_next_request_is_served(caplog: pytest.LogCaptureFixture) -> None:
    def broken(rows: Any) -> list[Any]:
        if rows[0][0] == 0:
            raise RuntimeError("secret detail")
        return total(rows)

    app = make_app(broken)
    status, answer = predict(app, b'{"input": [0, 0]}')
    assert (status, answer["error"]["code"]) == (500, "internal_error")
    assert "secret" not in json.dumps(answer)
    assert predict(app)[0] == 200


def test_metrics_count_by_path_and_code() -> None:
    app = make_app(total)
    predict(app)
    predict(app, b'{"input": [[1, 2], [3, 4], [5, 6]]}')
    predict(app, b"{")
    call(app, "GET", "/nowhere/1")
    call(app, "GET", "/nowhere/2")
    response = call(app, "GET", "/metrics")

    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.body.decode())
        for sample in family.samples
    }
    assert samples["model_requests_total", ("code", "200"), ("path", "/predict")] == 2
    assert samples["model_requests_total", ("code", "400"), ("path", "/predict")] == 1
    assert samples["model_requests_total", ("code", "404"), ("path", "other")] == 2
    assert samples["model_request_seconds_count",] == 3
    assert samples["model_batch_rows_sum",] == 4
    assert samples["model_run_seconds_count",] == 2
    assert samples["model_waiting_rows",] == 0
    assert samples["model_info", ("name", "m"), ("version", "7")] == 1
