"""`endpoint` means it answers: the check that it has answered a prediction."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import msgspec
import pulumi
from pulumi.dynamic import (
    CheckResult,
    ConfigureRequest,
    CreateResult,
    DiffResult,
    Resource,
    ResourceProvider,
    UpdateResult,
)

from infra.build_context import Release
from infra.config.schema import Settings
from infra.http_probe import Answer, ask, attempts, shorten
from infra.rollout import RolloutError
from infra.server_contract import PREDICT_PATH

RETRIED = frozenset({408, 425, 429})
"""Refusals that pass with the load or the time; any other 4xx says that the example or the key is wrong."""
_ROUTE_SECONDS = 60.0
"""How long after it was ready first an endpoint may answer 404: a gateway learns its paths one by one."""

_CHECKED_AGAIN = ("url", "release", "readiness_path", "example", "environment", "key_generation")
"""Inputs whose change asks the endpoint again; a new deadline or kubeconfig does not."""


class EndpointError(Exception):
    """The endpoint has not answered a prediction."""

    def __init__(self, problem: str, *, asked: str, answer: str, details: str = "") -> None:
        """`answer` is the last one; `details` is what the cluster says about it."""
        self.asked = asked
        self.answer = answer
        super().__init__(f"{problem}\n  asked: {asked}\n  last answer: {answer}" + (f"\n{details}" if details else ""))


@dataclass(frozen=True, kw_only=True)
class EndpointCheckArgs:
    url: pulumi.Input[str]
    """Without a path or a trailing slash."""
    release: pulumi.Input[str]
    """Image digest or content hash: a new one asks the endpoint again."""
    readiness_path: str | None
    """What must answer before a prediction is asked for; None: nothing."""
    example: str
    """JSON body of the prediction."""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    """The server's: a change asks the endpoint again."""
    timeout_seconds: int
    settle_seconds: int = 0
    """How long after a change replicas of the version before may still be reached: in that time a refusal of the
    example or of the key is not final. Nothing is waited for when the answer is good."""
    api_key: pulumi.Input[str] | None = None
    """Kept as a secret; a new key asks the endpoint again."""
    kubeconfig: pulumi.Input[str] | None = None
    """Text of a kubeconfig, kept as a secret: lets a failure tell about pods and events."""
    namespace: pulumi.Input[str] | None = None
    """Whose pods and events."""
    rollout_problem: pulumi.Input[str] | None = None
    """Says how the rollout failed, so that the version before answers, if any; empty or None: it is complete."""

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        release: Release,
        *,
        url: pulumi.Input[str],
        deployed: pulumi.Input[str] | None = None,
        settle_seconds: int = 0,
        kubeconfig: pulumi.Input[str] | None = None,
        namespace: pulumi.Input[str] | None = None,
        rollout_problem: pulumi.Input[str] | None = None,
    ) -> EndpointCheckArgs:
        """`deployed` is the image's digest; None: what runs is the release itself."""
        common = settings.common
        return cls(
            url=url,
            release=release.content_hash if deployed is None else deployed,
            readiness_path=settings.service.readiness_path,
            example=common.example or release.example,
            environment=common.environment,
            timeout_seconds=common.endpoint_timeout_seconds,
            settle_seconds=settle_seconds,
            api_key=common.api_key.output() if common.api_key else None,
            kubeconfig=kubeconfig,
            namespace=namespace,
            rollout_problem=rollout_problem,
        )


class EndpointCheck(Resource, module="endpoint", name="EndpointCheck"):
    """Succeeds once the rollout is complete and the endpoint has answered a prediction; fails with its last answer.

    Let it depend on everything that the endpoint needs.
    """

    url: pulumi.Output[str]
    """Known only after it has answered."""
    model_name: pulumi.Output[str | None]
    """Name in the answer; None when the answer does not tell, as from an image in another language."""
    model_version: pulumi.Output[str | None]
    """Version in the answer."""

    def __init__(self, name: str, args: EndpointCheckArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        props: dict[str, Any] = {**vars(args), "model_name": None, "model_version": None}
        # Without any, the property is not sent: what states hold has none either.
        props["environment"] = dict(args.environment) or None
        for key in ("api_key", "kubeconfig"):
            props[key] = None if props[key] is None else pulumi.Output.secret(props[key])
        super().__init__(EndpointProvider(), name, props, opts)


class EndpointProvider(ResourceProvider):
    """Runs in a process of its own, once for every change; the state names it by module and class."""

    # Nothing secret is captured, and a plain value can be compared between two versions of this program.
    serialize_as_secret_always = False

    def configure(self, req: ConfigureRequest) -> None:  # noqa: ARG002  # the base class's signature
        """Make failures one message instead of a traceback: that is what the engine's dynamic host prints."""
        sys.tracebacklimit = 0

    def check(self, _olds: dict[str, Any], news: dict[str, Any]) -> CheckResult:
        """Count the changes of the key, so that a state without the key can tell that there was one."""
        generation = int(_olds.get("key_generation", 0))
        if _olds and _olds.get("api_key") != news.get("api_key"):
            generation += 1
        return CheckResult({**news, "key_generation": generation}, [])

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        """Compare what was checked with what is to be; unknown values differ, so they ask again."""
        changed = any(_olds.get(key) != _news.get(key) for key in _CHECKED_AGAIN)
        return DiffResult(changes=changed or bool(_news.get("rollout_problem")))

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Ask until it answers."""
        return CreateResult("endpoint", _checked(props, settle_seconds=0))

    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        """Ask until it answers; the version before may still be heard for a while."""
        return UpdateResult(_checked(_news, settle_seconds=float(_news.get("settle_seconds", 0))))


@dataclass(frozen=True)
class _Cluster:
    """The cluster behind the endpoint, if it is on one; its client is imported only after a failure."""

    kubeconfig: str | None
    namespace: str | None

    def has_rolled_out(self) -> bool:
        """Look again whether the rollout that had failed is complete by now."""
        from infra.diagnose import rollouts_complete

        return bool(self.kubeconfig and self.namespace and rollouts_complete(self.kubeconfig, self.namespace))

    def details(self) -> str:
        """Describe pods and events in indented lines."""
        from infra.diagnose import pods_and_events

        return pods_and_events(self.kubeconfig, self.namespace)


def _checked(props: Mapping[str, Any], settle_seconds: float) -> dict[str, Any]:
    """Await a prediction and return what the state keeps: what was checked and what was answered, no secret."""
    cluster = _Cluster(props.get("kubeconfig"), props.get("namespace"))
    if (problem := props.get("rollout_problem")) and not cluster.has_rolled_out():
        raise RolloutError(str(problem), _hide(props.get("api_key"), cluster.details()))
    model_name, model_version = await_prediction(
        str(props["url"]),
        readiness_path=props.get("readiness_path"),
        example=str(props["example"]),
        timeout_seconds=float(props["timeout_seconds"]),
        settle_seconds=settle_seconds,
        api_key=props.get("api_key"),
        details=cluster.details,
    )
    kept = {key: props[key] for key in _CHECKED_AGAIN if key in props}
    return {**kept, "model_name": model_name, "model_version": model_version}


def await_prediction(
    base: str,
    *,
    readiness_path: str | None,
    example: str,
    timeout_seconds: float,
    settle_seconds: float = 0,
    api_key: str | None = None,
    details: Callable[[], str] = lambda: "",
) -> tuple[str | None, str | None]:
    """Wait until `base` is ready and answers `example`; the model's name and version as it answers them.

    Raises EndpointError when its answer is wrong for good, and after `timeout_seconds`. `details` is asked then.
    """
    started = time.monotonic()
    deadline = started + timeout_seconds
    ready_since: float | None = None
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    asked, answer = "nothing", Answer(0, b"none")
    problem = f"{base} did not answer a prediction within {timeout_seconds:g} seconds"
    for left in attempts(deadline):
        if readiness_path:
            asked = f"GET {base}{readiness_path}"
            answer = ask(base + readiness_path, None, {}, left)
            if not 200 <= answer.status < 300:
                continue
        asked = f"POST {base}{PREDICT_PATH} {shorten(example)}"
        answer = ask(base + PREDICT_PATH, example, headers, max(deadline - time.monotonic(), 1))
        now = time.monotonic()
        ready_since = ready_since or now
        if answer.status == 200 and answer.flaw is None:
            try:
                return _model_of(answer.body)
            except (msgspec.DecodeError, RecursionError):
                answer = replace(answer, flaw="not JSON")
        if answer.flaw == "too long":
            problem = f"{base} answers the example prediction without end; asking again would not help"
            break
        is_refusal = 400 <= answer.status < 500 and answer.status not in RETRIED
        may_pass = now - started < settle_seconds or (answer.status == 404 and now - ready_since < _ROUTE_SECONDS)
        if is_refusal and not may_pass:
            problem = f"{base} refuses the example prediction; asking again would not help"
            break
    raise EndpointError(problem, asked=asked, answer=_hide(api_key, str(answer)), details=_hide(api_key, details()))


class _Prediction(msgspec.Struct):
    """The only part of an answer that is kept."""

    model: Any = None


def _model_of(body: bytes | bytearray) -> tuple[str | None, str | None]:
    """Read the model's name and version, and check that the whole is JSON, without building the rest of it."""
    msgspec.json.decode(body, type=msgspec.Raw)
    try:
        model = msgspec.json.decode(body, type=_Prediction).model
    except msgspec.ValidationError:  # another JSON value than an object
        return None, None
    if not isinstance(model, dict):
        return None, None
    found = cast("dict[str, Any]", model)
    name, version = (value if isinstance(value := found.get(key), str) else None for key in ("name", "version"))
    return name, version


def _hide(secret: str | None, text: str) -> str:
    return text.replace(secret, "[secret]") if secret else text
