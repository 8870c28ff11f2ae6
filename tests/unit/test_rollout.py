from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from infra.rollout import COMPLETE, GIVEN_UP, problem_of


def status(*conditions: tuple[str, str]) -> Any:
    listed = [SimpleNamespace(type=type_, reason=reason, message="it has timed out") for type_, reason in conditions]
    return SimpleNamespace(conditions=listed)


def test_a_rollout_that_was_given_up_says_so() -> None:
    problem = problem_of(status(("Available", "MinimumReplicasUnavailable"), ("Progressing", GIVEN_UP)))
    assert GIVEN_UP in problem
    assert problem.endswith("it has timed out")


@pytest.mark.parametrize("found", [None, SimpleNamespace(conditions=None), status(("Progressing", COMPLETE))])
def test_anything_else_is_no_problem(found: Any) -> None:
    assert problem_of(found) == ""
