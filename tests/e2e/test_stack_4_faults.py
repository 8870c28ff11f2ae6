"""Pods, the node's daemon and `pulumi` itself are killed. State after: model version 6, three pods."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cluster import ClusterError
from tests.e2e.load import Traffic
from tests.e2e.stack import Stack, wait_for

EAT = """
import os, pathlib, time
# The kernel ends the process with the highest score: the server, as long as it is larger than each of those that eat.
pathlib.Path("/proc/1/oom_score_adj").write_text("1000")
while True:
    if not os.fork():
        eaten = bytearray(20 << 20)
        time.sleep(60)
    time.sleep(0.1)
"""


def restarts(stack: Stack, pod: str) -> int:
    (found,) = (each for each in stack.pods() if each["metadata"]["name"] == pod)
    return found["status"]["containerStatuses"][0]["restartCount"]


def server_of(stack: Stack, pod: dict[str, Any]) -> str:
    look = f"cd /proc; grep -l {pod['metadata']['uid']} [0-9]*/cgroup; pgrep -f '^python -m server'"
    groups = stack.live.exec(["sh", "-c", look]).split()
    (found,) = {group.removesuffix("/cgroup") for group in groups if "/" in group} & set(groups)
    return found


def failing_seconds(sent: Traffic) -> float:
    """From the first failed request to the last."""
    lost = sent.lost
    return max(each.last for each in lost) - min(each.first for each in lost) if lost else 0


def below(pid: int) -> set[int]:
    """The processes that this one has started, and theirs."""
    found, last = {pid}, set[int]()
    parents = {int(file.parent.name): parent(file) for file in Path("/proc").glob("[0-9]*/stat")}
    while found != last:
        last = found
        found = found | {child for child, of in parents.items() if of in found}
    return found - {pid}


def parent(stat: Path) -> int:
    try:
        return int(stat.read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
        return 0


def all_serve(stack: Stack) -> None:
    wait_for("three ready pods", lambda: len(stack.ready()) == len(stack.pods()) == 3, 60)
    assert stack.predict().status_code == 200


def test_a_killed_server_is_back_within_seconds(served: Stack) -> None:
    victim = served.ready()[0]
    name = victim["metadata"]["name"]
    before = restarts(served, name)
    with served.traffic() as sent:
        try:
            served.live.exec(["kill", "-9", server_of(served, victim)])
        except ClusterError as error:
            pytest.skip(str(error))
        wait_for("a restart", lambda: restarts(served, name) == before + 1)
        all_serve(served)
    assert failing_seconds(sent) < 5
    assert sum(each.count for each in sent.lost) < sent.requests / 4


def test_a_drain_takes_what_the_budget_allows_and_loses_no_request(served: Stack) -> None:
    (node,) = {pod["spec"]["nodeName"] for pod in served.ready()}
    only = ["--pod-selector=app.kubernetes.io/name=model-endpoint", "--ignore-daemonsets", "--delete-emptydir-data"]
    with served.traffic() as sent:
        try:
            with pytest.raises(ClusterError, match="disruption budget"):
                served.live.kubectl("drain", node, *only, "--timeout=20s")
            assert len(served.ready()) == 2
        finally:
            served.live.kubectl("uncordon", node)
        all_serve(served)
    assert not sent.lost, sent.lost


def test_the_kubelet_may_restart(served: Stack) -> None:
    before = {pod["metadata"]["uid"] for pod in served.ready()}
    with served.traffic() as sent:
        try:
            served.live.restart_kubelet()
        except ClusterError as error:
            pytest.skip(str(error))
        wait_for("the same ready pods", lambda: {pod["metadata"]["uid"] for pod in served.ready()} == before)
    # A new kubelet takes a pod for ready only when it has probed it itself, and here all pods are on the one node.
    assert failing_seconds(sent) < 5


def test_a_pod_that_fills_its_memory_is_restarted(served: Stack) -> None:
    victim = served.ready()[0]["metadata"]["name"]
    before = restarts(served, victim)
    with served.traffic() as sent:
        with pytest.raises(ClusterError):
            served.python(victim, EAT)
        wait_for("a restart", lambda: restarts(served, victim) == before + 1)
        all_serve(served)
    (pod,) = (pod for pod in served.pods() if pod["metadata"]["name"] == victim)
    assert pod["status"]["containerStatuses"][0]["lastState"]["terminated"]["reason"] == "OOMKilled"
    assert failing_seconds(sent) < 5


def test_a_killed_up_leaves_a_state_that_the_next_one_mends(served: Stack) -> None:
    before = served.deployment()["metadata"]["generation"]
    served.ship_model("6", factor=0.4)
    with served.traffic() as sent:
        up = served.begin_up()
        try:
            wait_for("the rollout", lambda: served.deployment()["metadata"]["generation"] > before, 60)
            time.sleep(2)
        finally:
            plugins = below(up.pid)  # the official ones outlive a killed engine for minutes
            up.send_signal(signal.SIGKILL)
            up.communicate(timeout=30)
            for plugin in plugins:
                with suppress(ProcessLookupError):
                    os.kill(plugin, signal.SIGKILL)
        locked = served.up(ok=False)
        assert "pulumi cancel" in locked.text
        served.pulumi("cancel", "--yes")
        served.up()
    assert not sent.lost, sent.lost
    assert served.version() == "6"
    deployment = served.exported()["deployment"]
    assert not deployment.get("pending_operations"), json.dumps(deployment["pending_operations"])
    served.up("--expect-no-changes")
    served.pulumi("preview", "--refresh", "--expect-no-changes")
