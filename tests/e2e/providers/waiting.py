"""Waits until an object does what it is there for, or is gone; what takes too long is an error that says why."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.e2e.providers import reasons
from tests.e2e.providers.api import Api, Object
from tests.standins.cloud import CloudError

DEFAULT_SECONDS = 600.0
_PAUSE = 0.2
_SETTLED_SECONDS = 2.0
"""A failure that was there before a change is not the change's: it has to stay this long."""


class NotReadyError(CloudError):
    """The object is there and does not work."""

    def __init__(self, message: str, live: Object) -> None:
        super().__init__(message)
        self.live = live


@dataclass(frozen=True)
class State:
    waits_for: str = ""
    """Empty: it works."""
    failed: str = ""
    """It will not work by waiting."""
    why: Callable[[], list[str]] = list
    """Asked only when it is time to complain."""


@dataclass(frozen=True)
class Limits:
    seconds: float
    stopped: threading.Event


def until_ready(api: Api, path: str, live: Object, limits: Limits) -> Object:
    """The object once it works. Raises NotReadyError."""
    state = _STATES.get((live["apiVersion"], live["kind"]))
    if state is None:
        return live
    start, seconds = time.monotonic(), limits.seconds or DEFAULT_SECONDS
    while True:
        now = state(api, live)
        waited = time.monotonic() - start
        if not now.waits_for and not now.failed:
            return live
        if now.failed and waited > _SETTLED_SECONDS:
            raise _not_ready(live, now.failed, now)
        if limits.stopped.wait(_PAUSE):
            raise _not_ready(live, f"cancelled while waiting for {now.waits_for}", State())
        if waited > seconds:
            raise _not_ready(live, f"waited {seconds:.0f} s in vain for {now.waits_for}", now)
        found = api.find(path)
        if found is None:
            raise CloudError(f"{_name(live)} was deleted while it was waited for")
        live = found


def check_ready(api: Api, live: Object) -> None:
    """Raises NotReadyError if the object does not work at this moment."""
    state = _STATES.get((live["apiVersion"], live["kind"]))
    now = state(api, live) if state else State()
    if now.failed or now.waits_for:
        raise _not_ready(live, now.failed or f"it still waits for {now.waits_for}", now)


def until_gone(api: Api, path: str, live: Object, limits: Limits) -> None:
    """Returns when the object, not another of its name, is gone."""
    uid, deadline = live["metadata"]["uid"], time.monotonic() + (limits.seconds or DEFAULT_SECONDS)
    while (found := api.find(path)) and found["metadata"]["uid"] == uid:
        if time.monotonic() > deadline:
            raise CloudError(f"{_name(found)} is still there: {_keeps(found)}")
        if limits.stopped.wait(_PAUSE):
            raise CloudError(f"cancelled while waiting for the end of {_name(found)}")


def _keeps(live: Object) -> str:
    finalizers = live["metadata"].get("finalizers", []) + live.get("spec", {}).get("finalizers", [])
    conditions = [c["message"] for c in live.get("status", {}).get("conditions", []) if c.get("status") == "True"]
    return "; ".join([f"finalizers {', '.join(finalizers) or 'none'}", *conditions])


def _name(live: Object) -> str:
    return f"{live['kind']} {live['metadata'].get('namespace', '')}/{live['metadata']['name']}".replace(" /", " ")


def _not_ready(live: Object, what: str, state: State) -> NotReadyError:
    lines = "".join(f"\n    {reason}" for reason in state.why())
    return NotReadyError(f"{_name(live)} does not work: {what}{lines}", live)


def _deployment(api: Api, live: Object) -> State:
    """As `kubectl rollout status` has it."""
    spec, status, wanted = live["spec"], live.get("status", {}), live["spec"].get("replicas", 1)

    def why() -> list[str]:
        return reasons.of_deployment(api, live)

    if status.get("observedGeneration", 0) < live["metadata"]["generation"]:
        return State("the rollout to begin", why=why)
    updated, available = status.get("updatedReplicas", 0), status.get("availableReplicas", 0)
    if updated >= wanted and status.get("replicas", 0) == updated and available >= updated:
        return State()
    failed = ""
    for condition in status.get("conditions", []):
        if condition["type"] == "Progressing" and condition.get("reason") == "ProgressDeadlineExceeded":
            failed = f"no progress within {spec.get('progressDeadlineSeconds', 600)} s (ProgressDeadlineExceeded)"
    old = status.get("replicas", 0) - updated
    waits_for = f"{wanted} new pods: {updated} are there, {available} pods are available, {old} old ones remain"
    return State(waits_for, failed, why)


def _service(api: Api, live: Object) -> State:
    """It leads to a pod, and whoever wanted a load balancer has its address."""
    meta, spec = live["metadata"], live["spec"]
    selector = spec.get("selector")
    if selector and spec.get("type") != "ExternalName":
        path = f"/apis/discovery.k8s.io/v1/namespaces/{meta['namespace']}/endpointslices"
        slices = api.get(path, labelSelector=f"kubernetes.io/service-name={meta['name']}")["items"]
        ends = [end for each in slices for end in each.get("endpoints") or []]
        if not any((end.get("conditions") or {}).get("ready") for end in ends):

            def why() -> list[str]:
                found = reasons.of_pods(api, meta["namespace"], selector)
                return found or [f"no pod has the labels {selector}"]

            return State("a ready pod to lead to", why=why)
    ingress = live.get("status", {}).get("loadBalancer", {}).get("ingress")
    if spec.get("type") == "LoadBalancer" and not ingress:
        return State("an address of its load balancer: does a controller of the cluster give them?")
    return State()


_STATES: dict[tuple[str, str], Callable[[Api, Object], State]] = {
    ("apps/v1", "Deployment"): _deployment,
    ("v1", "Service"): _service,
}
