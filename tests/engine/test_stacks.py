"""The other ways to configure the project: guarded, on an existing cluster, with a domain, with borrowed parts."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.engine.conftest import MakeProject
from tests.engine.server import served
from tests.standins.aws import EKS_CLUSTER, REPOSITORY, ZONE
from tests.standins.cloud import Thing
from tests.standins.kubernetes import CLUSTER, DEPLOYMENT, SERVICE_
from tests.support.engine_project import Project, Ran

DIGEST = "sha256:" + "5" * 64
CIDRS = '["203.0.113.7/32"]'


def states(previewed: Ran) -> list[dict[str, Any]]:
    return [step["newState"] for step in json.loads(previewed.stdout)["steps"] if "newState" in step]


# --- inputs ---

TYPOS = """
import pulumi_aws as aws

aws.ecr.Repository("wrong", image_scanning_configuration={"scanOnPsh": True}, force_delete="yes", tags={"n": 1})
"""


def test_a_typo_fails_in_the_preview(make_project: MakeProject) -> None:
    project = make_project("dev")
    (project.root / "__main__.py").write_text(TYPOS)
    failed = project.pulumi("preview", ok=False)
    scanning = "imageScanningConfiguration"
    for path in (f"{scanning}.scanOnPsh", f"{scanning}.scanOnPush", "forceDelete", 'tags["n"]'):
        assert path in failed.text
    assert not project.cloud.things()


# --- stack prod ---


@pytest.fixture(scope="module")
def prod(make_project: MakeProject) -> Iterator[Project]:
    project = make_project("prod")
    with served(project.root.parent) as port:
        project.configure({"servicePort": port, "publicAccessCidrs": CIDRS})
        project.up()
        yield project


def test_every_object_takes_its_fields_back(prod: Project) -> None:
    """From hands and from other managers: else a conflict stops previews and `up`."""
    objects = [r for r in prod.resources() if r["type"].startswith("kubernetes:")]
    annotations = {r["urn"]: r["inputs"]["metadata"]["annotations"].get("pulumi.com/patchForce") for r in objects}
    assert len(objects) > 8
    assert set(annotations.values()) == {"true"}, annotations


def test_prod_survives_the_loss_of_a_zone_and_keeps_flow_logs(prod: Project) -> None:
    assert len(prod.cloud.things("aws:ec2/natGateway")) == 3
    assert len(prod.cloud.things("aws:ec2/flowLog")) == 1


def test_prod_refuses_to_be_destroyed(prod: Project) -> None:
    before = {(t.type, t.id) for t in prod.cloud.things()}
    protected = {r["type"] for r in prod.resources() if r.get("protect")}
    assert {"eks:index:Cluster", REPOSITORY, "aws:kms/key:Key"} <= protected
    refused = prod.pulumi("destroy", "--yes", ok=False)
    assert "protect" in refused.text
    assert {(t.type, t.id) for t in prod.cloud.things()} == before
    assert prod.cloud.only(EKS_CLUSTER).values["deletionProtection"] is True


SERVES = ("core/v1:Namespace", "core/v1:ServiceAccount", "networking.k8s.io/v1:NetworkPolicy", DEPLOYMENT, SERVICE_)


def serving(project: Project) -> set[tuple[str, str]]:
    """What a prediction needs on the cluster: as a hasty destroy must leave it."""
    return {(thing.type, thing.id) for thing in project.cloud.things() if thing.type.endswith(SERVES)}


def test_what_serves_in_prod_survives_a_destroy_without_a_preview(prod: Project) -> None:
    before = serving(prod)
    assert len(before) == len(SERVES)
    assert "protect" in prod.pulumi("destroy", "--yes", "--skip-preview", ok=False).text
    assert serving(prod) == before
    prod.up()
    assert not prod.orphans()


@pytest.mark.parametrize("kind", ["core/v1:Namespace", DEPLOYMENT, SERVICE_])
def test_what_serves_in_prod_is_not_replaced(prod: Project, kind: str) -> None:
    before = serving(prod)
    (urn,) = (r["urn"] for r in prod.resources() if r["type"].endswith(kind))
    assert "protect" in prod.up("--replace", urn, ok=False).text
    assert serving(prod) == before


# --- target kubernetes ---

TOKEN = "kubernetes-token-never-shown"
PASSWORD = "registry-password-never-shown"
SERVER = "https://192.0.2.10:6443"
REGISTRY = "registry.example.com"
KUBECONFIG = {
    "apiVersion": "v1",
    "kind": "Config",
    "current-context": "kind",
    "contexts": [{"name": "kind", "context": {"cluster": "kind", "user": "me"}}],
    "clusters": [{"name": "kind", "cluster": {"server": SERVER}}],
    "users": [{"name": "me", "user": {"token": TOKEN}}],
}


@pytest.fixture(scope="module")
def existing(make_project: MakeProject) -> Iterator[Project]:
    project = make_project("kind")
    (project.root / "pulumi_aws.py").write_text("raise ImportError('the target kubernetes has imported pulumi_aws')\n")
    (project.root / "pulumi_eks.py").write_text("raise ImportError('the target kubernetes has imported pulumi_eks')\n")
    kubeconfig = project.root.parent / "kubeconfig"
    kubeconfig.write_text(json.dumps(KUBECONFIG))
    project.cloud.add(Thing(type=CLUSTER, id=SERVER))
    project.cloud.allow_login(REGISTRY, "robot", PASSWORD)
    with served(project.root.parent) as port:
        plain = {
            "target": "kubernetes",
            "kubeconfig": kubeconfig,
            "repository": f"{REGISTRY}/team/model",
            "registryUsername": "robot",
            "servicePort": port,
        }
        project.configure(plain, {"registryPassword": PASSWORD})
        project.up()
        yield project


def test_an_existing_cluster_needs_no_aws(existing: Project) -> None:
    assert not existing.cloud.things("aws:")
    assert len(existing.cloud.images(f"{REGISTRY}/team/model")) == 1
    assert existing.cloud.only(SERVICE_).values["spec"].get("loadBalancerClass") is None
    assert not existing.up("--expect-no-changes").changed()


def test_an_existing_cluster_keeps_its_secrets(existing: Project) -> None:
    existing.pulumi("stack", "export")
    existing.pulumi("stack", "output", "--json")
    said = [ran.text + json.dumps(ran.events) for ran in existing.said]
    files = [path.read_text(errors="replace") for path in existing.state.rglob("*") if path.is_file()]
    assert any(SERVICE_ in text for text in files)
    for value in (TOKEN, PASSWORD):
        for form in (value, base64.b64encode(value.encode()).decode().rstrip("=")):
            assert not [text for text in said + files if form in text]


def test_an_existing_cluster_is_left_as_it_was(existing: Project) -> None:
    existing.pulumi("destroy", "--yes")
    assert [(t.type, t.id) for t in existing.cloud.things()] == [(CLUSTER, SERVER)]


# --- config that changes the shape of stack dev, previewed from nothing ---


def test_a_folder_of_the_users_own_is_built_and_deployed_by_digest(existing: Project) -> None:
    existing.configure({"build": "examples/document"})
    existing.up()
    image = existing.cloud.images(f"{REGISTRY}/team/model")
    assert len(image) == 2, "the model's and this one"
    (container,) = existing.cloud.only(DEPLOYMENT).values["spec"]["template"]["spec"]["containers"]
    assert container["image"].startswith(f"{REGISTRY}/team/model@sha256:")
    assert all(container[probe]["tcpSocket"] for probe in ("startupProbe", "readinessProbe", "livenessProbe"))
    assert not existing.up("--expect-no-changes").changed()
    existing.forget("build")
    existing.up()


def test_a_domain_makes_the_endpoint_https(make_project: MakeProject) -> None:
    project = make_project("dev")
    project.cloud.add(Thing(type=ZONE, id="Z0123456789", outputs={"name": "example.com"}))
    project.configure({"domain": "predict.example.com", "publicAccessCidrs": CIDRS})
    planned = states(project.pulumi("preview", "--json"))
    (service,) = (s for s in planned if s["type"] == SERVICE_)
    assert [port["port"] for port in service["inputs"]["spec"]["ports"]] == [443]
    assert any(key.endswith("-ssl-cert") for key in service["inputs"]["metadata"]["annotations"])
    (certificate,) = (s for s in planned if s["type"] == "aws:acm/certificate:Certificate")
    assert certificate["inputs"]["domainName"] == "predict.example.com"
    records = [s["inputs"] for s in planned if s["type"] == "aws:route53/record:Record"]
    assert "predict.example.com" in {record["name"] for record in records}
    assert {record["zoneId"] for record in records} == {"Z0123456789"}


@pytest.fixture(scope="module")
def borrowed(make_project: MakeProject) -> list[dict[str, Any]]:
    project = make_project("dev")
    project.configure(
        {
            "image": f"team/model@{DIGEST}",
            "example": '{"input": [1, 2, 3]}',
            "vpcId": "vpc-0123456789abcdef0",
            "privateSubnetIds": '["subnet-00000000000000001", "subnet-00000000000000002"]',
            "publicSubnetIds": '["subnet-00000000000000003"]',
            "publicAccessCidrs": CIDRS,
        }
    )
    return states(project.pulumi("preview", "--json"))


def test_a_prebuilt_image_is_not_built(borrowed: list[dict[str, Any]]) -> None:
    assert not [state["type"] for state in borrowed if state["type"].startswith("docker:")]
    (deployment,) = (s for s in borrowed if s["type"] == "kubernetes:apps/v1:Deployment")
    (container,) = deployment["inputs"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"team/model@{DIGEST}"


def test_an_existing_vpc_is_used_as_it_is(borrowed: list[dict[str, Any]]) -> None:
    assert not [state["type"] for state in borrowed if state["type"].startswith("aws:ec2/")]
    (cluster,) = (s for s in borrowed if s["type"] == EKS_CLUSTER)
    assert cluster["inputs"]["vpcConfig"]["subnetIds"] == ["subnet-00000000000000001", "subnet-00000000000000002"]
