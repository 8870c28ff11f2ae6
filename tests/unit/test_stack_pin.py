"""A live stack stays where it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from infra import stack_pin
from infra.stack_pin import PinnedStackError, PinnedTo, pin_stack
from tests.unit import mocked

STACK = "urn:pulumi:dev::model-endpoint::pulumi:pulumi:Stack::model-endpoint-dev"
MARKER = "urn:pulumi:dev::model-endpoint::model-endpoint:target:Target::eks"
SERVER = "urn:pulumi:dev::model-endpoint::model-endpoint:target:Cluster::https%3A%2F%2F%5B%3A%3A1%5D%3A6443"


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], None]:
    def holds(urns: list[str]) -> None:
        monkeypatch.setattr(stack_pin, "previous_resources", lambda: {key: {} for key in urns})

    return holds


@pytest.mark.parametrize("urns", [[], [STACK], [STACK, SERVER], [STACK, MARKER]])
def test_a_new_stack_and_the_same_target_are_marked(state: Callable[[list[str]], None], urns: list[str]) -> None:
    state(urns)
    run = mocked.run(lambda: pin_stack("Target", "eks"))
    assert [(each.type, each.name) for each in run.resources] == [("model-endpoint:target:Target", "eks")]


def test_an_address_is_marked_under_a_name_that_no_urn_takes_apart(state: Callable[[list[str]], None]) -> None:
    state([STACK, MARKER, SERVER])
    run = mocked.run(lambda: pin_stack("Cluster", "https://[::1]:6443"))
    assert [each.name for each in run.resources] == [SERVER.rpartition("::")[2]]


@pytest.mark.parametrize(
    ("pinned_to", "wanted", "says"),
    [
        ("Target", "local", "is live on target eks, and its config now leads to local"),
        ("Cluster", "https://other:6443", "is live on cluster https://[::1]:6443"),
    ],
)
def test_another_place_is_refused_before_anything_is_registered(
    state: Callable[[list[str]], None], pinned_to: PinnedTo, wanted: str, says: str
) -> None:
    state([STACK, MARKER, SERVER])
    with pytest.raises(PinnedStackError) as caught:
        mocked.run(lambda: pin_stack(pinned_to, wanted))
    for part in (says, "nothing was changed", "pulumi config set", "pulumi destroy --stack"):
        assert part in str(caught.value)
