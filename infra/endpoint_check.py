"""`endpoint` means it answers: the URL, and the check that it has answered a prediction."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

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

PREDICT_PATH = "/predict"

RETRIED = frozenset({404, 408, 425, 429})
"""Refusals that may pass; any other 4xx says that the example itself is wrong."""

_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 10.0
_REQUEST_SECONDS = 30.0
_MAX_ANSWER_BYTES = 1024 * 1024
_SHOWN = 500
"""Characters of an answer that an error shows."""

_CHECKED_AGAIN = ("url", "release", "readiness_path", "example", "environment", "key_generation")
"""Inputs whose change asks the endpoint again; a new deadline or kubeconfig does not."""


def url(host: str, port: int, *, https: bool = False) -> str:
    """The URL of a host name or address; the scheme's own port is left out, an IPv6 address stands in brackets."""
    scheme, usual = ("https", 443) if https else ("http", 80)
    name = f"[{host}]" if ":" in host else host
    return f"{scheme}://{name}" if port == usual else f"{scheme}://{name}:{port}"


class EndpointError(Exception):
    """The endpoint has not answered a prediction."""

    def __init__(self, problem: str, *, asked: str, answer: str, details: str = "") -> None:
        """`answer` is the last one; `details` is what the cluster says about it."""
        self.asked = asked
        self.answer = answer
        super().__init__(f"{problem}\n  asked: {asked}\n  last answer: {answer}" + (f"\n{details}" if details else ""))


@dataclass(frozen=True, kw_only=True)
class EndpointCheckArgs:
    """What is asked, and for how long."""

    url: pulumi.Input[str]
    """Without a path or a trailing slash."""
    release: pulumi.Input[str]
    """Image digest or content hash: a new one asks the endpoint again."""
    readiness_path: str
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
    """Text of a kubeconfig, kept as a secret: lets a failure tell about pods and events, where kubectl is installed."""
    namespace: pulumi.Input[str] | None = None
    """Whose pods and events."""

    @classmethod
    def of(
        cls,
        settings: Settings,
        release: Release,
        *,
        url: pulumi.Input[str],
        deployed: pulumi.Input[str] | None = None,
        settle_seconds: int = 0,
        kubeconfig: pulumi.Input[str] | None = None,
        namespace: pulumi.Input[str] | None = None,
    ) -> EndpointCheckArgs:
        """What the config and the model say about it; `deployed` is the image's digest, by default the release."""
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
        )


class EndpointCheck(Resource, module="endpoint", name="EndpointCheck"):
    """Succeeds once the endpoint is ready and has answered a prediction; fails with its last answer at the deadline.

    Let it depend on everything that the endpoint needs.
    """

    url: pulumi.Output[str]
    """Known only after it has answered."""
    model_name: pulumi.Output[str | None]
    """As answered; None when the answer does not tell, as from an image in another language."""
    model_version: pulumi.Output[str | None]
    """As answered."""

    def __init__(self, name: str, args: EndpointCheckArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        props: dict[str, pulumi.Input[Any]] = {
            "url": args.url,
            "release": args.release,
            "readiness_path": args.readiness_path,
            "example": args.example,
            "timeout_seconds": args.timeout_seconds,
            "settle_seconds": args.settle_seconds,
            "namespace": args.namespace,
            "model_name": None,
            "model_version": None,
        }
        if args.environment:
            props["environment"] = dict(args.environment)
        for key, value in (("api_key", args.api_key), ("kubeconfig", args.kubeconfig)):
            if value is not None:
                props[key] = pulumi.Output.secret(value)
        super().__init__(EndpointProvider(), name, props, opts)


class EndpointProvider(ResourceProvider):
    """Runs in a process of its own, once for every change."""

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
        """Unknown values differ from what was checked, so they ask again."""
        return DiffResult(changes=any(_olds.get(key) != _news.get(key) for key in _CHECKED_AGAIN))

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Ask until it answers."""
        return CreateResult("endpoint", _checked(props, settle=0))

    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        """Ask until it answers; the version before may still be heard for a while."""
        return UpdateResult(_checked(_news, settle=float(_news.get("settle_seconds", 0))))


def _checked(props: Mapping[str, Any], settle: float) -> dict[str, Any]:
    """What the state keeps: what was checked and what was answered, no secret."""
    model_name, model_version = await_prediction(
        str(props["url"]),
        readiness_path=str(props["readiness_path"]),
        example=str(props["example"]),
        timeout=float(props["timeout_seconds"]),
        settle=settle,
        api_key=props.get("api_key"),
        details=lambda: _cluster_details(props.get("kubeconfig"), props.get("namespace")),
    )
    kept = {key: props[key] for key in _CHECKED_AGAIN if key in props}
    return {**kept, "model_name": model_name, "model_version": model_version}


@dataclass(frozen=True)
class _Answer:
    status: int
    """0: there was none, and `text` says why."""
    text: str

    def __str__(self) -> str:
        shown = self.text if len(self.text) <= _SHOWN else f"{self.text[:_SHOWN]}..."
        return f"{self.status} {shown}".rstrip() if self.status else shown


def await_prediction(
    base: str,
    *,
    readiness_path: str,
    example: str,
    timeout: float,
    settle: float = 0,
    api_key: str | None = None,
    details: Callable[[], str] = lambda: "",
) -> tuple[str | None, str | None]:
    """The model's name and version as `base` answers them to `example`, once it is ready.

    Raises EndpointError when it refuses the example for good, and after `timeout` seconds. `details` is asked then.
    """
    started = time.monotonic()
    deadline = started + timeout
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    asked, answer = "nothing", _Answer(0, "none")
    problem = f"{base} did not answer a prediction within {timeout:g} seconds"
    for left in _attempts(deadline):
        asked = f"GET {base}{readiness_path}"
        answer = _ask(base + readiness_path, None, {}, left)
        if not 200 <= answer.status < 300:
            continue
        asked = f"POST {base}{PREDICT_PATH} {example}"
        answer = _ask(base + PREDICT_PATH, example, headers, max(deadline - time.monotonic(), 1))
        if answer.status == 200:
            try:
                return _model(json.loads(answer.text))
            except (ValueError, RecursionError):
                answer = _Answer(200, f"(not JSON) {answer.text}")
        elif 400 <= answer.status < 500 and answer.status not in RETRIED and time.monotonic() - started >= settle:
            problem = f"{base} refuses the example prediction; asking again would not help"
            break
    raise EndpointError(
        problem, asked=asked, answer=_hide(api_key, str(answer)), details=_hide(api_key, details())
    ) from None


def _attempts(deadline: float) -> Iterator[float]:
    """Seconds that are left, once at once and then after growing pauses until the deadline."""
    pause = _FIRST_PAUSE
    while (left := deadline - time.monotonic()) > 0:
        yield left
        time.sleep(max(0.0, min(pause, deadline - time.monotonic())))
        pause = min(pause * 1.5, _LONGEST_PAUSE)


def _ask(address: str, body: str | None, headers: Mapping[str, str], left: float) -> _Answer:
    # Without urllib's handlers for redirects and errors every status is an answer: a redirect that is followed would
    # prove another URL.
    opener = urllib.request.OpenerDirector()
    local = _is_loopback(urllib.parse.urlsplit(address).hostname or "")
    for handler in (
        urllib.request.ProxyHandler({} if local else None),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    seconds = min(left, _REQUEST_SECONDS)
    request = urllib.request.Request(  # noqa: S310  # the handlers above know http and https only
        address,
        data=None if body is None else body.encode(),
        headers={"Accept": "application/json", **({"Content-Type": "application/json"} if body else {}), **headers},
    )
    try:
        with contextlib.closing(cast("http.client.HTTPResponse", opener.open(request, timeout=seconds))) as response:
            return _Answer(response.status, _read(response, time.monotonic() + seconds))
    except urllib.error.URLError as error:
        return _Answer(0, f"none ({error.reason})")
    except (OSError, http.client.HTTPException, ValueError) as error:
        return _Answer(0, f"none ({str(error) or type(error).__name__})")


def _read(response: http.client.HTTPResponse, deadline: float) -> str:
    """The body, or its beginning; a server that sends it a byte at a time does not hold us."""
    found = b""
    while chunk := response.read1(65536):
        found += chunk
        if len(found) > _MAX_ANSWER_BYTES or time.monotonic() > deadline:
            break
    return found.decode(errors="replace").strip()


def _is_loopback(host: str) -> bool:
    """Loopback is never asked through a proxy, whatever the environment says."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _model(answer: Any) -> tuple[str | None, str | None]:
    if not isinstance(answer, dict):
        return None, None
    model = cast("dict[str, Any]", answer).get("model")
    if not isinstance(model, dict):
        return None, None
    found = cast("dict[str, Any]", model)
    name, version = (value if isinstance(value := found.get(key), str) else None for key in ("name", "version"))
    return name, version


def _hide(secret: str | None, text: str) -> str:
    return text.replace(secret, "[secret]") if secret else text


def _cluster_details(kubeconfig: str | None, namespace: str | None) -> str:
    """Pods and latest events, as far as kubectl can tell."""
    kubectl = shutil.which("kubectl")
    if not kubeconfig or not namespace:
        return ""
    if kubectl is None:
        return f"  (with kubectl installed, pods and events of namespace {namespace} would stand here)"
    with _private_file(kubeconfig) as file:
        ask = [kubectl, f"--kubeconfig={file}", f"--namespace={namespace}", "--request-timeout=10s", "get"]
        pods = _output([*ask, "pods", "--output=wide"])
        events = _output([*ask, "events", "--sort-by=.metadata.creationTimestamp"])
    lines = ["pods:", *pods.splitlines(), "latest events:", *events.splitlines()[-15:]]
    return "\n".join(f"  {line}" for line in lines)


@contextlib.contextmanager
def _private_file(text: str) -> Generator[str]:
    """A file that only this user can read, removed afterwards."""
    handle, path = tempfile.mkstemp(prefix="kubeconfig-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        yield path
    finally:
        os.unlink(path)  # noqa: PTH108  # mkstemp's own spelling


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"({command[0]}: {error})"
    return (done.stdout or done.stderr).strip() or "(none)"
