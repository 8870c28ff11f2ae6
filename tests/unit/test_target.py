"""A live stack keeps its target."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from infra import target
from infra.target import TargetChangeError, hold_target, live_target
from tests.unit import mocked

STACK = "urn:pulumi:dev::model-endpoint::pulumi:pulumi:Stack::model-endpoint-dev"
MARKER = "urn:pulumi:dev::model-endpoint::model-endpoint:target:Target::eks"


def test_the_marker_among_a_stacks_resources_names_its_target() -> None:
    assert live_target([STACK, MARKER]) == "eks"
    assert live_target([STACK]) is None
    assert live_target([]) is None


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], None]:
    def holds(urns: list[str]) -> None:
        monkeypatch.setattr(target, "_resources_of_this_stack", lambda: urns)

    return holds


@pytest.mark.parametrize("urns", [[], [STACK], [STACK, MARKER]])
def test_a_new_stack_and_the_same_target_are_marked(state: Callable[[list[str]], None], urns: list[str]) -> None:
    state(urns)
    run = mocked.run(lambda: hold_target("eks"))
    assert [(each.type, each.name) for each in run.resources] == [("model-endpoint:target:Target", "eks")]


def test_another_target_is_refused_before_anything_is_registered(state: Callable[[list[str]], None]) -> None:
    state([STACK, MARKER])
    with pytest.raises(TargetChangeError) as caught:
        mocked.run(lambda: hold_target("local"))
    for part in ("is live on target eks", "nothing was changed", "pulumi config set target eks", "pulumi destroy"):
        assert part in str(caught.value)
