from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from infra import cluster
from infra.cluster import Cluster, ClusterArgs
from infra.config.schema import ClusterSettings, SignIn
from tests.unit import mocked

TAGS = {"project": "p", "stack": "s"}
SERVER = "https://0123456789ABCDEF.gr7.us-east-1.eks.amazonaws.com"
KUBECONFIG = json.dumps(
    {
        "clusters": [{"name": "kubernetes", "cluster": {"server": SERVER}}],
        "users": [{"name": "aws", "user": {"exec": {"command": "aws", "args": ["eks", "get-token"]}}}],
    }
)
ROLE = "arn:aws:iam::111122223333:role/team/platform"
AS_THE_ENVIRONMENT_SAYS = SignIn()
DEV = ClusterSettings(
    kubernetes_version="1.34",
    public_access_cidrs=("203.0.113.7/32",),
    admin_principal_arns=(ROLE,),
    log_retention_days=7,
    instance_families=(),
    spot=False,
    protect=False,
)
PROD = dataclasses.replace(DEV, protect=True, log_retention_days=365)


def make(
    settings: ClusterSettings = DEV,
    *,
    architecture: Any = "amd64",
    gpus: int = 0,
    preview: bool = False,
    live_name: str | None = None,
    sign_in: SignIn = AS_THE_ENVIRONMENT_SAYS,
    creator: str | None = None,
) -> mocked.Run[Cluster]:
    args = ClusterArgs(
        settings=settings,
        architecture=architecture,
        gpus=gpus,
        vpc_id="vpc-1",
        private_subnet_ids=["subnet-1", "subnet-2"],
        tags=TAGS,
        live_name=live_name,
        sign_in=sign_in,
        creator=creator,
    )
    return mocked.run(
        lambda: Cluster("cluster", args),
        preview=preview,
        outputs={"eks:index:Cluster": {"kubeconfigJson": KUBECONFIG}},
    )


def control_plane(settings: ClusterSettings = DEV) -> mocked.Resource:
    return make(settings).one("eks:index:Cluster")


def requirements(run: mocked.Run[Cluster]) -> dict[str, tuple[str, list[str]]]:
    listed = run.one("NodePool").inputs["spec"]["template"]["spec"]["requirements"]
    return {each["key"]: (each["operator"], each["values"]) for each in listed}


def test_network_policies_are_enforced() -> None:
    switch = make().one("ConfigMap")
    metadata = switch.inputs["metadata"]
    assert metadata.items() >= {"name": "amazon-vpc-cni", "namespace": "kube-system"}.items()
    assert switch.inputs["data"] == {"enable-network-policy-controller": "true"}
    assert switch.provider == "cluster-kubernetes"


def test_auto_mode_with_api_authentication() -> None:
    inputs = control_plane().inputs
    assert inputs["autoMode"]["enabled"] is True
    assert inputs["authenticationMode"] == "API"


def test_correction_1_no_second_coredns() -> None:
    assert control_plane().inputs["corednsAddonOptions"]["enabled"] is False


def test_correction_2_no_unused_instance_role() -> None:
    inputs = control_plane().inputs
    assert inputs["skipDefaultNodeGroup"] is True
    assert "createInstanceRole" not in inputs


def test_correction_3_private_subnets_only() -> None:
    inputs = control_plane().inputs
    assert inputs["privateSubnetIds"] == ["subnet-1", "subnet-2"]
    assert inputs["vpcId"] == "vpc-1"
    assert "publicSubnetIds" not in inputs
    assert "subnetIds" not in inputs


def test_correction_4_public_access_is_said_either_way() -> None:
    inputs = control_plane().inputs
    assert inputs["endpointPublicAccess"] is True
    assert inputs["publicAccessCidrs"] == ["203.0.113.7/32"]
    assert inputs["endpointPrivateAccess"] is True
    private = control_plane(dataclasses.replace(DEV, public_access_cidrs=())).inputs
    assert private["endpointPublicAccess"] is False
    assert "publicAccessCidrs" not in private
    assert private["endpointPrivateAccess"] is True


def test_correction_5_keys_of_tags_and_requirements_reach_the_wire_untranslated() -> None:
    run = make()
    assert run.one("eks:index:Cluster").inputs["tags"] == TAGS
    assert "eks.amazonaws.com/instance-category" in requirements(run)


def test_version_and_support() -> None:
    inputs = control_plane().inputs
    assert inputs["version"] == "1.34"
    assert inputs["upgradePolicy"] == {"supportType": "STANDARD"}


def test_administrators_have_access_entries() -> None:
    (entry,) = control_plane().inputs["accessEntries"].items()
    key, value = entry
    assert key == "111122223333/role/team/platform"
    assert value["principalArn"] == ROLE
    assert value["tags"] == TAGS
    assert value["accessPolicies"]["admin"] == {
        "policyArn": "arn:aws:eks::aws:cluster-access-policy/AmazonEKSClusterAdminPolicy",
        "accessScope": {"type": "cluster"},
    }


def test_the_creator_has_an_access_entry_already_and_gets_no_second_one() -> None:
    inputs = make(creator="111122223333/role/platform").one("eks:index:Cluster").inputs
    assert not inputs.get("accessEntries")


def test_access_entries_keep_their_partition() -> None:
    entries = cluster.access_entries([ROLE, "arn:aws-cn:iam::111122223333:user/a"], {}, creator=None)
    assert set(entries) == {"111122223333/role/team/platform", "111122223333/user/a"}
    policies: Any = entries["111122223333/user/a"].access_policies
    assert policies["admin"].policy_arn.startswith("arn:aws-cn:eks::aws:")


@pytest.mark.parametrize(
    ("sign_in", "told"),
    [
        (SignIn(), []),
        (SignIn(profile="team"), ["--profile", "team"]),
        (SignIn(role_arn=ROLE), ["--role-arn", ROLE]),
        (SignIn(profile="team", role_arn=ROLE), ["--profile", "team", "--role-arn", ROLE]),
    ],
)
def test_the_workloads_provider_signs_in_as_the_stack_says(sign_in: SignIn, told: list[str]) -> None:
    run = make(sign_in=sign_in)
    kubeconfig = run.named("cluster-kubernetes").inputs["kubeconfig"]
    assert mocked.resolve(run.result.kubeconfig).value == kubeconfig
    (user,) = json.loads(kubeconfig)["users"]
    assert user["user"]["exec"]["args"] == ["eks", "get-token", *told]
    assert told or kubeconfig == KUBECONFIG


def test_the_profile_of_whoever_runs_up_stays_out_of_the_state() -> None:
    assert control_plane().inputs["providerCredentialOpts"] == {}


def test_secrets_are_encrypted_with_a_key_of_their_own() -> None:
    run = make()
    key = run.one("aws:kms/key:Key")
    assert key.inputs["enableKeyRotation"] is True
    assert run.one("eks:index:Cluster").inputs["encryptionConfigKeyArn"].endswith(":cluster-key")


def test_key_is_for_the_account_and_for_the_logs_of_this_cluster() -> None:
    account, logs = json.loads(make().one("aws:kms/key:Key").inputs["policy"])["Statement"]
    assert account["Principal"] == {"AWS": "arn:aws:iam::111122223333:root"}
    assert logs["Principal"] == {"Service": "logs.us-east-1.amazonaws.com"}
    assert "kms:*" not in logs["Action"]
    pattern = "arn:aws:logs:us-east-1:111122223333:log-group:/aws/eks/model-endpoint-dev-*/cluster"
    assert logs["Condition"] == {"ArnLike": {"kms:EncryptionContext:aws:logs:arn": pattern}}


def test_control_plane_logs_are_kept_as_long_as_configured() -> None:
    run = make(PROD)
    plane, group = run.one("eks:index:Cluster"), run.one("LogGroup")
    assert sorted(plane.inputs["enabledClusterLogTypes"]) == [
        "api",
        "audit",
        "authenticator",
        "controllerManager",
        "scheduler",
    ]
    assert group.inputs["retentionInDays"] == 365
    assert group.inputs["name"] == f"/aws/eks/{plane.inputs['name']}/cluster"
    assert group.inputs["kmsKeyId"].endswith(":cluster-key")
    assert group.name in plane.dependencies


def test_cluster_name_is_stable_readable_and_new_with_each_key() -> None:
    name = cluster.cluster_name("model-endpoint-dev", "key-1")
    assert name == cluster.cluster_name("model-endpoint-dev", "key-1")
    assert name != cluster.cluster_name("model-endpoint-dev", "key-2")
    assert name.startswith("model-endpoint-dev-")
    prefix = cluster.name_prefix("p" * 80, "feature_x.y" * 5)
    assert len(cluster.cluster_name(prefix, "key")) <= 100
    assert set("._").isdisjoint(prefix)


def test_a_renamed_stack_keeps_its_cluster_s_name() -> None:
    run = make(live_name=cluster.cluster_name("model-endpoint-first", "cluster-key-id"))
    assert run.one("eks:index:Cluster").inputs["name"] == cluster.cluster_name("model-endpoint-first", "cluster-key-id")
    policy = run.one("aws:kms/key:Key").inputs["policy"]
    assert "log-group:/aws/eks/model-endpoint-first-*/cluster" in policy, "the log group keeps its name, too"


@pytest.mark.parametrize("settings", [DEV, PROD])
def test_protection_by_config(settings: ClusterSettings) -> None:
    run = make(settings)
    plane, key = run.one("eks:index:Cluster"), run.one("aws:kms/key:Key")
    assert plane.protect is key.protect is plane.inputs["deletionProtection"] is settings.protect
    assert key.inputs["deletionWindowInDays"] == (30 if settings.protect else 7)


def test_metrics_server_is_an_add_on_of_this_cluster() -> None:
    run = make()
    addon = run.one("Addon")
    assert addon.inputs["addonName"] == "metrics-server"
    assert addon.inputs["clusterName"] == run.one("eks:index:Cluster").inputs["name"]
    assert "cluster-eks" in addon.dependencies


def test_everything_that_takes_tags_is_tagged() -> None:
    run = make()
    aws = [r for r in run.resources if r.type.startswith(("aws:", "eks:"))]
    assert {r.type.rpartition(":")[2] for r in aws} == {"Key", "LogGroup", "Cluster", "Addon"}
    assert all(TAGS.items() <= r.inputs["tags"].items() for r in aws)


def test_provider_is_replaced_with_the_cluster_and_only_then() -> None:
    provider = make().one("pulumi:providers:kubernetes")
    assert provider.inputs["clusterIdentifier"] == SERVER
    assert provider.inputs["kubeconfig"] == KUBECONFIG
    assert provider.inputs["enableServerSideApply"] == "true"
    assert provider.secrets == {"kubeconfig"}
    assert "cluster-eks" in provider.dependencies


def test_kubeconfig_is_secret() -> None:
    run = make()
    assert mocked.resolve(run.result.kubeconfig) == mocked.Resolved(KUBECONFIG, known=True, secret=True)
    assert mocked.resolve(run.result.name).value == run.one("eks:index:Cluster").inputs["name"]


def test_node_pool_uses_the_nodes_that_auto_mode_knows() -> None:
    run = make()
    pool = run.one("NodePool")
    assert pool.type == "kubernetes:karpenter.sh/v1:NodePool"
    assert pool.provider == "cluster-kubernetes"
    assert pool.inputs["apiVersion"] == "karpenter.sh/v1"
    assert pool.inputs["kind"] == "NodePool"
    spec = pool.inputs["spec"]["template"]["spec"]
    assert spec["nodeClassRef"] == {"group": "eks.amazonaws.com", "kind": "NodeClass", "name": "default"}
    assert "taints" not in spec
    assert run.result.node_selector == {"karpenter.sh/nodepool": pool.inputs["metadata"]["name"]}
    assert run.result.tolerations == []
    assert requirements(run) == {
        "kubernetes.io/arch": ("In", ["amd64"]),
        "karpenter.sh/capacity-type": ("In", ["on-demand"]),
        "eks.amazonaws.com/instance-category": ("In", ["c", "m", "r"]),
        "eks.amazonaws.com/instance-generation": ("Gt", ["4"]),
    }


def test_nodes_are_disrupted_a_few_at_a_time() -> None:
    assert make().one("NodePool").inputs["spec"]["disruption"] == {
        "consolidationPolicy": "WhenEmptyOrUnderutilized",
        "consolidateAfter": "5m",
        "budgets": [{"nodes": "10%"}],
    }


def test_spot_graviton_and_families() -> None:
    settings = dataclasses.replace(DEV, spot=True, instance_families=("c8g", "m8g"))
    assert requirements(make(settings, architecture="arm64")) == {
        "kubernetes.io/arch": ("In", ["arm64"]),
        "karpenter.sh/capacity-type": ("In", ["spot", "on-demand"]),
        "eks.amazonaws.com/instance-family": ("In", ["c8g", "m8g"]),
    }


def test_gpu_nodes_take_only_who_asks_for_gpus() -> None:
    run = make(gpus=1)
    assert requirements(run) == {
        "kubernetes.io/arch": ("In", ["amd64"]),
        "karpenter.sh/capacity-type": ("In", ["on-demand"]),
        "eks.amazonaws.com/instance-gpu-manufacturer": ("In", ["nvidia"]),
    }
    spec = run.one("NodePool").inputs["spec"]["template"]["spec"]
    assert spec["taints"] == [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}]
    (toleration,) = run.result.tolerations
    assert (toleration.key, toleration.operator, toleration.effect) == ("nvidia.com/gpu", "Exists", "NoSchedule")


def test_gpu_families_are_a_choice_among_gpus() -> None:
    found = requirements(make(dataclasses.replace(DEV, instance_families=("g6",)), gpus=1))
    assert found["eks.amazonaws.com/instance-gpu-manufacturer"] == ("In", ["nvidia"])
    assert found["eks.amazonaws.com/instance-family"] == ("In", ["g6"])


def test_everything_waits_for_this_component() -> None:
    """What depends on the component waits for add-on and node pool, and is deleted before them."""

    def program() -> None:
        import pulumi
        import pulumi_aws as aws

        made = Cluster(
            "cluster",
            ClusterArgs(
                settings=DEV,
                architecture="amd64",
                gpus=0,
                vpc_id="v",
                private_subnet_ids=["a", "b"],
                tags=TAGS,
                sign_in=AS_THE_ENVIRONMENT_SAYS,
                creator=None,
            ),
        )
        aws.ssm.Parameter("user", type="String", value="x", opts=pulumi.ResourceOptions(depends_on=[made]))

    run = mocked.run(program, outputs={"eks:index:Cluster": {"kubeconfigJson": KUBECONFIG}})
    assert {"cluster-metrics-server", "cluster-nodes", "cluster-kubernetes"} <= run.named("user").dependencies


def test_first_preview_knows_neither_name_nor_kubeconfig() -> None:
    run = make(preview=True)
    assert len(run.resources) == len(make().resources)
    provider = run.one("pulumi:providers:kubernetes")
    assert provider.inputs["kubeconfig"] is mocked.UNKNOWN
    assert provider.inputs["clusterIdentifier"] is mocked.UNKNOWN
    assert run.one("eks:index:Cluster").inputs["name"] is mocked.UNKNOWN
    assert run.one("NodePool").inputs["metadata"]["name"] == "cluster-model"
