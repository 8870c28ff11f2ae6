"""kube-score and checkov on what the stacks dev, prod and one of target kubernetes render.

The project's own program renders it, through the real engine and the stand-ins. Each finding is mended or waived with a
reason in `waivers.yaml`; a waiver goes when its finding does.
"""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.judges import judges, rendered
from tests.judges.judges import Finding, Waiver
from tests.standins.aws import EKS_CLUSTER, REPOSITORY, ZONE
from tests.standins.cloud import Thing
from tests.standins.kubernetes import CLUSTER, DEPLOYMENT
from tests.support.engine_project import NO_CLUSTER, Project, find_cli
from tests.unit.kubeconfigs import kubeconfig, write

STACKS = ("dev", "prod", "kubernetes")
SPOILED = "spoiled"
CIDRS = '["203.0.113.7/32"]'
SERVER = "https://kind:6443"
REGISTRY = "registry.example.com"


def configured(stack: str, folder: Path) -> Project:
    """Make an empty stack with as much of its target's config as makes a resource of its own."""
    project = Project.make(folder, find_cli(), stack)
    project.environment |= NO_CLUSTER
    if stack == "kubernetes":
        write(folder / "kubeconfig", kubeconfig())
        project.cloud.add(Thing(type=CLUSTER, id=SERVER))
        project.cloud.allow_login(REGISTRY, "robot", "password-never-shown")
        plain = {"target": stack, "kubeconfig": folder / "kubeconfig", "repository": f"{REGISTRY}/team/model"}
        project.configure({**plain, "registryUsername": "robot"}, {"registryPassword": "password-never-shown"})
    elif stack == "prod":
        project.cloud.add(Thing(type=ZONE, id="Z0123456789", outputs={"name": "example.com"}))
        admins = '["arn:aws:iam::123456789012:role/ops"]'
        plain = {"publicAccessCidrs": CIDRS, "adminPrincipalArns": admins, "domain": "predict.example.com"}
        project.configure(plain, {"apiKey": "correct-key-4711-never-shown"})
    else:
        project.configure({"publicAccessCidrs": CIDRS})
    return project


def resources_of(project: Project) -> list[dict[str, Any]]:
    """Bring the stack up, all but the check that its endpoint answers."""
    project.up("--exclude", "**::endpoint")
    return json.loads(project.pulumi("stack", "export", "--show-secrets").stdout)["deployment"]["resources"]


def spoil(resources: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Take away what each kind of rule looks for: in an object, in an AWS resource, in a reference between two."""
    spoiled = [deepcopy(resource) for resource in resources if resource["type"] != "aws:ec2/flowLog:FlowLog"]
    inputs = {resource["type"]: resource.get("inputs", {}) for resource in spoiled}
    (container,) = inputs[DEPLOYMENT]["spec"]["template"]["spec"]["containers"]
    container["securityContext"]["privileged"] = True
    del inputs[REPOSITORY]["encryptionConfigurations"]
    inputs[EKS_CLUSTER]["vpcConfig"]["publicAccessCidrs"] = ["0.0.0.0/0"]
    return spoiled


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that is to be judged, in a folder for each stack."""
    made = {stack: resources_of(configured(stack, tmp_path_factory.mktemp(stack))) for stack in STACKS}
    root = tmp_path_factory.mktemp("rendered")
    for stack, resources in {**made, SPOILED: spoil(made["prod"])}.items():
        (root / stack).mkdir()
        (root / stack / judges.MANIFESTS).write_text(yaml.safe_dump_all(rendered.manifests(resources)))
        (root / stack / judges.PLAN).write_text(json.dumps(rendered.plan(resources)))
    return root


@pytest.fixture(scope="module")
def by_kube_score(folder: Path) -> list[Finding]:
    if reason := judges.kube_score_unavailable():
        pytest.skip(f"no kube-score: {reason}")
    return judges.kube_score(folder)


@pytest.fixture(scope="module")
def by_checkov(folder: Path) -> list[Finding]:
    return judges.checkov(folder)


def settled(findings: list[Finding], tool: str) -> None:
    """Fail unless every finding of the stacks is waived, and every waiver is needed."""
    waivers = [waiver for waiver in judges.read_waivers(judges.HERE / "waivers.yaml") if waiver.tool == tool]
    if problems := judges.problems([finding for finding in findings if finding.stack != SPOILED], waivers):
        pytest.fail("\n".join(problems), pytrace=False)


def spoils(findings: list[Finding]) -> set[tuple[str, str]]:
    return {(f.check, f.resource.partition(".")[0]) for f in findings if f.stack == SPOILED}


def test_kube_score_finds_only_what_is_waived(by_kube_score: list[Finding]) -> None:
    settled(by_kube_score, "kube-score")


def test_checkov_finds_only_what_is_waived(by_checkov: list[Finding]) -> None:
    settled(by_checkov, "checkov")


def test_kube_score_finds_what_was_spoiled(by_kube_score: list[Finding]) -> None:
    assert ("container-security-context-privileged", "Deployment") in spoils(by_kube_score)


def test_checkov_finds_what_was_spoiled(by_checkov: list[Finding]) -> None:
    privileged, open_to_all, no_key, no_flow_log = "CKV_K8S_16", "CKV_AWS_38", "CKV_AWS_136", "CKV2_AWS_11"
    wanted = {(privileged, "Deployment"), (open_to_all, "aws_eks_cluster")}
    assert wanted | {(no_key, "aws_ecr_repository"), (no_flow_log, "aws_vpc")} <= spoils(by_checkov)


# --- the waivers ---

FOUND = Finding("dev", "checkov", "CKV_AWS_1", "aws_vpc.network-vpc", "Ensure something")
WAIVER = Waiver(tool="checkov", check="CKV_AWS_1", resource="aws_vpc", stacks=("dev",), reason="so", remove_when="then")


def test_a_waiver_covers_its_finding() -> None:
    assert not judges.problems([FOUND], [WAIVER])


@pytest.mark.parametrize(
    "other", [{"tool": "kube-score"}, {"check": "CKV_AWS_10"}, {"resource": "aws_vpc_endpoint"}, {"stack": "prod"}]
)
def test_a_finding_that_no_waiver_covers_is_named(other: dict[str, str]) -> None:
    finding = Finding(**{**vars(FOUND), **other})
    assert f"not waived: {finding}" in judges.problems([FOUND, finding], [WAIVER])
    assert all(text in str(finding) for text in vars(finding).values())


def test_a_waiver_that_covers_nothing_in_one_of_its_stacks_is_named() -> None:
    both = Waiver(**{**vars(WAIVER), "stacks": ("dev", "prod")})
    (problem,) = judges.problems([FOUND], [both])
    assert problem == "covers nothing, remove it: the waiver of checkov CKV_AWS_1 on aws_vpc in prod"


@pytest.mark.parametrize("lacking", ["reason", "remove_when"])
def test_a_waiver_says_why_and_until_when(tmp_path: Path, lacking: str) -> None:
    file = tmp_path / "waivers.yaml"
    file.write_text(yaml.safe_dump([{**vars(WAIVER), "stacks": ["dev"], lacking: ""}]))
    with pytest.raises(ValueError, match=f"CKV_AWS_1 .*{lacking}"):
        judges.read_waivers(file)


# --- what they are given ---


def aws(type_: str, inputs: dict[str, Any], **dependencies: list[str]) -> dict[str, Any]:
    return {"type": type_, "urn": f"urn::{type_}::a/b", "inputs": inputs, "propertyDependencies": dependencies}


def test_the_plan_has_terraforms_names_and_references() -> None:
    vpc = aws("aws:ec2/vpc:Vpc", {"enableDnsSupport": True, "tags": {"costCenter": "x"}})
    table = aws("aws:ec2/routeTable:RouteTable", {"vpcId": "vpc-1"}, vpcId=[vpc["urn"]])
    cluster = aws("aws:eks/cluster:Cluster", {"vpcConfig": {"publicAccessCidrs": ["::/0"]}})
    plan = rendered.plan([vpc, table, cluster])
    values = {r["address"]: r["values"] for r in plan["planned_values"]["root_module"]["resources"]}
    assert values == {
        "aws_vpc.a_b": {"enable_dns_support": True, "tags": {"costCenter": "x"}},
        "aws_route_table.a_b": {"vpc_id": "vpc-1"},
        "aws_eks_cluster.a_b": {"vpc_config": [{"public_access_cidrs": ["::/0"]}]},
    }
    _, configured_table, _ = plan["configuration"]["root_module"]["resources"]
    assert configured_table["expressions"] == {"vpc_id": {"references": ["aws_vpc.a_b"]}}


@pytest.mark.parametrize(
    "resource", [aws("aws:sqs/queue:Queue", {}), aws("aws:ec2/vpc:Vpc", {"newBlocks": [{"a": 1}]})]
)
def test_what_has_no_terraform_name_is_not_left_out(resource: dict[str, Any]) -> None:
    with pytest.raises(KeyError):
        rendered.plan([resource])
