"""What a stack renders, in the forms that its judges read: Kubernetes manifests, and AWS inputs as a Terraform plan.

The AWS provider is bridged from Terraform's, so its types and inputs have the names that checkov's rules are written
for, in another spelling. What that spelling does not say stands in tables; what they lack is an error, never left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pulumi.runtime import rpc

Resource = Mapping[str, Any]
"""A resource of `pulumi stack export --show-secrets`."""

TYPES = {
    "aws:acm/certificate:Certificate": "aws_acm_certificate",
    "aws:acm/certificateValidation:CertificateValidation": "aws_acm_certificate_validation",
    "aws:cloudwatch/logGroup:LogGroup": "aws_cloudwatch_log_group",
    "aws:ec2/defaultSecurityGroup:DefaultSecurityGroup": "aws_default_security_group",
    "aws:ec2/eip:Eip": "aws_eip",
    "aws:ec2/flowLog:FlowLog": "aws_flow_log",
    "aws:ec2/internetGateway:InternetGateway": "aws_internet_gateway",
    "aws:ec2/natGateway:NatGateway": "aws_nat_gateway",
    "aws:ec2/route:Route": "aws_route",
    "aws:ec2/routeTable:RouteTable": "aws_route_table",
    "aws:ec2/routeTableAssociation:RouteTableAssociation": "aws_route_table_association",
    "aws:ec2/subnet:Subnet": "aws_subnet",
    "aws:ec2/vpc:Vpc": "aws_vpc",
    "aws:ec2/vpcEndpoint:VpcEndpoint": "aws_vpc_endpoint",
    "aws:ecr/lifecyclePolicy:LifecyclePolicy": "aws_ecr_lifecycle_policy",
    "aws:ecr/repository:Repository": "aws_ecr_repository",
    "aws:eks/accessEntry:AccessEntry": "aws_eks_access_entry",
    "aws:eks/accessPolicyAssociation:AccessPolicyAssociation": "aws_eks_access_policy_association",
    "aws:eks/addon:Addon": "aws_eks_addon",
    "aws:eks/cluster:Cluster": "aws_eks_cluster",
    "aws:iam/role:Role": "aws_iam_role",
    "aws:iam/rolePolicy:RolePolicy": "aws_iam_role_policy",
    "aws:iam/rolePolicyAttachment:RolePolicyAttachment": "aws_iam_role_policy_attachment",
    "aws:kms/key:Key": "aws_kms_key",
    "aws:route53/record:Record": "aws_route53_record",
}
SINGULAR = {"aliases": "alias", "encryptionConfigurations": "encryption_configuration"}
"""Terraform's name of each block that may come more than once, which the bridge puts into the plural."""
MAPS = frozenset({"tags"})
"""Inputs with keys of the user's own."""


def manifests(resources: Iterable[Resource]) -> list[dict[str, Any]]:
    """The Kubernetes objects, each as it is sent."""
    return [_plain(r["inputs"]) for r in resources if r["type"].startswith("kubernetes:")]


def plan(resources: Iterable[Resource]) -> dict[str, Any]:
    """Write the AWS resources as `terraform show -json` would show a plan that creates them, references included."""
    address = {r["urn"]: _address(r) for r in resources if r["type"].startswith("aws:")}
    planned: list[dict[str, Any]] = []
    configured: list[dict[str, Any]] = []
    for resource in resources:
        if resource["urn"] not in address:
            continue
        type_, name = address[resource["urn"]].split(".")
        common = {"address": f"{type_}.{name}", "mode": "managed", "type": type_, "name": name}
        planned.append({**common, "values": _block(_plain(resource["inputs"]))})
        expressions = {
            _snake(key): {"references": [address[urn] for urn in urns if urn in address]}
            for key, urns in (resource.get("propertyDependencies") or {}).items()
        }
        configured.append({**common, "expressions": expressions})
    return {
        "format_version": "1.2",
        "terraform_version": "1.9.0",
        "planned_values": {"root_module": {"resources": planned}},
        "resource_changes": [
            {**resource, "change": {"actions": ["create"], "before": None, "after": resource["values"]}}
            for resource in planned
        ],
        "configuration": {"root_module": {"resources": configured}},
    }


def _address(resource: Resource) -> str:
    name = re.sub(r"[^\w-]", "_", resource["urn"].rpartition("::")[2])
    return f"{TYPES[resource['type']]}.{name}"


def _block(inputs: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in inputs.items():
        if key == "__defaults":
            continue
        if isinstance(value, dict) and key not in MAPS:
            found[_snake(key)] = [_block(value)]
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            found[SINGULAR[key]] = [_block(item) for item in value]
        else:
            found[_snake(key)] = value
    return found


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _plain(value: Any) -> Any:
    """`value` with its secrets in plain."""
    if isinstance(value, dict):
        if value.get(rpc._special_sig_key) == rpc._special_secret_sig:
            return json.loads(value["plaintext"])
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value
