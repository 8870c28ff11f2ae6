"""Why pods are not ready, in their own words: states, exit codes, events and last log lines."""

from __future__ import annotations

from typing import Any

from tests.e2e.providers.api import Api, ApiError, Object

_LOG_LINES = 10
_STARTING = {"ContainerCreating", "PodInitializing", None}


def of_deployment(api: Api, deployment: Object) -> list[str]:
    newest = _newest_replica_set(api, deployment)
    if newest is None:
        return ["there is no ReplicaSet yet"]
    found = [c["message"] for c in newest["status"].get("conditions", []) if c["type"] == "ReplicaFailure"]
    namespace, labels = deployment["metadata"]["namespace"], newest["spec"]["selector"]["matchLabels"]
    return found + of_pods(api, namespace, labels)


def of_pods(api: Api, namespace: str, labels: dict[str, str]) -> list[str]:
    """Why the pods with these labels are not ready; what several have in common is said once, of one of them."""
    said: dict[str, str] = {}
    for pod in _list(api, f"/api/v1/namespaces/{namespace}/pods", labels):
        reason, container = _of_pod(api, pod)
        if reason and reason not in said:
            log = _log(api, pod, container) if container else ""
            said[reason] = f"pod {pod['metadata']['name']}: {reason}{log}"
    return list(said.values())


def _newest_replica_set(api: Api, deployment: Object) -> Object | None:
    meta = deployment["metadata"]
    revision = "deployment.kubernetes.io/revision"
    path = f"/apis/apps/v1/namespaces/{meta['namespace']}/replicasets"
    for candidate in _list(api, path, deployment["spec"]["selector"]["matchLabels"]):
        owned = any(o["uid"] == meta["uid"] for o in candidate["metadata"].get("ownerReferences", []))
        if owned and candidate["metadata"]["annotations"].get(revision) == meta.get("annotations", {}).get(revision):
            return candidate
    return None


def _list(api: Api, path: str, labels: dict[str, str]) -> list[Object]:
    return api.get(path, labelSelector=",".join(f"{k}={v}" for k, v in labels.items()))["items"]


def _of_pod(api: Api, pod: Object) -> tuple[str, Object | None]:
    status = pod["status"]
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"{condition.get('reason')}: {condition.get('message')}", None
    for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        reason = _of_container(container)
        if reason:
            return f"container {container['name']}: {reason}", container
        if not container["ready"]:
            return f"container {container['name']} is not ready{_warnings(api, pod)}", container
    if status.get("phase") == "Failed":
        return f"{status.get('reason')}: {status.get('message')}", None
    return "", None


def _of_container(container: Object) -> str:
    state: Object = container.get("state", {})
    waiting, ended = state.get("waiting", {}), state.get("terminated", {})
    before = container.get("lastState", {}).get("terminated", {})
    parts: list[str] = []
    if waiting.get("reason") not in _STARTING:
        parts.append(f"{waiting['reason']}: {waiting.get('message', '')}".rstrip(": "))
    for end in (ended, before):
        if end and (end.get("exitCode") or end.get("reason") == "OOMKilled"):
            parts.append(f"{end.get('reason')} (exit code {end.get('exitCode')}) {end.get('message', '')}".strip())
    return ", ".join(dict.fromkeys(parts))


def _warnings(api: Api, pod: Object) -> str:
    """Such as the probe that fails or the volume that is missing."""
    meta = pod["metadata"]
    query = f"involvedObject.uid={meta['uid']},type=Warning"
    events: list[Any] = api.get(f"/api/v1/namespaces/{meta['namespace']}/events", fieldSelector=query)["items"]
    events.sort(key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "")
    texts = dict.fromkeys(f"{e['reason']}: {e['message'].strip()}" for e in events)
    return "".join(f"\n        {text}" for text in list(texts)[-3:])


def _log(api: Api, pod: Object, container: Object) -> str:
    meta = pod["metadata"]
    path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/log"
    runs = bool(container.get("state", {}).get("running"))
    for previous in (not runs and container["restartCount"] > 0, False):
        try:
            query = {"container": container["name"], "tailLines": _LOG_LINES, "previous": str(previous).lower()}
            lines = api.text(path, **query).splitlines()
        except ApiError:
            continue  # it has not run, or what it wrote is gone
        if lines:
            return "\n      its last log lines:" + "".join(f"\n        {line}" for line in lines)
    return ""
