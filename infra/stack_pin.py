"""Keeps a live stack where it is: on its target, in its region, on its cluster.

Another one would replace everything behind the endpoint. So markers among a stack's first resources carry these in
their names; the next run compares them with the config before it registers anything, and stops when they differ.
"""

from __future__ import annotations

from typing import Literal
from urllib.parse import quote, unquote

import pulumi

from infra.state import name_of, remembered

Place = Literal["Target", "Region", "Cluster"]

_HOW_TO_KEEP: dict[Place, str] = {
    "Target": "pulumi config set target {live}",
    "Region": "pulumi config set aws:region {live}",
    "Cluster": "pulumi config set context <the context whose server is {live}>",
}


class PlaceChangeError(pulumi.RunError):
    """The config names another place than the one that the stack's resources stand in."""

    def __init__(self, stack: str, place: Place, live: str, wanted: str) -> None:
        self.live = live
        self.wanted = wanted
        super().__init__(
            f"stack {stack} is live on {place.lower()} {live}, and its config now leads to {wanted}; "
            "nothing was changed.\n"
            "    Changing it here would delete everything that serves the endpoint. Either keep it:\n"
            f"        {_HOW_TO_KEEP[place].format(live=live)}\n"
            "    or bring up another stack there, and destroy this one when nobody calls it any more:\n"
            "        pulumi stack init <name> --copy-config-from "
            f"{stack} && pulumi up\n"
            f"        pulumi destroy --stack {stack}"
        )


class Marker(pulumi.ComponentResource):
    """Records where the stack is, in its state; owns nothing."""

    def __init__(self, place: Place, value: str) -> None:
        super().__init__(_type(place), quote(value, safe=""))
        self.register_outputs({})


def hold(place: Place, wanted: str) -> None:
    """Marks the stack with where it is. Raises PlaceChangeError when it is live somewhere else."""
    marked = name_of(remembered(), _type(place))
    live = unquote(marked) if marked else wanted
    if live != wanted:
        raise PlaceChangeError(pulumi.get_stack(), place, live, wanted)
    Marker(place, wanted)


def _type(place: Place) -> str:
    return f"model-endpoint:target:{place}"
