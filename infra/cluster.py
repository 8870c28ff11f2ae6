"""Cluster: EKS Auto Mode, guarded and logged, with a pool of nodes for the model."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws
import pulumi_eks as eks
import pulumi_kubernetes as k8s

from infra import kms, naming
from infra.cluster_creator import principal_of
from infra.config.schema import Architecture, ClusterSettings, SignIn

LOG_TYPES = ("api", "audit", "authenticator", "controllerManager", "scheduler")
GPU_TAINT = "nvidia.com/gpu"


@dataclass(frozen=True, kw_only=True)
class ClusterArgs:
    settings: ClusterSettings
    """`protect` makes the cluster and its key refuse to be deleted, by Pulumi and by EKS."""
    architecture: Architecture
    """CPU of the model's nodes; a change replaces the nodes one by one."""
    gpus: int
    """NVIDIA GPUs of a replica; above 0 the model's nodes have GPUs and take nothing else."""
    vpc_id: pulumi.Input[str]
    """Changing it replaces the cluster."""
    private_subnet_ids: pulumi.Input[Sequence[str]]
    """At least two, in different zones. Only private ones: Auto Mode puts nodes in every subnet that it is given."""
    tags: Mapping[str, str]
    """Tags of every AWS resource, also of those that pulumi-eks makes."""
    sign_in: SignIn
    """How the aws provider signs in, so that the kubeconfig can say the same."""
    creator: str | None
    """The principal that made the cluster, as `principal_of` names it, who gets no access entry; None: unknown."""
    live_name: str | None = None
    """Name of the stack's live cluster, kept when the stack is renamed: another one would replace the cluster. None:
    there is no cluster yet."""


class Cluster(pulumi.ComponentResource):
    """The control plane, its key and logs, who may administer it, metrics-server and the model's nodes.

    Workloads name this component in `depends_on` besides using its `provider`: they need the node pool and
    metrics-server, and must be deleted before both.
    """

    provider: k8s.Provider
    """Give it to every Kubernetes resource."""
    name: pulumi.Output[str]
    """The name of the cluster in EKS."""
    kubeconfig: pulumi.Output[str]
    """Secret. JSON; it runs `aws eks get-token`, so that its user needs the AWS CLI and access of their own."""
    node_selector: Mapping[str, str]
    """Puts a pod on the model's nodes."""
    tolerations: Sequence[k8s.core.v1.TolerationArgs]
    """Pass to pods that run on the model's nodes."""

    def __init__(self, name: str, args: ClusterArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("model-endpoint:cluster:Cluster", name, None, opts)
        self._name = name
        self._args = args
        self._prefix = (
            args.live_name.rpartition("-")[0]
            if args.live_name
            else name_prefix(pulumi.get_project(), pulumi.get_stack())
        )
        self._guarded = pulumi.ResourceOptions(parent=self, protect=args.settings.protect)
        key = self._key()
        self.name = key.id.apply(lambda key_id: cluster_name(self._prefix, key_id))
        control_plane = self._control_plane(key, self._logs(key))
        self._metrics_server(control_plane)
        self.kubeconfig = pulumi.Output.secret(
            control_plane.kubeconfig_json.apply(lambda text: signed_in(text, args.sign_in))
        )
        self.provider = self._kubernetes_provider(control_plane)
        self._network_policies()
        self.node_selector = {"karpenter.sh/nodepool": self._node_pool()}
        self.tolerations = (
            [k8s.core.v1.TolerationArgs(key=GPU_TAINT, operator="Exists", effect="NoSchedule")] if args.gpus else []
        )
        self.register_outputs({"name": self.name, "kubeconfig": self.kubeconfig})

    def _tagged(self, what: str) -> dict[str, str]:
        return {**self._args.tags, "Name": f"{self._prefix}-{what}"}

    def _key(self) -> aws.kms.Key:
        invoke_opts = pulumi.InvokeOutputOptions(parent=self)
        caller = aws.get_caller_identity_output(opts=invoke_opts)
        region = aws.get_region_output(opts=invoke_opts).region
        return kms.make_key(
            f"{self._name}-key",
            f"Kubernetes secrets and control-plane logs of {self._prefix}",
            policy=pulumi.Output.all(caller.arn, region).apply(
                lambda known: kms.log_key_policy(
                    "ControlPlaneLogs", known[0], known[1], log_group_name(f"{self._prefix}-*")
                )
            ),
            tags=self._tagged("cluster"),
            protect=self._args.settings.protect,
            parent=self,
        )

    def _logs(self, key: aws.kms.Key) -> aws.cloudwatch.LogGroup:
        return aws.cloudwatch.LogGroup(
            f"{self._name}-logs",
            name=self.name.apply(log_group_name),
            retention_in_days=self._args.settings.log_retention_days,
            kms_key_id=key.arn,
            tags=self._tagged("control-plane"),
            opts=pulumi.ResourceOptions(parent=self),
        )

    def _control_plane(self, key: aws.kms.Key, logs: aws.cloudwatch.LogGroup) -> eks.Cluster:
        args, settings = self._args, self._args.settings
        return eks.Cluster(
            f"{self._name}-eks",
            name=self.name,
            version=settings.kubernetes_version,
            upgrade_policy=aws.eks.ClusterUpgradePolicyArgs(support_type="STANDARD"),
            deletion_protection=settings.protect,
            vpc_id=args.vpc_id,
            private_subnet_ids=args.private_subnet_ids,
            endpoint_private_access=True,
            # pulumi-eks waits for the API server only where this is given and true.
            endpoint_public_access=bool(settings.public_access_cidrs),
            public_access_cidrs=list(settings.public_access_cidrs) or None,
            authentication_mode=eks.AuthenticationMode.API,
            access_entries=access_entries(settings.admin_principal_arns, args.tags, args.creator),
            auto_mode=eks.AutoModeOptionsArgs(enabled=True),
            # Auto Mode has its own DNS and its own node role; pulumi-eks makes both a second time [pulumi-eks#1726].
            coredns_addon_options=eks.CoreDnsAddonOptionsArgs(enabled=False),
            skip_default_node_group=True,
            # Without it the AWS_PROFILE of whoever runs `up` is kept in the state, and every colleague's is a change.
            provider_credential_opts=eks.KubeconfigOptionsArgs(),
            encryption_config_key_arn=key.arn,
            enabled_cluster_log_types=list(LOG_TYPES),
            tags={**args.tags},
            # EKS makes the log group itself, without retention, where there is none.
            opts=pulumi.ResourceOptions.merge(self._guarded, pulumi.ResourceOptions(depends_on=[logs])),
        )

    def _metrics_server(self, control_plane: eks.Cluster) -> None:
        aws.eks.Addon(
            f"{self._name}-metrics-server",
            cluster_name=self.name,
            addon_name="metrics-server",
            resolve_conflicts_on_create="OVERWRITE",
            resolve_conflicts_on_update="OVERWRITE",
            tags=self._tagged("metrics-server"),
            opts=pulumi.ResourceOptions(parent=self, depends_on=[control_plane]),
        )

    def _kubernetes_provider(self, control_plane: eks.Cluster) -> k8s.Provider:
        return k8s.Provider(
            f"{self._name}-kubernetes",
            kubeconfig=self.kubeconfig,
            # The provider, and with it every workload, is replaced when this changes and only then.
            cluster_identifier=pulumi.Output.unsecret(control_plane.kubeconfig_json.apply(server_address)),
            enable_server_side_apply=True,
            opts=pulumi.ResourceOptions(parent=self, depends_on=[control_plane]),
        )

    def _network_policies(self) -> None:
        k8s.core.v1.ConfigMap(
            f"{self._name}-network-policy",
            # Auto Mode stores network policies and enforces them only where this is set [docs.aws.amazon.com,
            # eks/latest/userguide/auto-net-pol]; its default node class allows what no policy speaks of.
            metadata=k8s.meta.v1.ObjectMetaArgs(
                name="amazon-vpc-cni", namespace="kube-system", annotations=naming.TAKES_FIELDS_BACK
            ),
            data={"enable-network-policy-controller": "true"},
            opts=pulumi.ResourceOptions(parent=self, provider=self.provider),
        )

    def _node_pool(self) -> str:
        """Make the pool of the model's nodes; its name."""
        pool = f"{self._name}-model"
        k8s.apiextensions.CustomResource(
            f"{self._name}-nodes",
            api_version="karpenter.sh/v1",
            kind="NodePool",
            metadata=k8s.meta.v1.ObjectMetaArgs(name=pool, annotations=naming.TAKES_FIELDS_BACK),
            spec=node_pool_spec(self._args.settings, self._args.architecture, self._args.gpus),
            opts=pulumi.ResourceOptions(parent=self, provider=self.provider),
        )
        return pool


def name_prefix(project: str, stack: str) -> str:
    """Spell the readable part of the cluster's name, in the characters and the length that EKS takes."""
    return re.sub(r"[^A-Za-z0-9-]", "-", f"{project}-{stack}").lstrip("-")[:90] or naming.APP


def cluster_name(prefix: str, key_id: str) -> str:
    """Derive a name that stays as long as the cluster's key, and that no cluster of another key has had.

    The name must be known before the cluster, for its log group; and EKS may write a last line, and so bring the log
    group back, after both were deleted: with a fixed name the next `up` would find it in its way.
    """
    return f"{prefix}-{hashlib.sha256(key_id.encode()).hexdigest()[:7]}"


def log_group_name(cluster: str) -> str:
    """Name of the log group that EKS writes the control plane's logs to; EKS leaves no choice."""
    return f"/aws/eks/{cluster}/cluster"


def access_entries(
    principal_arns: Sequence[str], tags: Mapping[str, str], creator: str | None
) -> dict[str, eks.AccessEntryArgs]:
    """Key the administrators' access entries by account and name, so that the order of the list does not matter.

    `creator` is left out: EKS made that entry together with the cluster, and refuses another [pulumi-eks#2373].
    """
    entries: dict[str, eks.AccessEntryArgs] = {}
    for arn in principal_arns:
        if principal_of(arn) == creator:
            continue
        _, partition, _, _, account, principal = arn.split(":", 5)
        entries[f"{account}/{principal}"] = eks.AccessEntryArgs(
            principal_arn=arn,
            access_policies={
                "admin": eks.AccessPolicyAssociationArgs(
                    policy_arn=f"arn:{partition}:eks::aws:cluster-access-policy/AmazonEKSClusterAdminPolicy",
                    access_scope=aws.eks.AccessPolicyAssociationAccessScopeArgs(type="cluster"),
                )
            },
            tags=dict(tags),
        )
    return entries


def signed_in(kubeconfig: str, sign_in: SignIn) -> str:
    """Let a kubeconfig's `aws eks get-token` sign in as the aws provider does; pulumi-eks does not [pulumi-eks#669]."""
    options = {"--profile": sign_in.profile, "--role-arn": sign_in.role_arn}
    told = [part for option, value in options.items() if value for part in (option, value)]
    if not told:
        return kubeconfig
    parsed = json.loads(kubeconfig)
    for user in parsed["users"]:
        user["user"]["exec"]["args"] += told
    return json.dumps(parsed)


def server_address(kubeconfig: str) -> str:
    """URL of the API server: EKS gives every cluster one of its own, and keeps it."""
    return str(json.loads(kubeconfig)["clusters"][0]["cluster"]["server"])


def node_pool_spec(settings: ClusterSettings, architecture: Architecture, gpus: int) -> dict[str, object]:
    """Spec of the model's Karpenter NodePool [EKS user guide, Create a Node Pool for EKS Auto Mode]."""
    template: dict[str, object] = {
        "nodeClassRef": {"group": "eks.amazonaws.com", "kind": "NodeClass", "name": "default"},
        "requirements": _requirements(settings, architecture, gpus),
    }
    if gpus:
        template["taints"] = [{"key": GPU_TAINT, "effect": "NoSchedule"}]
    return {
        "template": {"spec": template},
        "disruption": {
            "consolidationPolicy": "WhenEmptyOrUnderutilized",
            "consolidateAfter": "5m",
            "budgets": [{"nodes": "10%"}],
        },
    }


def _requirements(settings: ClusterSettings, architecture: Architecture, gpus: int) -> list[dict[str, object]]:
    # On-Demand takes over where Spot has run out, and leaves again when consolidation finds Spot.
    capacity = ("spot", "on-demand") if settings.spot else ("on-demand",)
    found = [_one_of("kubernetes.io/arch", [architecture]), _one_of("karpenter.sh/capacity-type", capacity)]
    if gpus:
        found.append(_one_of("eks.amazonaws.com/instance-gpu-manufacturer", ["nvidia"]))
    if settings.instance_families:
        found.append(_one_of("eks.amazonaws.com/instance-family", settings.instance_families))
    elif not gpus:
        # What the built-in pools take.
        found.append(_one_of("eks.amazonaws.com/instance-category", ["c", "m", "r"]))
        found.append({"key": "eks.amazonaws.com/instance-generation", "operator": "Gt", "values": ["4"]})
    return found


def _one_of(key: str, values: Sequence[str]) -> dict[str, object]:
    return {"key": key, "operator": "In", "values": list(values)}
