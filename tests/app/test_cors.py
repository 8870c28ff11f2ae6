"""Pages of other origins: the listed ones read every answer, the others none, and without a list nothing changes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.errors import Problem
from server.http.messages import Request, Response
from server.settings import Origins
from tests.app.conftest import StartServer
from tests.app.harness import SETOSA
from tests.app.test_app import KEY, Served, Sums

APP, OTHER = "https://app.example.com", "http://localhost:3000"
STRANGERS = ["https://evil.example", "https://app.example.com.evil.example", "http://app.example.com"]
STRANGERS += ["https://app.example.com:8443", "HTTPS://APP.EXAMPLE.COM", "null", "*", "", f"{APP}, {OTHER}", f"{APP} "]
ORIGINS = Origins({APP.encode(), OTHER.encode()})
BEARER: dict[str, Any] = {"authorization": f"Bearer {KEY.decode()}"}
READABLE = "allow, inference-header-content-length, retry-after, www-authenticate, x-request-id"


@pytest.fixture
def served(runner: asyncio.Runner) -> Served:
    return Served(runner, KEY, origins=ORIGINS)


def cors(response: Response) -> dict[str, str]:
    return {name: value for name, value in response.headers if name.startswith("access-control-")}


def readable_by(origin: str) -> dict[str, str]:
    return {"access-control-allow-origin": origin, "access-control-expose-headers": READABLE}


@pytest.mark.parametrize("origin", [APP, OTHER])
def test_a_listed_origin_may_read_what_succeeds_and_what_fails(
    served: Served, monkeypatch: pytest.MonkeyPatch, origin: str
) -> None:
    def shed(*_: Any) -> None:
        raise Problem(429, "overloaded", "later", headers=(("retry-after", "1"),))

    answers = [
        served.call("POST", "/predict", b'{"input": [1, 2]}', origin=origin, **BEARER),
        served.call("POST", "/predict", b'{"input": [1, 2]}', origin=origin),
        served.call("POST", "/predict", b'{"input": [1, "2"]}', origin=origin, **BEARER),
        served.call("POST", "/v2/models/m/infer", b"{}", origin=origin, **BEARER),
        served.call("GET", "/predict", origin=origin),
        served.call("GET", "/nowhere", origin=origin),
        served.call("GET", "/v2/models/m/ready", origin=origin),
        served.call("GET", "/docs", origin=origin),
        served.call("GET", "/openapi.json", origin=origin),
        served.call("POST", "/predict", b'{"input": [0, 0]}', origin=origin, **BEARER),
    ]
    monkeypatch.setattr(Sums, "run", shed)
    answers.append(served.call("POST", "/predict", b'{"input": [1, 2]}', origin=origin, **BEARER))
    assert [answer.status for answer in answers] == [200, 401, 422, 422, 405, 404, 200, 200, 200, 500, 429]
    for answer in answers:
        assert cors(answer) == readable_by(origin)
        assert dict(answer.headers)["vary"] == "origin"


def test_what_does_not_get_as_far_as_a_handler_may_be_read_too(served: Served, runner: asyncio.Runner) -> None:
    loading = Served(runner, loaded=False, origins=ORIGINS).call("POST", "/predict", origin=APP)
    assert (loading.status, cors(loading)) == (503, readable_by(APP))
    request = Request("POST", "/predict", {b"origin": APP.encode()}, lambda _: None)
    assert cors(served.app.problem(Problem(413, "body_too_large", "no"), request)) == readable_by(APP)
    assert cors(served.app.problem(Problem(431, "head_too_large", "no"), None)) == {}


@pytest.mark.parametrize("origin", [None, *STRANGERS])
def test_another_origin_is_answered_but_may_not_read_it(served: Served, origin: str | None) -> None:
    headers: dict[str, Any] = {} if origin is None else {"origin": origin}
    for response in (
        served.call("POST", "/predict", b'{"input": [1, 2]}', **BEARER, **headers),
        served.call("GET", "/v2", **headers),
    ):
        assert (response.status, cors(response), dict(response.headers)["vary"]) == (200, {}, "origin")
    preflight = served.call("OPTIONS", "/predict", access_control_request_method="POST", **headers)
    assert (preflight.status, cors(preflight)) == (405, {})


def test_what_an_answer_depends_on_is_one_header(served: Served) -> None:
    assert dict(served.call("GET", "/metrics", origin=APP).headers)["vary"] == "accept, origin"


@pytest.mark.parametrize("path", ["/predict", "/v2/models/m/infer", "/v2", "/docs", "/nowhere"])
def test_a_preflight_says_what_may_be_sent(served: Served, path: str) -> None:
    response = served.call(
        "OPTIONS",
        path,
        origin=APP,
        access_control_request_method="POST",
        access_control_request_headers="authorization,content-type",
    )
    assert (response.status, response.body) == (200, b"")
    headers = cors(response)
    assert headers.items() >= readable_by(APP).items()
    assert headers["access-control-allow-methods"] == "GET, HEAD, POST"
    assert {"authorization", "content-type", "x-request-id", "x-request-timeout-ms"} < set(
        headers["access-control-allow-headers"].split(", ")
    )
    assert {"inference-header-content-length", "traceparent"} < set(headers["access-control-allow-headers"].split(", "))
    assert headers["access-control-max-age"] == "600"
    assert "access-control-allow-credentials" not in headers


def test_preflights_are_not_counted_as_predictions(served: Served) -> None:
    served.call("OPTIONS", "/predict", origin=APP, access_control_request_method="POST")
    text = served.call("GET", "/metrics").body.decode()
    assert 'model_requests_total{code="200",path="other"} 1.0' in text
    assert 'path="/predict"' not in text


def test_options_without_a_method_to_ask_for_is_no_preflight(served: Served) -> None:
    response = served.call("OPTIONS", "/predict", origin=APP)
    assert (response.status, dict(response.headers)["allow"]) == (405, "POST")
    assert cors(response) == readable_by(APP)


def test_a_preflight_gets_through_when_there_are_too_many_clients(served: Served) -> None:
    seen: dict[str, bool] = {}
    for name, method in (("preflight", "OPTIONS"), ("request", "POST")):
        headers = {b"origin": APP.encode(), b"access-control-request-method": b"POST"}
        seen[name] = served.app.vital(Request(method, "/predict", headers, lambda _: None))
    assert seen == {"preflight": True, "request": False}


def test_without_a_list_no_answer_says_anything_about_origins(runner: asyncio.Runner) -> None:
    served = Served(runner)
    for response in (
        served.call("GET", "/v2", origin=APP),
        served.call("POST", "/predict", b'{"input": [1, 2]}', origin=APP),
        served.call("OPTIONS", "/predict", origin=APP, access_control_request_method="POST"),
    ):
        assert cors(response) == {}
        assert "vary" not in dict(response.headers)


def test_a_page_s_requests_over_http(start_server: StartServer, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(KEY)
    server = start_server(CORS_ORIGINS=f"{APP},{OTHER}", API_KEY_FILE=str(key))
    with httpx.Client(base_url=server.url, trust_env=False, headers={"origin": APP}) as page:
        for _ in range(3):
            wanted = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
            preflight = page.options("/predict", headers=wanted)
            assert (preflight.status_code, preflight.content) == (200, b"")
            assert preflight.headers["x-request-id"]
            answer = page.post("/predict", content=json.dumps({"input": SETOSA}), headers=BEARER)
            assert answer.status_code == 200
            refused = page.post("/predict", content=b"{}")
            assert refused.status_code == 401
            for response in (preflight, answer, refused):
                assert response.headers["access-control-allow-origin"] == APP
                assert response.headers["vary"] == "origin"
        too_large = page.post("/predict", content=b"x" * 5_000_000, headers=BEARER)
        assert (too_large.status_code, too_large.headers["access-control-allow-origin"]) == (413, APP)


def test_a_list_with_a_mistake_is_refused_at_the_start(start_server: StartServer) -> None:
    server = start_server(CORS_ORIGINS=f"{APP},*")
    assert server.wait() == 1
    assert server.logs[0]["reason"].startswith(f"CORS_ORIGINS='{APP},*' must list origins")
