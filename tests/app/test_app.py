from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from server import log
from server.app import App
from server.cors import CorsApp
from server.errors import Problem
from server.http.messages import Request, Response
from server.model.calibration import Calibration
from server.model.inputs import PlainRow, stack
from server.model.manifest import Input, Manifest, Output
from server.protocol.open_inference import V2
from server.protocol.predict_json import Decoder
from server.settings import Origins, read_settings
from server.telemetry.metrics import Metrics

KEY = b"0123456789abcdef"
BODY = b'{"input": [1, 2]}'
MANIFEST = Manifest(
    name="m",
    version="7",
    inputs=[Input(name="x", datatype="FP32", shape=[-1, 2])],
    outputs=[Output(name="y", datatype="FP32", shape=[-1])],
    example=msgspec.Raw(BODY),
)
CALIBRATION = Calibration(best_rows=100, inline_rows=100, seconds_per_row=0.001)
SETTINGS = read_settings(
    {"MAX_QUEUE_ROWS": "100", "MAX_QUEUE_BYTES": "10000", "MAX_BODY_BYTES": "10000", "MAX_ROWS": "10"}
    | {"QUEUE_SECONDS": "1", "TIMEOUT_MS": "10000"}
)


class Sums:
    """y = the sum of a row; 13 has no answer, and a row that starts with 0 is more than it can take."""

    prepares = sizes_vary = False

    def prepare(self, inputs: Any) -> Any:
        return inputs

    def row_cost(self, inputs: Any) -> int:
        raise AssertionError("all rows are alike")

    def join(self, inputs: list[Any]) -> dict[str, Any]:
        parts = [stack([each.values], MANIFEST.inputs[0]) if isinstance(each, PlainRow) else each for each in inputs]
        return {"x": np.concatenate([part["x"] for part in parts])}

    def run(self, inputs: dict[str, Any], max_rows: int) -> dict[str, Any]:
        assert max_rows == CALIBRATION.best_rows
        if (inputs["x"] == 99).any():
            raise MemoryError("secret detail")
        if not inputs["x"][:, 0].all():
            raise RuntimeError("secret detail")
        sums = inputs["x"].sum(axis=1)
        return {"y": np.where(sums == 13, np.nan, sums)}


class Served:
    """An App on an event loop that runs while it is asked something."""

    def __init__(
        self,
        runner: asyncio.Runner,
        api_key: bytes | None = None,
        *,
        loaded: bool = True,
        origins: Origins | None = None,
    ) -> None:
        self.runner = runner
        self.metrics = Metrics()
        self.app = CorsApp(self.metrics, api_key, None, origins) if origins else App(self.metrics, api_key)
        if loaded:
            self.run(self.load)

    def load(self) -> None:
        self.app.model_loaded(MANIFEST, Sums(), CALIBRATION, SETTINGS)

    def run(self, function: Callable[[], Any]) -> Any:
        async def running() -> Any:
            return function()

        return self.runner.run(running())

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> list[Response]:
        named = {name.replace("_", "-").encode(): value.encode("latin-1") for name, value in headers.items()}
        answers: list[Response] = []
        request = Request(method, path, named, answers.append, body)
        request.received = time.perf_counter()

        def handle() -> None:
            early = self.app.refuse(request)
            assert request.id
            if early:
                answers.append(early)
            else:
                self.app.handle(request)

        self.run(handle)
        return answers

    def pass_time(self, seconds: float) -> None:
        self.runner.run(asyncio.sleep(seconds))

    def call(self, method: str, path: str, body: bytes = b"", **headers: str) -> Response:
        answers = self.ask(method, path, body, **headers)
        self.pass_time(0.01)
        (response,) = answers
        return response

    def predict(self, body: bytes = BODY, **headers: str) -> tuple[int, Any]:
        response = self.call("POST", "/predict", body, **headers)
        return response.status, json.loads(response.body)


@pytest.fixture
def served(runner: asyncio.Runner) -> Served:
    return Served(runner)


def test_one_row_and_many(served: Served) -> None:
    model = {"name": "m", "version": "7"}
    assert served.predict() == (200, {"model": model, "prediction": 3})
    assert served.predict(b'{"input": [[1, 2], [3, 4]]}') == (200, {"model": model, "predictions": [3, 7]})


@pytest.mark.parametrize(
    ("body", "path"), [(b'{"input": [6, 7]}', "$.input"), (b'{"input": [[1, 2], [6, 7]]}', "$.input[1]")]
)
def test_a_row_without_an_answer_is_named(served: Served, body: bytes, path: str) -> None:
    status, answer = served.predict(body)
    assert (status, answer["error"]["code"], answer["error"]["path"]) == (422, "non_finite_output", path)


@pytest.mark.parametrize(("row", "one", "many"), [(None, "$.input", "$.input"), (1, "$.input", "$.input[1]")])
def test_what_the_model_refuses_is_named_as_its_client_knows_it(
    served: Served, monkeypatch: pytest.MonkeyPatch, row: int | None, one: str, many: str
) -> None:
    refusal = Problem(422, "bad_image", "no", row=row)

    def refuse(*_: Any) -> None:
        raise refusal

    monkeypatch.setattr(Sums, "run", refuse)
    for body, path in ((BODY, one), (b'{"input": [[1, 2], [3, 4]]}', many)):
        status, answer = served.predict(body)
        assert (status, answer["error"]) == (422, {"code": "bad_image", "message": "no", "path": path})
    assert refusal.path is None


FORMS = (
    "application/x-www-form-urlencoded",
    "application/json",
    "application/json; charset=utf-8",
    "Application/JSON",
    "",
)
OTHERS = (
    "text/plain",
    "multipart/form-data; boundary=x",
    "application/xml",
    "json",
    "application/octet-stream",
    "\xff",
)


@pytest.mark.parametrize("content_type", FORMS)
def test_content_types_that_are_taken(served: Served, content_type: str) -> None:
    assert served.predict(content_type=content_type)[0] == 200


@pytest.mark.parametrize("content_type", OTHERS)
def test_content_types_that_are_not(served: Served, content_type: str) -> None:
    status, answer = served.predict(content_type=content_type)
    assert (status, answer["error"]["code"]) == (415, "unsupported_media_type")


def test_tensors_may_be_binary(served: Served) -> None:
    assert served.call("POST", "/v2/models/m/infer", content_type="application/octet-stream").status == 400


@pytest.mark.parametrize(("encoding", "status"), [("identity", 200), ("gzip", 415), ("", 415)])
def test_content_encodings(served: Served, encoding: str, status: int) -> None:
    assert served.predict(content_encoding=encoding)[0] == status


@pytest.mark.parametrize("path", ["/", "/predict/", "/Predict", "/v2/health", "/v2/models/n", "/favicon.ico", "*"])
def test_other_paths_are_not_found(served: Served, path: str) -> None:
    response = served.call("GET", path)
    assert response.status == 404
    assert b"nothing at this path" in response.body


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/predict", "POST"),
        ("PUT", "/predict", "POST"),
        ("OPTIONS", "/predict", "POST"),
        ("POST", "/metrics", "GET, HEAD"),
        ("DELETE", "/v2/health/live", "GET, HEAD"),
        ("POST", "/v2/models/m", "GET, HEAD"),
        ("GET", "/v2/models/m/infer", "POST"),
    ],
)
def test_other_methods_are_told_which_are_allowed(served: Served, method: str, path: str, allow: str) -> None:
    response = served.call(method, path)
    assert response.status == 405
    assert dict(response.headers)["allow"] == allow


def test_errors_have_the_protocol_s_form_on_its_paths(served: Served) -> None:
    assert json.loads(served.call("GET", "/nowhere").body)["error"]["code"] == "not_found"
    assert "nothing at this path" in json.loads(served.call("GET", "/v2/nowhere").body)["error"]


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "0123456789abcdef",
        "Bearer 0123456789abcdeX",
        "Bearer 0123456789abcdef0",
        "Bearer 0123456789ABCDEF",
        "Bearer0123456789abcdef",
        "Basic 0123456789abcdef",
        "Bearer é",
    ],
)
@pytest.mark.parametrize("path", ["/predict", "/v2/models/m/infer", "/v2/models/m/versions/7/infer"])
def test_a_wrong_key_is_turned_away_by_the_head(runner: asyncio.Runner, path: str, authorization: str) -> None:
    app = Served(runner, KEY).app
    headers = {b"authorization": authorization.encode("latin-1")} if authorization else {}
    response = app.refuse(Request("POST", path, headers, lambda _: None))
    assert response
    assert response.status == 401
    assert dict(response.headers)["www-authenticate"] == "Bearer"
    assert KEY not in response.body


def test_the_right_key_is_let_in_and_only_predictions_need_it(runner: asyncio.Runner) -> None:
    served = Served(runner, KEY)
    assert served.predict(authorization=f"Bearer {KEY.decode()}")[0] == 200
    for path in ("/v2/health/live", "/v2/health/ready", "/metrics", "/docs", "/openapi.json", "/v2", "/v2/models/m"):
        assert served.call("GET", path).status == 200
        assert served.call("HEAD", path).status == 200


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR", "Bearer  "])
def test_the_scheme_of_the_key_may_have_any_case(runner: asyncio.Runner, scheme: str) -> None:
    served = Served(runner, KEY)
    assert served.predict(authorization=f"{scheme} {KEY.decode()}")[0] == 200


def test_while_it_loads_it_lives_but_predicts_nothing(runner: asyncio.Runner) -> None:
    served = Served(runner, loaded=False)
    assert served.call("GET", "/v2/health/live").status == 200
    assert served.call("GET", "/metrics").status == 200
    for method, path in (("POST", "/predict"), ("GET", "/v2/models/m"), ("POST", "/v2/models/m/infer"), ("GET", "/v2")):
        response = served.call(method, path)
        assert (response.status, dict(response.headers)["retry-after"]) == (503, "1")
    served.run(served.load)
    assert served.predict()[0] == 200
    assert served.call("GET", "/v2/models/m").status == 200


def test_who_asks_whether_it_is_ready_while_it_loads_waits_a_little_for_the_yes(runner: asyncio.Runner) -> None:
    served = Served(runner, loaded=False)
    impatient = served.ask("GET", "/v2/health/ready")
    served.pass_time(0.7)
    assert impatient == []
    patient = served.ask("GET", "/v2/health/ready")
    served.pass_time(0.15)
    assert [(no.status, no.body) for no in impatient] == [(503, b'{"ready":false}')]
    assert patient == []
    served.run(served.load)
    served.pass_time(0)
    assert [(yes.status, yes.body) for yes in patient] == [(200, b'{"ready":true}')]
    assert served.call("GET", "/v2/health/ready").status == 200
    assert served.call("GET", "/v2/models/m/ready").status == 200
    served.pass_time(0.8)
    assert len(patient) == 1


def test_who_asks_whether_it_is_ready_is_told_at_once_when_it_never_will_be(runner: asyncio.Runner) -> None:
    served = Served(runner, loaded=False)
    asking = served.ask("GET", "/v2/health/ready")
    served.run(served.app.drain)
    served.pass_time(0)
    assert [no.status for no in asking] == [503]
    served.run(served.load)
    assert served.call("GET", "/v2/health/ready").status == 503
    served.pass_time(0.9)
    assert len(asking) == 1


READINESS: dict[str, dict[str, Any]] = {
    "/v2/health/ready": {},
    "/v2/models/m/ready": {"name": "m"},
    "/v2/models/m/versions/7/ready": {"name": "m"},
}


def test_a_model_s_readiness_names_it_as_the_protocol_says(served: Served) -> None:
    for path, name in READINESS.items():
        ready = served.call("GET", path)
        assert (ready.status, json.loads(ready.body)) == (200, name | {"ready": True})


def test_draining_is_not_ready_but_still_answers(served: Served) -> None:
    assert served.call("GET", "/v2/health/ready").status == 200
    served.run(served.app.drain)
    for path, name in READINESS.items():
        ready = served.call("GET", path)
        assert (ready.status, json.loads(ready.body)) == (503, name | {"ready": False})
    assert served.call("GET", "/v2/health/live").status == 200
    assert served.predict()[0] == 200


def test_a_bug_is_answered_without_its_details_and_the_next_request_is_served(served: Served) -> None:
    status, answer = served.predict(b'{"input": [0, 0]}')
    assert (status, answer["error"]["code"]) == (500, "internal_error")
    assert "secret" not in json.dumps(answer)
    assert served.predict()[0] == 200


def test_too_little_memory_is_the_servers_failure_and_counted(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError("secret detail")

    response = served.call("POST", "/predict", b'{"input": [99, 0]}')
    assert (response.status, dict(response.headers)["retry-after"]) == (503, "1")
    assert json.loads(response.body)["error"]["code"] == "out_of_memory"
    assert b"secret" not in response.body
    assert served.predict()[0] == 200
    monkeypatch.setattr(Decoder, "decode", fail)
    monkeypatch.setattr(V2, "decode", fail)
    assert served.predict()[0] == 503
    assert served.call("POST", "/v2/models/m/infer", b"{}").status == 503
    assert b"\nmodel_requests_out_of_memory_total 3.0\n" in served.call("GET", "/metrics").body


def test_the_queue_is_bounded_by_what_its_rows_hold(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two numbers are two bytes of JSON, and 64 as they wait."""
    monkeypatch.setitem(globals(), "SETTINGS", msgspec.structs.replace(SETTINGS, max_queue_bytes=1000))
    served.run(served.load)
    answers: list[Response] = []

    def submit() -> None:
        for _ in range(20):
            request = Request("POST", "/predict", {}, answers.append, BODY)
            request.received = time.perf_counter()
            served.app.handle(request)

    served.run(submit)
    served.pass_time(0.01)
    each = len(BODY) + 64
    assert [answer.status for answer in answers].count(200) == 1000 // each
    assert len(answers) == 20


def test_a_bug_in_a_handler_too(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_accept: str) -> tuple[str, bytes]:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(served.metrics, "text", broken)
    response = served.call("GET", "/metrics")
    assert (response.status, b"secret" in response.body) == (500, False)
    assert served.predict()[0] == 200


REFUSED_TIMEOUTS = ("3600001", "0", "-1", "1.5", "1e3", "soon", "", "1, 1", "000000000001" + "9" * 5_000, "9" * 5_000)


@pytest.mark.parametrize(
    ("timeout", "status"), [("1000", 200), ("3600000", 200), *((each, 400) for each in REFUSED_TIMEOUTS)]
)
def test_a_request_s_own_timeout(served: Served, timeout: str, status: int) -> None:
    assert served.predict(x_request_timeout_ms=timeout)[0] == status


def request_id(app: App, given: bytes | None) -> bytes:
    headers = {} if given is None else {b"x-request-id": given}
    request = Request("GET", "/v2/health/live", headers, lambda _: None)
    app.refuse(request)
    return request.id


@pytest.mark.parametrize("given", [b"a", b"7f3c-AB.c:d/e", b"~" * 128])
def test_a_request_id_is_kept(served: Served, given: bytes) -> None:
    assert request_id(served.app, given) == given


@pytest.mark.parametrize(
    "given",
    [None, b"", b"~" * 129, b"a b", b"a, b", b"a\r\nset-cookie: a", b"a\n", b"a\r", b"a\0", b"\x7f", "é".encode()],
)
def test_a_request_id_is_made_where_none_can_be_kept(served: Served, given: bytes | None) -> None:
    made = [request_id(served.app, given) for _ in range(3)]
    assert len(set(made)) == 3
    assert all(re.fullmatch(rb"[0-9a-f]+-[0-9a-f]+", each) for each in made)


def test_what_is_no_proper_request_has_an_id_too(served: Served) -> None:
    request = Request("GET", "/predict", {b"x-request-id": b"mine"}, lambda _: None)
    assert served.app.problem(Problem(413, "body_too_large", "no"), request).status == 413
    assert request.id == b"mine"
    assert served.app.problem(Problem(400, "malformed_request", "no"), None).status == 400


def test_requests_are_logged_when_debugging(runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[dict[str, Any]] = []
    monkeypatch.setattr(log, "log", lambda _level, event, **fields: lines.append({"event": event, **fields}))
    monkeypatch.setattr(log.logger, "isEnabledFor", lambda _level: True)
    served = Served(runner)
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    served.predict(x_request_id="one", traceparent=trace)
    served.call("GET", "/nowhere\r\n")
    answered, missing = lines
    assert (answered["status"], answered["path"], answered["request_id"]) == (200, "/predict", "one")
    assert answered["traceparent"] == trace
    assert (missing["status"], missing["path"]) == (404, "/nowhere\r\n")


def test_metrics_count_by_path_and_code(served: Served) -> None:
    served.predict()
    served.predict(b'{"input": [[1, 2], [3, 4], [5, 6]]}')
    served.predict(b"{")
    served.call("GET", "/nowhere/1")
    served.call("GET", "/nowhere/2")
    served.app.problem(Problem(400, "malformed_request", "no"), None)
    response = served.call("GET", "/metrics")

    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.body.decode())
        for sample in family.samples
    }
    assert samples["model_requests_total", ("code", "200"), ("path", "/predict")] == 2
    assert samples["model_requests_total", ("code", "400"), ("path", "/predict")] == 1
    assert samples["model_requests_total", ("code", "404"), ("path", "other")] == 2
    assert samples["model_requests_total", ("code", "400"), ("path", "other")] == 1
    for phase in ("queue", "run", "total"):
        assert samples["model_request_duration_seconds_count", ("phase", phase)] == 2
    assert samples["model_batch_rows_sum",] == 4
    assert samples["model_waiting_rows",] == 0
    assert samples["model_info", ("name", "m"), ("version", "7")] == 1
