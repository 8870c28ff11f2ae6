"""Diagnosis of a namespace, asked of an API server on loopback."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from infra.diagnose import pods_and_events, rollouts_complete
from infra.rollout import COMPLETE, GIVEN_UP
from tests.unit.api_server import api_server, deployment, kubeconfig

PODS, EVENTS = "/api/v1/namespaces/n/pods", "/api/v1/namespaces/n/events"
EXEC = "client.authentication.k8s.io/v1beta1"
DEPLOYMENTS = "/apis/apps/v1/namespaces/n/deployments"


def pod(name: str, container: dict[str, Any] | None = None, **status: Any) -> dict[str, Any]:
    described = {"name": "server", "image": "i", "imageID": "", "ready": False, "restartCount": 0, **(container or {})}
    listed = [] if container is None else [described]
    return {"metadata": {"name": name}, "status": {"phase": "Running", "containerStatuses": listed, **status}}


def event(reason: str, message: str, at: str, about: str = "p") -> dict[str, Any]:
    return {
        "metadata": {"name": reason},
        "type": "Warning",
        "reason": reason,
        "message": message,
        "lastTimestamp": at,
        "involvedObject": {"kind": "Pod", "name": about},
    }


def described(pods: list[Any], events: list[Any] | None = None, **logs: str) -> list[str]:
    content = {PODS: pods, EVENTS: events or [], **{f"{PODS}/{name}/log": text for name, text in logs.items()}}
    with api_server(content) as api:
        return [line.rstrip() for line in pods_and_events(kubeconfig(api.url), "n").splitlines()]


CRASHED = {
    "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}},
    "lastState": {"terminated": {"reason": "Error", "exitCode": 3}},
}


def test_a_crash_is_told_once_with_its_last_log_lines() -> None:
    log = "".join(f"line {number}\n" for number in range(30))
    lines = described([pod("a", CRASHED), pod("b", CRASHED), pod("c", {"ready": True})], a=log, b=log)
    reason = "container server: CrashLoopBackOff: back-off 10s, Error (exit code 3)"
    assert lines == [
        "  pods:",
        f"    a: {reason}",
        "      its last log lines:",
        *(f"        line {number}" for number in range(20, 30)),
        f"    b: {reason}",
        "    c: ready",
        "  latest events:",
        "    none",
    ]


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (
            pod("p", phase="Pending", conditions=[
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes fit"}
            ]),
            "Unschedulable: 0/1 nodes fit",
        ),
        (
            pod("p", {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}),
            "container server: ImagePullBackOff: no such image",
        ),
        (pod("p", {"state": {"waiting": {"reason": "ContainerCreating"}}}), "container server is not ready"),
        (pod("p", {"state": {"running": {}}}), "container server is not ready"),
        (pod("p", {"state": {"running": {}}, "lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}),
         "container server: OOMKilled (exit code 137)"),
        (pod("p", phase="Failed", reason="Evicted", message="the node was low on memory"),
         "Failed: Evicted: the node was low on memory"),
    ],
)  # fmt: skip
def test_a_pod_that_does_not_serve_says_why(found: dict[str, Any], reason: str) -> None:
    assert f"    p: {reason}" in described([found])


def test_without_pods_the_events_tell() -> None:
    seen = [event(f"Old{number}", "old", f"2026-11-26T10:00:{number:02}Z") for number in range(20)]
    quota = event("FailedCreate", "exceeded quota: pods=0\n", "2026-11-26T11:00:00Z", about="model-1")
    lines = described([], [quota, *seen])
    assert lines[:2] == ["  pods:", "    none"]
    assert lines[-1] == "    Warning FailedCreate Pod model-1: exceeded quota: pods=0"
    assert len(lines) == 3 + 15


def test_a_login_command_gives_the_token(tmp_path: Path) -> None:
    answer = {"apiVersion": EXEC, "kind": "ExecCredential", "status": {"token": "t"}}
    login = tmp_path / "login"
    login.write_text(f"#!{sys.executable}\nprint({json.dumps(json.dumps(answer))})\n")
    login.chmod(0o755)
    command = {"apiVersion": EXEC, "command": str(login), "args": []}
    with api_server({PODS: [], EVENTS: []}) as api:
        assert "pods:" in pods_and_events(kubeconfig(api.url, exec=command), "n")
    assert api.tokens == ["Bearer t"] * 2


@pytest.mark.parametrize(
    "config",
    [
        kubeconfig("http://127.0.0.1:9"),
        kubeconfig("http://127.0.0.1:9", exec={"apiVersion": "client.authentication.k8s.io/v1beta1", "command": "/no"}),
        kubeconfig(
            "http://127.0.0.1:9", exec={"apiVersion": "client.authentication.k8s.io/v1beta1", "command": "echo"}
        ),
        "{}",
    ],
)
def test_a_cluster_that_cannot_be_asked_hides_nothing_else(config: str) -> None:
    assert pods_and_events(config, "n").startswith("  (pods and events of namespace n cannot be read: ")
    assert rollouts_complete(config, "n") is None


def test_without_a_kubeconfig_there_is_nothing_to_tell() -> None:
    assert pods_and_events(None, "n") == pods_and_events("{}", None) == ""


@pytest.mark.parametrize(("reasons", "complete"), [([COMPLETE], True), ([GIVEN_UP], False), ([], False)])
def test_a_rollout_is_complete_when_kubernetes_says_so(reasons: list[str], complete: bool) -> None:
    with api_server({DEPLOYMENTS: [deployment(reason) for reason in reasons]}) as api:
        assert rollouts_complete(kubeconfig(api.url), "n") is complete
