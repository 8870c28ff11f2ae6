"""Load makes replicas, rest takes them away, and `up` leaves their number alone. State after: as before, three pods."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.e2e.load import traffic
from tests.e2e.stack import SMALL, Stack, wait_for

MANY_ROWS = json.dumps({"input": [[5.1, 1.4, 0.2]] * 800})
"""About half a millisecond of a core: a node of two, which sends the load as well, has not much more to give."""
TARGET = {"cpuTargetPercent": 50}
"""Of 400m for each of three pods."""
QUICK = {"spec": {"behavior": {"scaleDown": {"stabilizationWindowSeconds": 15}}}}
"""The stack waits five minutes before it takes a replica away; to wait for that would test the clock."""


@pytest.fixture
def watched(served: Stack) -> Iterator[Stack]:
    """The stack with another target for the autoscaler, and with its own again afterwards."""

    def measured() -> bool:
        (autoscaler,) = served.objects("horizontalpodautoscalers")
        return bool(autoscaler["status"].get("currentMetrics"))

    served.configure(TARGET)
    served.up()
    try:
        wait_for("metrics", measured, 90, pause=1)
        yield served
    finally:
        served.forget(*TARGET)
        served.up("--refresh")


def replicas(stack: Stack) -> int:
    return stack.deployment()["spec"]["replicas"]


def calm_down(stack: Stack) -> None:
    """Until the autoscaler has taken away what the load before had needed."""
    (autoscaler,) = stack.objects("horizontalpodautoscalers")
    stack.kubectl("patch", "hpa", autoscaler["metadata"]["name"], "--type=merge", "-p", json.dumps(QUICK))
    wait_for("fewer replicas", lambda: replicas(stack) == SMALL["replicas"], 150, pause=1)


def test_replicas_follow_the_load_and_up_does_not_fight_it(watched: Stack) -> None:
    calm_down(watched)
    name = watched.deployment()["metadata"]["name"]
    with traffic(f"{watched.endpoint()}/predict", MANY_ROWS, kept=1600, fresh=150, seconds=120) as sent:
        wait_for("more replicas", lambda: replicas(watched) == SMALL["maxReplicas"], 100, pause=1)
        wait_for("a fourth pod", lambda: len(watched.ready()) == SMALL["maxReplicas"], 30)
        watched.up("--expect-no-changes")
        # Nor does one that has to write the Deployment and mend the autoscaler.
        watched.kubectl("patch", "deployment", name, "--type=merge", "-p", '{"spec": {"revisionHistoryLimit": 7}}')
        assert ("update", "Deployment") in watched.up("--refresh").changed()
        assert replicas(watched) == SMALL["maxReplicas"]
    # Until there are enough replicas, a pod may refuse what it could not answer in time; it loses nothing.
    assert not [f"{each.count} times: {each.error}" for each in sent.lost if each.code != 429]
    (autoscaler,) = watched.objects("horizontalpodautoscalers")
    assert autoscaler["spec"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == 300
    calm_down(watched)
    assert len(watched.ready()) == len(watched.pods()) == SMALL["replicas"]
