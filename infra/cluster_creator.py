"""Records who made the stack's cluster: EKS gives that principal an access entry of its own, and refuses a second one.

Whoever runs `up` later may be a colleague, who has none. So a marker among the stack's first resources carries the
principal in its name.
"""

from __future__ import annotations

import pulumi
import pulumi_aws as aws

from infra.stack_pin import Marker
from infra.state import outputs_of, previous_resources


class CallerUnknownError(pulumi.RunError):
    """AWS does not say who runs this: there are no credentials, or they are no longer valid."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(
            f"AWS does not say who you are: {reason}\n"
            "    Sign in, until this command answers (with --profile <profile>, where the stack sets aws:profile):\n"
            "        aws sts get-caller-identity"
        )


def record_creator() -> str | None:
    """Mark the stack with the principal that made its cluster, or is about to, and return it as `principal_of` does.

    None for a cluster of an older version, which recorded nobody. Raises CallerUnknownError.
    """
    resources = previous_resources()
    if outputs_of(resources, "aws:eks/cluster:Cluster"):
        creator = Marker.recorded(resources, "Creator")
    else:
        creator = principal_of(_caller_arn())
    if creator:
        Marker("Creator", creator)
    return creator


def principal_of(arn: str) -> str:
    """Account, kind and name of an IAM principal; a session counts as its role, whose path a session does not tell."""
    account, resource = arn.split(":", 5)[4:]
    kind, _, rest = resource.partition("/")
    if kind == "assumed-role":
        return f"{account}/role/{rest.partition('/')[0]}"
    return f"{account}/{kind}/{rest.rpartition('/')[2]}"


def _caller_arn() -> str:
    try:
        return aws.get_caller_identity().arn
    except Exception as error:  # the SDK raises nothing narrower
        raise CallerUnknownError(error) from error
