"""Diagnosis of a workload that does not answer: its rollout, why its pods do not serve, and the latest events.

The program itself asks the cluster for nothing else, and only after a failure: everything is made through Pulumi.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

import httpx2
import yaml
from lightkube import Client, KubeConfig
from lightkube.core.exceptions import ConfigError
from lightkube.core.resource import NamespacedResource
from lightkube.models.core_v1 import ContainerStatus
from lightkube.resources.apps_v1 import Deployment
from lightkube.resources.core_v1 import Event, Pod

from infra.rollout import COMPLETE

Kind = TypeVar("Kind", bound=NamespacedResource)

_MAX_EVENTS = 15
_MAX_LOG_LINES = 10
_REQUEST_SECONDS = 10.0
"""Longest wait for a connection, and for each part of an answer."""
_STARTING = frozenset({"ContainerCreating", "PodInitializing"})
_UNREACHABLE = (httpx2.HTTPError, ConfigError, OSError, ValueError, LookupError)
"""What a kubeconfig, its login command or the way to the cluster may raise."""


@contextmanager
def _connected(kubeconfig: str) -> Generator[Client]:
    """Open a client for the current context of a kubeconfig (its text). Raises what _UNREACHABLE lists."""
    config = KubeConfig.from_dict(yaml.safe_load(kubeconfig))  # pyright: ignore[reportUnknownMemberType]  # a bare dict
    with Client(config, timeout=httpx2.Timeout(_REQUEST_SECONDS)) as client:
        yield client


def _all(client: Client, kind: type[Kind], namespace: str) -> list[Kind]:
    found = client.list(kind, namespace=namespace)  # pyright: ignore[reportUnknownMemberType]  # its filters' types
    return list(cast("Iterator[Kind]", found))


def rollouts_complete(kubeconfig: str, namespace: str) -> bool | None:
    """Tell whether every Deployment of the namespace has rolled out; None when the cluster cannot be asked."""
    try:
        with _connected(kubeconfig) as client:
            statuses = [deployment.status for deployment in _all(client, Deployment, namespace)]
    except _UNREACHABLE:
        return None
    conditions = [condition for status in statuses for condition in (status.conditions if status else None) or []]
    return {each.reason for each in conditions if each.type == "Progressing"} == {COMPLETE}


def pods_and_events(kubeconfig: str | None, namespace: str | None) -> str:
    """Describe the namespace in indented lines; nothing without a kubeconfig (its text)."""
    if not kubeconfig or not namespace:
        return ""
    try:
        with _connected(kubeconfig) as client:
            lines = ["pods:", *_pods(client, namespace), "latest events:", *_events(client, namespace)]
    except _UNREACHABLE as error:
        lines = [f"(pods and events of namespace {namespace} cannot be read: {error or type(error).__name__})"]
    return "\n".join(f"  {line}" for line in lines)


def _pods(client: Client, namespace: str) -> Iterator[str]:
    """Name every pod; a reason that several have in common is given once, with the log of one of them."""
    told: set[str] = set()
    pods = _all(client, Pod, namespace)
    if not pods:
        yield "  none"
    for pod in pods:
        name = (pod.metadata and pod.metadata.name) or ""
        reason, container = _why_not_ready(pod)
        yield f"  {name}: {reason or 'ready'}"
        if container and reason not in told:
            lines = _log(client, namespace, name, container)
            yield from ["    its last log lines:", *(f"      {line}" for line in lines)] if lines else []
        told.add(reason)


def _why_not_ready(pod: Pod) -> tuple[str, str | None]:
    """Return the reason, empty for a ready pod, and the container that has a log to tell more."""
    status = pod.status
    if status is None:
        return "no status yet", None
    for condition in status.conditions or []:
        if condition.type == "PodScheduled" and condition.status == "False":
            return f"{condition.reason}: {condition.message}", None
    for container in [*(status.initContainerStatuses or []), *(status.containerStatuses or [])]:
        if reason := _of_container(container):
            return f"container {container.name}: {reason}", container.name
        if not container.ready:
            return f"container {container.name} is not ready", container.name
    if status.phase != "Running":
        return ": ".join(part for part in (status.phase, status.reason, status.message) if part), None
    return "", None


def _of_container(container: ContainerStatus) -> str:
    """Tell what it waits for and how it ended last; empty when neither says anything is wrong."""
    state, last = container.state, container.lastState
    parts: list[str] = []
    waiting = state.waiting if state else None
    if waiting and waiting.reason and waiting.reason not in _STARTING:
        parts.append(": ".join(part for part in (waiting.reason, waiting.message) if part))
    for end in (state and state.terminated, last and last.terminated):
        if end and (end.exitCode or end.reason == "OOMKilled"):
            parts.append(f"{end.reason} (exit code {end.exitCode})")
    return ", ".join(dict.fromkeys(parts))


def _log(client: Client, namespace: str, pod: str, container: str) -> list[str]:
    try:
        return list(
            client.log(pod, namespace=namespace, container=container, tail_lines=_MAX_LOG_LINES, newlines=False)
        )
    except _UNREACHABLE:  # it has not run, or what it wrote is gone
        return []


def _events(client: Client, namespace: str) -> Iterator[str]:
    """Give the latest events, the newest last; such as a quota that is used up, an image that is missing, a probe."""
    events = sorted(_all(client, Event, namespace), key=_last_seen)[-_MAX_EVENTS:]
    if not events:
        yield "  none"
    for event in events:
        about = event.involvedObject
        yield f"  {event.type} {event.reason} {about.kind} {about.name}: {(event.message or '').strip()}"


def _last_seen(event: Event) -> str:
    created = event.metadata.creationTimestamp if event.metadata else None
    return str(event.lastTimestamp or event.eventTime or created or "")
