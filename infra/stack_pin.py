"""Pins a live stack to its target, region and cluster.

Changing one of these would replace everything behind the endpoint. So markers among a stack's first resources carry
them in their names; the next run compares the names with the config before it registers anything, and stops when they
differ.
"""

from __future__ import annotations

from typing import Literal
from urllib.parse import quote, unquote

import pulumi

from infra.state import previous_resources, resource_name

PinnedTo = Literal["Target", "Region", "Cluster"]

_KEEP_COMMAND: dict[PinnedTo, str] = {
    "Target": "pulumi config set target {live}",
    "Region": "pulumi config set aws:region {live}",
    "Cluster": "pulumi config set context <the context whose server is {live}>",
}


class PinnedStackError(pulumi.RunError):
    """The config leads to another target, region or cluster than the one that the stack is live on."""

    def __init__(self, stack: str, pinned_to: PinnedTo, live: str, wanted: str) -> None:
        self.live = live
        self.wanted = wanted
        super().__init__(
            f"stack {stack} is live on {pinned_to.lower()} {live}, and its config now leads to {wanted}; "
            "nothing was changed.\n"
            "    Changing it here would delete everything that serves the endpoint. Either keep it:\n"
            f"        {_KEEP_COMMAND[pinned_to].format(live=live)}\n"
            "    or bring up another stack there, and destroy this one when nobody calls it any more:\n"
            "        pulumi stack init <name> --copy-config-from "
            f"{stack} && pulumi up\n"
            f"        pulumi destroy --stack {stack}"
        )


class Marker(pulumi.ComponentResource):
    """Records what the stack is pinned to, in its name; owns nothing."""

    def __init__(self, pinned_to: PinnedTo, value: str) -> None:
        super().__init__(_type_token(pinned_to), quote(value, safe=""))
        self.register_outputs({})


def pin_stack(pinned_to: PinnedTo, wanted: str) -> None:
    """Mark the stack with `wanted`. Raises PinnedStackError when it is live on another target, region or cluster."""
    name = resource_name(previous_resources(), _type_token(pinned_to))
    live = unquote(name) if name else wanted
    if live != wanted:
        raise PinnedStackError(pulumi.get_stack(), pinned_to, live, wanted)
    Marker(pinned_to, wanted)


def _type_token(pinned_to: PinnedTo) -> str:
    return f"model-endpoint:target:{pinned_to}"  # "target": this module's first name, kept because states hold it
