"""The stand-in for pulumi-eks: a component whose children are real `aws:*` registrations, as the official one's are.

It leaves out what this project turns off (node groups, add-ons outside Auto Mode), and keeps in a journal the time that
the official one waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import grpc.aio
import pulumi
import pulumi_aws as aws
import pulumi_kubernetes as k8s
import yaml
from pulumi.errors import InputPropertiesError
from pulumi.provider import ConstructResult, Provider
from pulumi.provider.server import ProviderServicer
from pulumi.runtime._grpc_settings import _GRPC_CHANNEL_OPTIONS
from pulumi.runtime.proto import provider_pb2_grpc

from tests.standins import schema, sign_in, wire
from tests.standins.aws import EKS_CLUSTER
from tests.standins.cloud import KUBECONFIG_VARIABLE, Cloud, Event

TOKEN = "eks:index:Cluster"
_CLUSTER_POLICIES = (
    "AmazonEKSClusterPolicy",
    "AmazonEKSComputePolicy",
    "AmazonEKSBlockStoragePolicy",
    "AmazonEKSLoadBalancingPolicy",
    "AmazonEKSNetworkingPolicy",
)
HEALTH_SECONDS = 330
"""How long the official component asks an API server that does not answer, before it goes on."""
_NODE_POLICIES = ("AmazonEKSWorkerNodeMinimalPolicy", "AmazonEC2ContainerRegistryPullOnly")


class ServiceRole(pulumi.ComponentResource):
    def __init__(self, name: str, service: str, policies: tuple[str, ...], tags: Any, opts: Any) -> None:
        super().__init__("eks:index:ServiceRole", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        statement = {
            "Effect": "Allow",
            "Action": ["sts:AssumeRole", "sts:TagSession"],
            "Principal": {"Service": service},
        }
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        self.role = aws.iam.Role(f"{name}-role", assume_role_policy=policy, tags=tags, opts=child)
        self.attachments = [
            aws.iam.RolePolicyAttachment(
                f"{name}-{policy}", role=self.role.name, policy_arn=f"arn:aws:iam::aws:policy/{policy}", opts=child
            )
            for policy in policies
        ]
        self.register_outputs({})


class Cluster(pulumi.ComponentResource):
    def __init__(self, name: str, given: dict[str, Any], opts: pulumi.ResourceOptions | None) -> None:
        super().__init__(TOKEN, name, None, opts)
        self.name, self.given = name, given
        self.child = pulumi.ResourceOptions(parent=self)
        self.automatic = bool((given.get("autoMode") or {}).get("enabled"))
        tags = given.get("tags")
        cluster_role = ServiceRole(f"{name}-eksRole", "eks.amazonaws.com", _CLUSTER_POLICIES, tags, self.child)
        node_role = None
        if self.automatic:
            node_role = ServiceRole(f"{name}-nodeRole", "ec2.amazonaws.com", _NODE_POLICIES, tags, self.child)
        self.cluster = self._cluster(cluster_role, node_role)
        self._access_entries()
        if (given.get("corednsAddonOptions") or {}).get("enabled", True):
            aws.eks.Addon(f"{name}-coredns", cluster_name=self.cluster.name, addon_name="coredns", opts=self.child)
        if not given.get("skipDefaultNodeGroup"):
            self._instance_role()
        parts = pulumi.Output.all(
            name=self.cluster.name,
            server=pulumi.Output.all(self.cluster.endpoint, self.cluster.urn).apply(self._awaited),
            authority=self.cluster.certificate_authority.data,
            region=self.cluster.arn.apply(lambda arn: arn.split(":")[3]),
            credentials=_credentials(given),
        )
        kubeconfig = parts.apply(_kubeconfig)
        own = parts.apply(lambda known: _kubeconfig(known, with_profile=True))
        k8s.Provider(f"{name}-eks-k8s", kubeconfig=own.apply(json.dumps), opts=self.child)
        self.state = {
            "kubeconfig": kubeconfig,
            "kubeconfigJson": kubeconfig.apply(json.dumps),
            "eksCluster": self.cluster,
            "autoModeNodeRoleName": node_role.role.name if node_role else "",
            "clusterSecurityGroupId": self.cluster.vpc_config.apply(lambda config: config.cluster_security_group_id),
            "oidcIssuer": self.cluster.endpoint,
        }
        self.register_outputs({})

    def _awaited(self, known: list[str]) -> str:
        """Wait until the API server answers, on every `up` with public access."""
        endpoint, urn = known
        if not pulumi.runtime.is_dry_run() and self.given.get("endpointPublicAccess"):
            cloud = Cloud.here()
            (found,) = [thing for thing in cloud.things(EKS_CLUSTER) if thing.values["endpoint"] == endpoint]
            if not sign_in.is_reachable(cloud, found.values):
                now = time.time()
                cloud.record(Event("wait", EKS_CLUSTER, found.id, urn, now, now + HEALTH_SECONDS))
        return endpoint

    def _subnets(self) -> pulumi.Output[list[str]]:
        if self.given.get("subnetIds") is not None:
            return pulumi.Output.from_input(self.given["subnetIds"])
        both = (self.given.get("publicSubnetIds") or [], self.given.get("privateSubnetIds") or [])
        return pulumi.Output.all(*both).apply(lambda pair: [*pair[0], *pair[1]])

    def _cluster(self, role: ServiceRole, node_role: ServiceRole | None) -> aws.eks.Cluster:
        given = self.given
        # Unknown as wholes in a preview, as the official ones are: each hangs on an output.
        key = given.get("encryptionConfigKeyArn")
        encryption = None if key is None else pulumi.Output.from_input(key).apply(_encryption)
        compute = storage = network = None
        if node_role is not None:
            arn = node_role.role.arn
            compute, storage, network = arn.apply(_compute), arn.apply(_storage), arn.apply(_network)
        attachments = [*role.attachments, *(node_role.attachments if node_role else [])]
        return aws.eks.Cluster(
            f"{self.name}-eksCluster",
            name=given.get("name"),
            role_arn=role.role.arn,
            compute_config=compute,
            storage_config=storage,
            kubernetes_network_config=network,
            bootstrap_self_managed_addons=not self.automatic,
            vpc_config=aws.eks.ClusterVpcConfigArgs(
                subnet_ids=self._subnets(),
                endpoint_private_access=given.get("endpointPrivateAccess"),
                endpoint_public_access=given.get("endpointPublicAccess"),
                public_access_cidrs=given.get("publicAccessCidrs"),
            ),
            version=given.get("version"),
            enabled_cluster_log_types=given.get("enabledClusterLogTypes"),
            tags=pulumi.Output.all(given.get("tags") or {}, given.get("clusterTags") or {}).apply(
                lambda both: {"Name": f"{self.name}-eksCluster", **both[1], **both[0]}
            ),
            encryption_config=encryption,
            access_config=aws.eks.ClusterAccessConfigArgs(
                authentication_mode=given["authenticationMode"], bootstrap_cluster_creator_admin_permissions=True
            )
            if given.get("authenticationMode")
            else None,
            upgrade_policy=given.get("upgradePolicy"),
            deletion_protection=given.get("deletionProtection"),
            opts=pulumi.ResourceOptions(
                parent=self,
                depends_on=attachments,
                ignore_changes=[
                    "accessConfig.bootstrapClusterCreatorAdminPermissions",
                    "bootstrapSelfManagedAddons",
                ],
            ),
        )

    def _access_entries(self) -> None:
        for key, entry in (self.given.get("accessEntries") or {}).items():
            made = aws.eks.AccessEntry(
                f"{self.name}-{key}",
                cluster_name=self.cluster.name,
                principal_arn=entry["principalArn"],
                kubernetes_groups=entry.get("kubernetesGroups"),
                type=entry.get("type"),
                user_name=entry.get("username"),
                tags=entry.get("tags"),
                opts=pulumi.ResourceOptions(parent=self, depends_on=[self.cluster]),
            )
            for policy_key, policy in (entry.get("accessPolicies") or {}).items():
                aws.eks.AccessPolicyAssociation(
                    f"{self.name}-{key}-{policy_key}",
                    cluster_name=self.cluster.name,
                    principal_arn=entry["principalArn"],
                    policy_arn=policy["policyArn"],
                    access_scope=policy["accessScope"],
                    opts=pulumi.ResourceOptions(parent=made, depends_on=[made]),
                )

    def _instance_role(self) -> None:
        role = ServiceRole(f"{self.name}-instanceRole", "ec2.amazonaws.com", _NODE_POLICIES, None, self.child)
        aws.iam.InstanceProfile(f"{self.name}-instanceProfile", role=role.role.name, opts=self.child)
        aws.eks.AccessEntry(
            f"{self.name}-instanceRole",
            cluster_name=self.cluster.name,
            principal_arn=role.role.arn,
            type="EC2_LINUX",
            opts=self.child,
        )


def _compute(node_role: str) -> aws.eks.ClusterComputeConfigArgs:
    pools = ["general-purpose", "system"]
    return aws.eks.ClusterComputeConfigArgs(enabled=True, node_role_arn=node_role, node_pools=pools)


def _storage(_: str) -> aws.eks.ClusterStorageConfigArgs:
    return aws.eks.ClusterStorageConfigArgs(block_storage=aws.eks.ClusterStorageConfigBlockStorageArgs(enabled=True))


def _network(_: str) -> aws.eks.ClusterKubernetesNetworkConfigArgs:
    balancing = aws.eks.ClusterKubernetesNetworkConfigElasticLoadBalancingArgs(enabled=True)
    return aws.eks.ClusterKubernetesNetworkConfigArgs(ip_family="ipv4", elastic_load_balancing=balancing)


def _encryption(key: str) -> aws.eks.ClusterEncryptionConfigArgs:
    provider = aws.eks.ClusterEncryptionConfigProviderArgs(key_arn=key)
    return aws.eks.ClusterEncryptionConfigArgs(provider=provider, resources=["secrets"])


def _credentials(given: dict[str, Any]) -> Any:
    """The component's providerCredentialOpts; without any, the profile of the environment or of the stack."""
    credentials = given.get("providerCredentialOpts")
    if credentials is not None:
        return credentials
    profile = os.environ.get("AWS_PROFILE") or pulumi.Config("aws").get("profile")
    return {"profileName": profile} if profile else {}


def _kubeconfig(values: dict[str, Any], *, with_profile: bool = False) -> dict[str, Any]:
    if real := os.environ.get(KUBECONFIG_VARIABLE):
        return yaml.safe_load(Path(real).read_text())
    name, region, credentials = values["name"], values["region"], values["credentials"]
    arguments = ["--region", region, "eks", "get-token", "--cluster-name", name, "--output", "json"]
    if role := credentials.get("roleArn"):
        arguments += ["--role", role]
    if with_profile and (profile := credentials.get("profileName")):
        arguments += ["--profile", profile]
    environment = [{"name": "KUBERNETES_EXEC_INFO", "value": '{"apiVersion": "client.authentication.k8s.io/v1beta1"}'}]
    cluster = {"server": values["server"], "certificate-authority-data": values["authority"]}
    user = {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1beta1",
            "command": "aws",
            "args": arguments,
            "env": environment,
        }
    }
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "aws",
        "clusters": [{"name": "kubernetes", "cluster": cluster}],
        "contexts": [{"name": "aws", "context": {"cluster": "kubernetes", "user": "aws"}}],
        "users": [{"name": "aws", "user": user}],
    }


class Eks(Provider):
    def construct(self, name: str, resource_type: str, inputs: Any, options: Any = None) -> ConstructResult:
        cluster = Cluster(name, dict(inputs), options)
        return ConstructResult(urn=cluster.urn, state=cluster.state)


def mistakes(inputs: dict[str, Any]) -> list[schema.Failure]:
    found = schema.resource_class(TOKEN)
    assert found is not None
    failures = schema.failures(schema.args_class(found), inputs)
    given = wire.plain(inputs)
    automatic = wire.get(given, "autoMode.enabled") is True
    if automatic and given.get("authenticationMode") not in {"API", "API_AND_CONFIG_MAP"}:
        reason = "Access entries are required when using EKS Auto Mode: use 'API' or 'API_AND_CONFIG_MAP'"
        failures.append(("authenticationMode", reason))
    if given.get("publicAccessCidrs") and given.get("endpointPublicAccess", True) is False:
        failures.append(("publicAccessCidrs", "can only be set when `endpointPublicAccess` is true"))
    if "subnetIds" in given and ("publicSubnetIds" in given or "privateSubnetIds" in given):
        failures.append(("subnetIds", "and the use of publicSubnetIds or privateSubnetIds are mutually exclusive"))
    return failures


class Servicer(ProviderServicer):
    """Looks at the inputs before anything is constructed from them."""

    async def _construct(self, request: Any, context: Any) -> Any:
        if request.type != TOKEN:
            raise InputPropertiesError(f"the stand-in makes {TOKEN} only, no {request.type}")
        if shutil.which("aws") is None:
            raise InputPropertiesError("Could not find aws CLI for EKS.")
        failures = mistakes(wire.decode(request.inputs))
        if failures:
            raise InputPropertiesError(
                f"{request.name}: " + "; ".join(f"{path}: {reason}" for path, reason in failures),
                [{"property_path": path, "reason": reason} for path, reason in failures],
            )
        return await super()._construct(request, context)


async def serve(engine: str) -> None:
    server = grpc.aio.server(options=_GRPC_CHANNEL_OPTIONS)
    servicer = Servicer(Eks("99.0.0"), [], engine_address=engine)
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(servicer, server)
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()


def main() -> None:
    """Serve until the engine ends this process."""
    engine = next(argument for argument in sys.argv[1:] if not argument.startswith("-"))
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(engine))
