from __future__ import annotations

from typing import Any

import pulumi
import pytest

from infra import outputs
from tests.unit import mocked


class Thing(pulumi.CustomResource):
    def __init__(self, name: str) -> None:
        super().__init__("test:index:Thing", name, {})


@pytest.mark.parametrize("preview", [False, True])
def test_a_value_is_known_after_what_it_waits_for_and_depends_on_it(preview: bool) -> None:
    def program() -> pulumi.Output[str]:
        value = outputs.after("value", [Thing("first"), Thing("second").id])
        Thing("other")
        User("user", value)
        return value

    class User(pulumi.CustomResource):
        def __init__(self, name: str, value: pulumi.Input[Any]) -> None:
            super().__init__("test:index:User", name, {"value": value})

    run = mocked.run(program, preview=preview)
    assert run.named("user").inputs["value"] == (mocked.UNKNOWN if preview else "value")
    assert run.named("user").dependencies == {"first", "second"}


@pytest.mark.parametrize("preview", [False, True])
def test_whether_all_are_known_is_always_known(preview: bool) -> None:
    run = mocked.run(lambda: outputs.all_known("plain", None, Thing("thing").id), preview=preview)
    assert mocked.resolve(run.result) == mocked.Resolved(not preview, known=True, secret=False)


def test_what_is_not_known_yet_leaves_the_output_unknown() -> None:
    run = mocked.run(lambda: pulumi.Output.from_input("").apply(lambda text: text or outputs.NOT_KNOWN_YET))
    assert not mocked.resolve(run.result).known
