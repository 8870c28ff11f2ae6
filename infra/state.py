"""The stack's resources as the last `up` left them, read from the engine before any is registered."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, cast

import pulumi
from pulumi.runtime.sync_await import _sync_await  # pyright: ignore[reportPrivateUsage]  # as `invoke` itself does

Resources = Mapping[str, Mapping[str, Any]]
"""URN -> outputs."""


@cache
def previous_resources() -> Resources:
    """The stack's own resources; none for a stack that is new or destroyed. The engine is asked once a run."""
    # The engine is recording the stack itself at this moment, and a state in files cannot be read while it is written:
    # it says "failed to load checkpoint: EOF".
    if stack := pulumi.runtime.get_root_resource():
        _sync_await(stack.urn.future())
    name = "/".join((pulumi.get_organization(), pulumi.get_project(), pulumi.get_stack()))
    answer = pulumi.runtime.invoke("pulumi:pulumi:readStackResourceOutputs", {"stackName": name})
    found = cast(Mapping[str, Mapping[str, Mapping[str, Any]]], answer.value["outputs"])
    return {urn: resource["outputs"] for urn, resource in found.items()}


def resource_name(resources: Resources, type_token: str) -> str | None:
    """The logical name of the one resource of a type, or None when there is none."""
    return next((urn.rpartition("::")[2] for urn in resources if f"::{type_token}::" in urn), None)


def outputs_of(resources: Resources, type_token: str) -> Mapping[str, Any]:
    """Outputs of the one resource of a type, which may be the end of its ancestors' types; empty when there is none."""
    nothing: Mapping[str, Any] = {}
    return next((outputs for urn, outputs in resources.items() if f"{type_token}::" in urn), nothing)
