"""Records who made the stack's cluster: EKS gives that principal an access entry of its own, and refuses a second one.

Whoever runs `up` later may be a colleague, who has none. So a marker among the stack's first resources carries the
principal in its name.
"""

from __future__ import annotations

from urllib.parse import quote, unquote

import pulumi
import pulumi_aws as aws

from infra.state import outputs_of, previous_resources, resource_name

_TYPE = "model-endpoint:cluster:Creator"


class CallerUnknownError(pulumi.RunError):
    """AWS does not say who runs this: there are no credentials, or they are no longer valid."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(
            f"AWS does not accept your credentials, or there are none: {reason}\n"
            "    Sign in, until this command answers:\n"
            "        aws sts get-caller-identity"
        )


class Creator(pulumi.ComponentResource):
    """Holds the creator in its name; owns nothing."""

    def __init__(self, principal: str) -> None:
        super().__init__(_TYPE, quote(principal, safe=""))
        self.register_outputs({})


def record_creator() -> str | None:
    """Mark the stack with the principal that made its cluster, or is about to, and return it as `principal_of` does.

    None for a cluster of an older version, which recorded nobody. Raises CallerUnknownError.
    """
    resources = previous_resources()
    if outputs_of(resources, "aws:eks/cluster:Cluster"):
        name = resource_name(resources, _TYPE)
        creator = unquote(name) if name else None
    else:
        creator = principal_of(_caller_arn())
    if creator:
        Creator(creator)
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
