"""EndpointCheck against real servers on loopback."""

from __future__ import annotations

import base64
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import dill
import pytest
from pulumi.dynamic import Config, ConfigureRequest
from pulumi.runtime.rpc import UNKNOWN

from infra import http_probe
from infra.endpoint_check import (
    EndpointCheck,
    EndpointCheckArgs,
    EndpointError,
    EndpointProvider,
    await_prediction,
)
from infra.rollout import COMPLETE, RolloutError
from tests.unit import mocked
from tests.unit.api_server import api_server, deployment, kubeconfig

KEY = "correct-horse-battery-staple"
READY, PREDICT = "GET /ready", "POST /predict"
EXAMPLE = '{"input":[1,2,3]}'
GOOD = '{"model": {"name": "iris", "version": "7"}, "prediction": {"label": "setosa"}}'
CHECK = "pulumi-python:dynamic/endpoint:EndpointCheck"


@dataclass
class Server:
    """Gives each request its next scripted answer, and the last one from then on."""

    script: dict[str, list[tuple[int, str]]]
    seen: list[str] = field(default_factory=list)
    requests: list[dict[str, str]] = field(default_factory=list)
    base: str = ""

    def answer(self, asked: str) -> tuple[int, str]:
        self.seen.append(asked)
        answers = self.script[asked]
        return answers.pop(0) if len(answers) > 1 else answers[0]


Serve = Callable[..., Server]


@pytest.fixture
def serve() -> Iterator[Serve]:
    running: list[ThreadingHTTPServer] = []

    def start(*, ready: list[tuple[int, str]] | None = None, predict: list[tuple[int, str]] | None = None) -> Server:
        server = Server({READY: ready or [(200, "{}")], PREDICT: predict or [(200, GOOD)]})

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.respond("")

            def do_POST(self) -> None:
                self.respond(self.rfile.read(int(self.headers["Content-Length"])).decode())

            def respond(self, body: str) -> None:
                server.requests.append({**{k.lower(): v for k, v in self.headers.items()}, "body": body})
                status, text = server.answer(f"{self.command} {self.path}")
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("Location", text)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: Any, **__: Any) -> None:
                pass

        http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        running.append(http)
        threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        server.base = f"http://127.0.0.1:{http.server_address[1]}"
        return server

    yield start
    for http in running:
        http.shutdown()
        http.server_close()


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_probe, "_FIRST_PAUSE_SECONDS", 0.02)


def ask(base: str, timeout: float = 5, **more: Any) -> tuple[str | None, str | None]:
    return await_prediction(base, readiness_path="/ready", example=EXAMPLE, timeout_seconds=timeout, **more)


def test_it_asks_readiness_and_then_one_prediction(serve: Serve) -> None:
    server = serve()
    assert ask(server.base, api_key=KEY) == ("iris", "7")
    assert server.seen == [READY, PREDICT]
    ready, predict = server.requests
    assert "authorization" not in ready
    assert predict["authorization"] == f"Bearer {KEY}"
    assert (predict["content-type"], predict["body"]) == ("application/json", EXAMPLE)


def test_without_a_key_there_is_no_authorization(serve: Serve) -> None:
    server = serve()
    ask(server.base)
    assert all("authorization" not in request for request in server.requests)


PASSING: dict[str, dict[str, list[tuple[int, str]]]] = {
    "503 and then ready": {"ready": [(503, "loading"), (503, "loading"), (200, "")]},
    "404 and then ready": {"ready": [(404, ""), (204, "")]},
    "404 on the prediction": {"predict": [(404, ""), (200, GOOD)]},
    "408": {"predict": [(408, ""), (200, GOOD)]},
    "425": {"predict": [(425, ""), (200, GOOD)]},
    "429": {"predict": [(429, ""), (200, GOOD)]},
    "500": {"predict": [(500, ""), (200, GOOD)]},
    "503": {"predict": [(503, ""), (200, GOOD)]},
    "a redirect": {"predict": [(302, "/elsewhere"), (200, GOOD)]},
    "an answer that is not JSON": {"predict": [(200, "<html>"), (200, GOOD)]},
    "another success than 200": {"predict": [(202, GOOD), (200, GOOD)]},
}


@pytest.mark.parametrize("script", PASSING.values(), ids=PASSING.keys())
def test_what_passes_is_asked_again(serve: Serve, script: dict[str, list[tuple[int, str]]]) -> None:
    server = serve(**{key: list(answers) for key, answers in script.items()})
    assert ask(server.base) == ("iris", "7")
    assert server.seen[-2:] == [READY, PREDICT], "a server that comes back is asked for readiness again"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("[1, 2]", (None, None)),
        ("null", (None, None)),
        ('{"score": 1}', (None, None)),
        ('{"model": "iris"}', (None, None)),
        ('{"model": {"name": "iris", "version": 7}}', ("iris", None)),
    ],
)
def test_any_json_proves_an_image_in_another_language(serve: Serve, body: str, expected: Any) -> None:
    assert ask(serve(predict=[(200, body)]).base) == expected


@pytest.mark.parametrize("status", [400, 401, 403, 413, 415, 422])
def test_a_refusal_of_the_example_fails_at_once_with_the_servers_message(serve: Serve, status: int) -> None:
    message = f'{{"error": {{"code": "no", "message": "not with {KEY}", "path": "$.input"}}}}'
    server = serve(predict=[(status, message)])
    started = time.monotonic()
    with pytest.raises(EndpointError) as caught:
        ask(server.base, timeout=30, api_key=KEY)

    assert time.monotonic() - started < 5
    assert server.seen == [READY, PREDICT]
    text = str(caught.value)
    assert f"asked: POST {server.base}/predict {EXAMPLE}" in text
    assert f'last answer: {status} {{"error": {{"code": "no", "message": "not with [secret]"' in text
    assert KEY not in text


def test_after_a_change_a_refusal_by_the_version_before_is_not_final(serve: Serve) -> None:
    server = serve(predict=[(401, "old key"), (401, "old key"), (200, GOOD)])
    assert ask(server.base, settle_seconds=30) == ("iris", "7")
    with pytest.raises(EndpointError, match="refuses"):
        ask(serve(predict=[(401, "still")]).base, settle_seconds=0.2)


def fails(base: str, **more: Any) -> str:
    started = time.monotonic()
    with pytest.raises(EndpointError) as caught:
        ask(base, **{"timeout": 0.5, **more})
    assert time.monotonic() - started < 4
    assert "did not answer a prediction within 0.5 seconds" in str(caught.value)
    return str(caught.value)


def test_a_server_that_never_is_ready(serve: Serve) -> None:
    server = serve(ready=[(503, '{"error": "loading"}')])
    text = fails(server.base)
    assert f"asked: GET {server.base}/ready" in text
    assert 'last answer: 503 {"error": "loading"}' in text
    assert len(server.seen) > 3
    assert PREDICT not in server.seen


def test_an_answer_that_never_is_json(serve: Serve) -> None:
    assert "last answer: 200 (not JSON) <html>" in fails(serve(predict=[(200, "<html>")]).base)


def test_a_long_answer_is_cut(serve: Serve) -> None:
    text = fails(serve(predict=[(500, "x" * 5000)]).base)
    assert f"500 {'x' * 500}..." in text
    assert len(text) < 1000


def test_loopback_is_not_asked_through_a_proxy(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    assert ask(serve().base) == ("iris", "7")


def test_a_failure_tells_about_pods_and_events(serve: Serve) -> None:
    nowhere = kubeconfig("http://127.0.0.1:9")
    server = serve(ready=[(503, "")])
    with pytest.raises(EndpointError, match="pods and events of namespace model-1a2b cannot be read"):
        EndpointProvider().create(props(server.base, timeout_seconds=0.2, kubeconfig=nowhere, namespace="model-1a2b"))


def test_a_failed_rollout_is_told_at_once_though_the_version_before_answers(serve: Serve) -> None:
    server = serve()
    more = {"kubeconfig": kubeconfig("http://127.0.0.1:9"), "namespace": "model-1a2b", "rollout_problem": "no progress"}
    with pytest.raises(RolloutError, match=r"(?s)no progress.*version before.*model-1a2b cannot be read"):
        EndpointProvider().update("endpoint", {}, props(server.base, **more))
    assert server.seen == []


def test_a_rollout_that_is_complete_by_now_is_no_failure(serve: Serve) -> None:
    with api_server({"/apis/apps/v1/namespaces/n/deployments": [deployment(COMPLETE)]}) as api:
        more = {"kubeconfig": kubeconfig(api.url), "namespace": "n", "rollout_problem": "no progress"}
        made = EndpointProvider().create(props(serve().base, **more))
    assert (made.outs or {})["model_version"] == "7"


def test_a_failed_rollout_is_looked_at_again_by_every_up() -> None:
    known = props("http://127.0.0.1:1")
    assert not EndpointProvider().diff("endpoint", known, {**known, "rollout_problem": ""}).changes
    assert EndpointProvider().diff("endpoint", known, {**known, "rollout_problem": "no progress"}).changes


def props(base: str, **more: Any) -> dict[str, Any]:
    """As the engine gives them: whole numbers are floats."""
    return {
        "url": base, "release": "sha256:1", "readiness_path": "/ready", "example": EXAMPLE, "timeout_seconds": 5.0,
        "settle_seconds": 0.0, "key_generation": 0.0, **more,
    }  # fmt: skip


def test_what_the_state_keeps_has_no_secret(serve: Serve) -> None:
    made = EndpointProvider().create(props(serve().base, api_key=KEY, kubeconfig="kubeconfig-text", namespace="n"))
    outs = made.outs or {}
    assert made.id
    assert (outs["model_name"], outs["model_version"]) == ("iris", "7")
    assert KEY not in str(outs)
    assert "kubeconfig-text" not in str(outs)


def change_of(before: dict[str, Any], after: dict[str, Any]) -> bool | None:
    """What an `up` finds, by the engine's steps: check, create, then check and diff of the new inputs."""
    provider = EndpointProvider()
    old_inputs = provider.check({}, before).inputs
    outs = provider.create(old_inputs).outs or {}
    return provider.diff("endpoint", outs, provider.check(old_inputs, after).inputs).changes


CHANGES: dict[str, tuple[dict[str, Any], bool]] = {
    "nothing": ({}, False),
    "the release": ({"release": "sha256:2"}, True),
    "an unknown release": ({"release": UNKNOWN}, True),
    "an unknown url": ({"url": UNKNOWN}, True),
    "the example": ({"example": "{}"}, True),
    "the readiness path": ({"readiness_path": "/healthz"}, True),
    "another key": ({"api_key": "another-key-of-some-length"}, True),
    "no key": ({"api_key": None}, True),
    "the deadline": ({"timeout_seconds": 900.0}, False),
    "the settling time": ({"settle_seconds": 120.0}, False),
    "the environment": ({"environment": {"MAX_ROWS": "1"}}, True),
    "the kubeconfig": ({"kubeconfig": "new token"}, False),
}


@pytest.mark.parametrize(("change", "expected"), CHANGES.values(), ids=CHANGES.keys())
def test_what_asks_again(serve: Serve, change: dict[str, Any], expected: bool) -> None:
    before = props(serve().base, api_key=KEY, kubeconfig="token")
    del before["key_generation"]
    assert change_of(before, {**before, **change}) is expected


def test_an_update_asks_and_lets_the_version_before_go(serve: Serve) -> None:
    server = serve(predict=[(401, ""), (200, GOOD)])
    provider = EndpointProvider()
    outs = provider.update("endpoint", {}, props(server.base, release="sha256:2", settle_seconds=30.0)).outs or {}
    assert (outs["release"], outs["model_version"]) == ("sha256:2", "7")
    with pytest.raises(EndpointError, match="refuses"):
        provider.create(props(serve(predict=[(401, "")]).base, settle_seconds=30.0))


def test_a_failure_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "tracebacklimit", 1000, raising=False)
    EndpointProvider().configure(ConfigureRequest(Config({}, "project")))
    assert sys.tracebacklimit == 0


def test_the_check_on_the_wire() -> None:
    args = EndpointCheckArgs(
        url="http://lb.example.com", release="sha256:1", readiness_path="/ready", example=EXAMPLE, timeout_seconds=600,
        settle_seconds=120, api_key=KEY, kubeconfig="kubeconfig-text", namespace="model-1a2b",
    )  # fmt: skip
    run = mocked.run(lambda: EndpointCheck("endpoint", args), outputs={CHECK: {"model_name": "iris"}})
    check = run.one(CHECK)
    provider = check.inputs.pop("__provider")
    assert check.inputs == {
        "url": "http://lb.example.com", "release": "sha256:1", "readiness_path": "/ready", "example": EXAMPLE,
        "timeout_seconds": 600, "settle_seconds": 120, "namespace": "model-1a2b", "api_key": KEY,
        "kubeconfig": "kubeconfig-text",
    }  # fmt: skip
    assert check.secrets == {"api_key", "kubeconfig"}
    assert mocked.resolve(run.result.model_name).value == "iris"
    assert mocked.resolve(run.result.model_version).value is None
    assert isinstance(dill.loads(base64.b64decode(provider)), EndpointProvider)  # noqa: S301  # our own
    assert len(provider) < 200, "pickled by reference: another version of this module is no change"


def test_states_of_older_versions_find_their_provider() -> None:
    reference = base64.b64decode("gASVKgAAAAAAAACMDmluZnJhLmVuZHBvaW50lIwQRW5kcG9pbnRQcm92aWRlcpSTlCmBlC4=")
    assert type(dill.loads(reference)) is EndpointProvider  # noqa: S301  # what such a state holds


def test_without_secrets_and_namespace_nothing_is_sent_for_them() -> None:
    args = EndpointCheckArgs(url="http://x", release="1", readiness_path="/r", example="{}", timeout_seconds=1)
    check = mocked.run(lambda: EndpointCheck("endpoint", args)).one(CHECK)
    assert not check.secrets
    assert not {"api_key", "kubeconfig", "namespace"} & set(check.inputs)
