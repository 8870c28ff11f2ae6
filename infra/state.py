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


def resource_outputs(resources: Resources, type_token: str) -> Mapping[str, Any] | None:
    """Outputs of the one resource of a type, wherever it hangs, or None when there is none."""
    return next((outputs for urn, outputs in resources.items() if f"{type_token}::" in urn), None)


def pushed_image(resources: Resources) -> str | None:
    """Name and tag of the image that was pushed last, or None."""
    found = (outputs for urn, outputs in resources.items() if "docker:index/image:Image::" in urn)
    return next((str(outputs["imageName"]) for outputs in found if "imageName" in outputs), None)
