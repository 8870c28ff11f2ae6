"""Keeps a live stack on its target: another target would replace everything behind the endpoint.

The first resource of every stack is a marker that carries the target in its name. The next run reads the stack's own
resources from the engine before it registers anything, and stops when the marker names another target.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import pulumi
from pulumi.runtime.sync_await import _sync_await  # pyright: ignore[reportPrivateUsage]  # as `invoke` itself does

from infra.settings import Target

_TYPE = "model-endpoint:target:Target"


class TargetChangeError(pulumi.RunError):
    """The config names another target than the one that the stack's resources were made for."""

    def __init__(self, stack: str, live: str, wanted: Target) -> None:
        self.live = live
        self.wanted = wanted
        super().__init__(
            f"stack {stack} is live on target {live}, and its config now says {wanted}; nothing was changed.\n"
            f"    Changing it here would delete everything that serves the endpoint. Either keep it:\n"
            f"        pulumi config set target {live}\n"
            f"    or bring the other target up beside it, and destroy this stack when nobody calls it any more:\n"
            f"        pulumi stack init {wanted} && pulumi config set target {wanted} && pulumi up\n"
            f"        pulumi destroy --stack {stack}"
        )


class TargetMarker(pulumi.ComponentResource):
    """Records the target in the stack's state; owns nothing."""

    def __init__(self, target: Target) -> None:
        super().__init__(_TYPE, target)
        self.register_outputs({})


def live_target(urns: Iterable[str]) -> str | None:
    """The target whose marker is among a stack's `urns`; None for an empty stack."""
    return next((urn.rpartition("::")[2] for urn in urns if f"::{_TYPE}::" in urn), None)


def hold_target(wanted: Target) -> None:
    """Marks the stack with `wanted`. Raises TargetChangeError, before any resource, when it is live on another one."""
    live = live_target(_resources_of_this_stack())
    if live not in (None, wanted):
        raise TargetChangeError(pulumi.get_stack(), live, wanted)
    TargetMarker(wanted)


def _resources_of_this_stack() -> Iterable[str]:
    # The engine is recording the stack itself at this moment, and a state in files cannot be read while it is written:
    # it says "failed to load checkpoint: EOF".
    if stack := pulumi.runtime.get_root_resource():
        _sync_await(stack.urn.future())
    name = "/".join((pulumi.get_organization(), pulumi.get_project(), pulumi.get_stack()))
    answer = pulumi.runtime.invoke("pulumi:pulumi:readStackResourceOutputs", {"stackName": name})
    return cast(dict[str, object], answer.value["outputs"]).keys()
