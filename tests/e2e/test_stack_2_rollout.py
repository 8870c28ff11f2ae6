"""Another model rolls out under load. State after: model version 4, three pods."""

from __future__ import annotations

import json
import time

from tests.e2e import timeline
from tests.e2e.providers import registry
from tests.e2e.providers.builder import Builder
from tests.e2e.stack import Stack, built_at, resident
from tests.support.figures import Figures

DRAIN_SECONDS = 8
"""A leaving pod serves for five more, on the connections that it has, and then ends."""


def test_three_rollouts_lose_no_request_and_mix_no_versions(served: Stack, daemon: Builder, figures: Figures) -> None:
    before = set(registry.layers(served.live.registry, "team/model", served.output("imageDigest")))
    ends: list[float] = [0]
    with served.traffic() as sent:
        for version in (2, 3, 4):
            served.ship_model(str(version), factor=1 - 0.1 * version)
            with timeline.Timeline(served) as line:
                served.up()
            ends.append(time.time())
            assert served.output("modelVersion") == str(version)
            found = timeline.phases(line.moments, built_at(served, daemon), line.moments["over"])
            figures.add("model build", found["build"])
            figures.add("model push", found["push"])
            figures.add("rollout", line.moments["over"] - line.moments["up"])
            names = [pod["metadata"]["name"] for pod in served.ready()]
            # They start one after the other here, unlike on the first `up`.
            cold = [line.moments[f"ready {name}"] - timeline.started(served, name) for name in names]
            figures.add("cold start", *cold)
            layers = set(registry.layers(served.live.registry, "team/model", served.output("imageDigest")))
            figures.add("model layers", len(layers - before))
            before = layers
        time.sleep(2)
    assert not sent.lost, sent.lost
    assert sent.requests > 3000
    assert sent.versions == {"1", "2", "3", "4"}
    said: dict[str, set[str]] = {}
    for answer in sent.answers:
        version = int(answer.model["version"])
        said.setdefault(answer.model["version"], set()).add(answer.said)
        # A version is not heard before its `up` begins, nor once its last pod has drained after its successor's.
        assert ends[version - 2] < answer.first or version == 1
        assert version == 4 or answer.last < ends[version] + DRAIN_SECONDS
    assert all(len(each) == 1 for each in said.values()), said
    assert len(set.union(*said.values())) == 4, "each version has its own predictions"


def test_memory_stays_in_bounds_under_load(served: Stack, figures: Figures) -> None:
    with served.traffic(kept=600, fresh=100, seconds=30) as sent:
        time.sleep(8)
        used = [resident(served, pod["metadata"]["name"]) for pod in served.ready()]
    assert not sent.lost, json.dumps([vars(each) for each in sent.lost])
    figures.add("memory under load", *used)
    assert max(used) < 150
