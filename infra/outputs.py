"""Outputs that are known only once something exists, where Pulumi's SDK has no word for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import pulumi
from pulumi.output import UNKNOWN

T = TypeVar("T")

NOT_KNOWN_YET: Any = UNKNOWN
"""Return it from a function given to `apply`, and the output is unknown: in a preview, before its source exists."""


def after(value: pulumi.Input[T], others: Sequence[pulumi.CustomResource | pulumi.Output[Any]]) -> pulumi.Output[T]:
    """Let `value` be known only once `others` are, and carry the dependency on them.

    Whatever uses it is made after them and deleted before them.
    """
    waited = [other.id if isinstance(other, pulumi.CustomResource) else other for other in others]
    return pulumi.Output.all(value, *waited).apply(_first)


def _first(values: list[Any]) -> Any:
    return values[0]


def all_known(*inputs: pulumi.Input[Any]) -> pulumi.Output[bool]:
    """Whether all `inputs` have their values; itself always known, also in a preview."""
    together = pulumi.Output.all(*inputs)

    async def known() -> bool:
        return await together.is_known()

    async def always() -> bool:
        return True

    return pulumi.Output(together.resources(), known(), always())
