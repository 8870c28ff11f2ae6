"""The eks stand-in under the real engine: what the official component does that our program must live with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from tests.engine.conftest import MakeProject
from tests.standins import wire
from tests.standins.aws import EKS_CLUSTER
from tests.standins.component import HEALTH_SECONDS
from tests.standins.sign_in import ACCESS_ENTRY
from tests.support.engine_project import Project

PROVIDER = "pulumi:providers:kubernetes"
PROGRAM = """
import pulumi_aws as aws
import pulumi_eks as eks

vpc = aws.ec2.Vpc("vpc", cidr_block="10.0.0.0/16")
key = aws.kms.Key("key")
subnets = [aws.ec2.Subnet(f"{zone}", vpc_id=vpc.id, availability_zone=f"us-east-1{zone}") for zone in "ab"]
scope = aws.eks.AccessPolicyAssociationAccessScopeArgs(type="cluster")
admin = eks.AccessPolicyAssociationArgs(policy_arn="arn:aws:eks::aws:policy/Admin", access_scope=scope)
entry = eks.AccessEntryArgs(
    principal_arn="arn:aws:iam::123456789012:role/b", access_policies={"admin": admin}, tags={"owner": "team"}
)
eks.Cluster(
    "c",
    vpc_id=vpc.id,
    private_subnet_ids=[subnet.id for subnet in subnets],
    auto_mode=eks.AutoModeOptionsArgs(enabled=True),
    authentication_mode=eks.AuthenticationMode.API,
    coredns_addon_options=eks.CoreDnsAddonOptionsArgs(enabled=False),
    skip_default_node_group=True,
    encryption_config_key_arn=key.arn,
    endpoint_public_access=True,
    public_access_cidrs=["203.0.113.7/32"],
    access_entries={"b": entry},
)
"""


@dataclass(frozen=True)
class Bare:
    project: Project
    planned: dict[str, dict[str, Any]]
    """Inputs by type, of a preview from nothing."""

    def resource(self, type_: str) -> dict[str, Any]:
        (found,) = (each for each in self.project.resources() if each["type"] == type_)
        return found


@pytest.fixture(scope="module")
def bare(make_project: MakeProject) -> Bare:
    """A cluster by itself, as a colleague without a profile made it."""
    project = make_project("dev")
    (project.root / "__main__.py").write_text(PROGRAM)
    steps = json.loads(project.pulumi("preview", "--json").stdout)["steps"]
    project.up()
    return Bare(project, {step["newState"]["type"]: step["newState"].get("inputs", {}) for step in steps})


def test_parts_of_the_cluster_are_unknown_as_wholes_in_a_preview(bare: Bare) -> None:
    planned = bare.planned[EKS_CLUSTER]
    for part in ("computeConfig", "storageConfig", "kubernetesNetworkConfig", "encryptionConfig"):
        assert planned[part] == wire.UNKNOWN


def test_it_has_a_provider_of_its_own_with_a_plain_kubeconfig(bare: Bare) -> None:
    provider = bare.resource(PROVIDER)
    assert provider["parent"].endswith("eks:index:Cluster::c")
    kubeconfig = json.loads(provider["inputs"]["kubeconfig"])
    (user,), (cluster,) = kubeconfig["users"], kubeconfig["clusters"]
    assert cluster["cluster"].keys() == {"server", "certificate-authority-data"}
    assert user["user"].keys() == {"exec"}
    assert user["user"]["exec"]["args"][:2] == ["--region", "us-east-1"]


def test_access_entries_are_tagged_and_parents_of_their_policies(bare: Bare) -> None:
    entry = bare.resource(ACCESS_ENTRY)
    assert entry["inputs"]["tags"] == {"owner": "team"}
    assert bare.resource("aws:eks/accessPolicyAssociation:AccessPolicyAssociation")["parent"] == entry["urn"]


def test_a_profile_of_the_environment_is_written_into_its_own_provider(
    bare: Bare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(bare.project.environment, "AWS_PROFILE", "colleague")
    assert bare.project.pulumi("preview").steps() == [("update", PROVIDER, "c-eks-k8s")]


def test_every_up_waits_for_an_api_server_that_does_not_answer(bare: Bare) -> None:
    cloud = bare.project.cloud
    cloud.move_caller("198.51.100.1")
    for _ in range(2):
        bare.project.up("--expect-no-changes")
    cloud.move_caller("203.0.113.7")
    bare.project.up("--expect-no-changes")
    waited = [event.end - event.start for event in cloud.journal() if event.op == "wait"]
    assert waited == pytest.approx([HEALTH_SECONDS] * 2)


def test_how_the_cluster_was_bootstrapped_does_not_replace_it(bare: Bare) -> None:
    exported = bare.project.exported()
    for resource in exported["deployment"]["resources"]:
        if resource["type"] == EKS_CLUSTER:
            resource["inputs"]["bootstrapSelfManagedAddons"] = True
            resource["inputs"]["accessConfig"]["bootstrapClusterCreatorAdminPermissions"] = False
    file = bare.project.root.parent / "state.json"
    file.write_text(json.dumps(exported))
    bare.project.pulumi("stack", "import", "--file", str(file))
    assert not bare.project.pulumi("preview").changed()
