"""Who calls the stand-in for AWS, and from where: as the AWS SDKs and `aws eks get-token` both find it out."""

from __future__ import annotations

import ipaddress
import itertools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tests.standins import wire
from tests.standins.cloud import ACCOUNT, Cloud, Thing

ACCESS_ENTRY = "aws:eks/accessEntry:AccessEntry"
DEPLOYER = f"arn:aws:iam::{ACCOUNT}:role/deployer"


def principal(profile: str = "", roles: Sequence[str] = ()) -> str:
    """ARN of who signs in: the last of `roles`, else the role behind `profile`, AWS_PROFILE or the default profile."""
    if roles:
        return roles[-1]
    name = profile or os.environ.get("AWS_PROFILE") or "deployer"
    return f"arn:aws:iam::{ACCOUNT}:role/{name}"


def provider_principal(config: dict[str, Any]) -> str:
    """ARN of who an AWS provider with this configuration signs in as; what is not a string is encoded as JSON."""
    if key := config.get("accessKey"):
        return f"arn:aws:iam::{ACCOUNT}:user/{key}"
    roles = [role["roleArn"] for role in json.loads(config.get("assumeRoles") or "[]")]
    if web := json.loads(config.get("assumeRoleWithWebIdentity") or "{}"):
        roles.append(web["roleArn"])
    return principal(config.get("profile", ""), roles)


def kubeconfig_principal(user: Mapping[str, Any]) -> str:
    """ARN of who a kubeconfig's user that runs `aws eks get-token` signs in as."""
    arguments = user["exec"]["args"]
    options = dict(itertools.pairwise(arguments))
    role = options.get("--role-arn") or options.get("--role")
    return principal(options.get("--profile", ""), [role] if role else [])


def same_principal(one: str, other: str) -> bool:
    """Whether two ARNs name one role or user: EKS knows a role by its name, wherever its path leads."""
    return _name(one) == _name(other)


def _name(arn: str) -> tuple[str, str, str]:
    account, what = arn.split(":")[4:6]
    return account, what.split("/")[0], what.rpartition("/")[2]


def creator_entry(cluster: str, creator: str) -> Thing:
    """The access entry that EKS makes by itself for whoever makes a cluster."""
    return Thing(
        type=ACCESS_ENTRY, id=f"{cluster}:{creator}", outputs={"clusterName": cluster, "principalArn": creator}
    )


def may_enter(entries: Iterable[Thing], cluster: str, who: str) -> bool:
    found = [entry.values for entry in entries if entry.values["clusterName"] == cluster]
    return any(same_principal(entry["principalArn"], who) for entry in found)


def is_reachable(cloud: Cloud, cluster: dict[str, Any]) -> bool:
    """Whether the API server answers the caller's address; without public access the caller is inside the VPC."""
    config = wire.get(cluster, "vpcConfig") or {}
    if not config.get("endpointPublicAccess", True):
        return True
    address = ipaddress.ip_address(cloud.caller_address())
    return any(address in ipaddress.ip_network(cidr) for cidr in config.get("publicAccessCidrs") or ["0.0.0.0/0"])
