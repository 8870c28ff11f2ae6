"""Pins a live stack to its target, region, cluster and network.

Changing one of these would replace everything behind the endpoint, or fail half-way. So markers among a stack's first
resources carry them in their names, and the network is told from the resources themselves; the next run compares them
with the config before it registers anything, and stops when they differ.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal
from urllib.parse import quote, unquote

import pulumi

from infra.config.schema import NetworkSettings
from infra.state import Resources, outputs_of, previous_resources, resource_name

Marked = Literal["Target", "Region", "Cluster"]
PinnedTo = Literal[Marked, "Network"]

_KEEP_COMMAND: dict[Marked, str] = {
    "Target": "pulumi config set target {live}",
    "Region": "pulumi config set aws:region {live}",
    "Cluster": "pulumi config set context <the context whose server is {live}>",
}


_REPLACES = "Changing it here would delete everything that serves the endpoint."
_STRANDS = (
    "EKS keeps a cluster in its VPC, and Auto Mode its nodes in the subnets that it was made with: changing them here "
    "would stop half-way."
)


class PinnedStackError(pulumi.RunError):
    """The config leads to another target, region, cluster or network than the one that the stack is live on."""

    def __init__(
        self, stack: str, pinned_to: PinnedTo, live: str, wanted: str, *, keep: str, consequence: str = _REPLACES
    ) -> None:
        self.live = live
        self.wanted = wanted
        super().__init__(
            f"stack {stack} is live on {pinned_to.lower()} {live}, and its config now leads to {wanted}; "
            "nothing was changed.\n"
            f"    {consequence} Either keep it:\n"
            f"        {keep}\n"
            "    or bring up another stack there, and destroy this one when nobody calls it any more:\n"
            "        pulumi stack init <name> --copy-config-from "
            f"{stack} && pulumi up\n"
            f"        pulumi destroy --stack {stack}"
        )


class Marker(pulumi.ComponentResource):
    """Records a fact about the stack in its name, where the next run reads it; owns nothing."""

    def __init__(self, fact: Marked | Literal["Creator"], value: str) -> None:
        super().__init__(_type_token(fact), quote(value, safe=""))
        self.register_outputs({})

    @staticmethod
    def recorded(resources: Resources, fact: Marked | Literal["Creator"]) -> str | None:
        """Return what an earlier run has recorded, or None."""
        name = resource_name(resources, _type_token(fact))
        return unquote(name) if name else None


def pin_stack(pinned_to: Marked, wanted: str) -> None:
    """Mark the stack with `wanted`. Raises PinnedStackError when it is live on another target, region or cluster."""
    live = Marker.recorded(previous_resources(), pinned_to) or wanted
    if live != wanted:
        keep = _KEEP_COMMAND[pinned_to].format(live=live)
        raise PinnedStackError(pulumi.get_stack(), pinned_to, live, wanted, keep=keep)
    Marker(pinned_to, wanted)


def check_network(settings: NetworkSettings) -> None:
    """Raise PinnedStackError when the stack has a cluster in another VPC, or on other private subnets, than these.

    Public subnets may change: only the load balancer stands in them, and it is updated in place.
    """
    wanted = _existing_vpc(settings.vpc_id, settings.private_subnet_ids) if settings.vpc_id else settings.vpc_cidr
    live, keep = _live_network(previous_resources()) or (wanted, "")
    if live != wanted:
        raise PinnedStackError(pulumi.get_stack(), "Network", live, wanted, keep=keep, consequence=_STRANDS)


def _live_network(resources: Resources) -> tuple[str, str] | None:
    """Name the network of the stack's cluster, and the command that keeps it; None while there is no cluster."""
    network = outputs_of(resources, "model-endpoint:network:Network")
    if not (network and outputs_of(resources, "aws:eks/cluster:Cluster")):
        return None
    if own := outputs_of(resources, "aws:ec2/vpc:Vpc"):
        cidr = own["cidrBlock"]
        forget = "pulumi config rm-all vpcId privateSubnetIds publicSubnetIds"
        return cidr, f"{forget} && pulumi config set vpcCidr {cidr}"
    vpc, subnets = network["vpcId"], network["privateSubnetIds"]
    keep = f"pulumi config set vpcId {vpc} && pulumi config set privateSubnetIds '{json.dumps(subnets)}'"
    return _existing_vpc(vpc, subnets), keep


def _existing_vpc(vpc: str, private_subnets: Sequence[str]) -> str:
    return f"{vpc} with the private subnets {', '.join(sorted(private_subnets))}"


def _type_token(fact: str) -> str:
    return f"model-endpoint:target:{fact}"  # "target": this module's first name, kept because states hold it
