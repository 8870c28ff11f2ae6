"""The life of stack dev, in order: preview, up, up again, changes, a bad config, drift, destroy.

The tests build on one another's stack, as a user's commands do; each states what its own command did.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.engine.conftest import MakeProject
from tests.engine.server import served
from tests.standins.aws import EKS_CLUSTER, REPOSITORY, SUBNET
from tests.standins.cloud import Event, is_a
from tests.standins.docker import IMAGE
from tests.standins.kubernetes import DEPLOYMENT, SECRET
from tests.support.engine_project import Project, Ran, leaves

KEY = "correct-key-4711-never-shown"
HPA = "kubernetes:autoscaling/v2:HorizontalPodAutoscaler"
SERVICE = "kubernetes:core/v1:Service"


@dataclass(frozen=True)
class Dev:
    project: Project
    port: int
    preview: dict[str, Any]
    """`preview --json` from nothing."""
    up: Ran


@pytest.fixture(scope="module")
def dev(make_project: MakeProject) -> Iterator[Dev]:
    """From nothing to an endpoint that has answered."""
    project = make_project("dev")
    with served(project.root.parent, KEY) as port:
        project.configure({"servicePort": port, "publicAccessCidrs": '["203.0.113.7/32"]'}, {"apiKey": KEY})
        previewed = project.pulumi("preview", "--json")
        assert not project.cloud.things(), "a preview has made something"
        yield Dev(project, port, json.loads(previewed.stdout), project.up())


def test_a_json_preview_from_nothing_is_json_and_plans_everything(dev: Dev) -> None:
    planned = {step["newState"]["type"] for step in dev.preview["steps"]}
    made = {resource["type"] for resource in dev.project.resources()}
    assert made - planned == {type_ for type_ in made if type_.startswith("pulumi:providers:")} - planned
    assert planned <= made
    assert {step["op"] for step in dev.preview["steps"]} == {"create"}


def test_up_makes_only_what_the_state_knows(dev: Dev) -> None:
    assert {op for op, _ in dev.up.changed()} == {"create"}
    assert not dev.project.orphans()
    made = {thing.type for thing in dev.project.cloud.things()}
    assert {EKS_CLUSTER, REPOSITORY, IMAGE, DEPLOYMENT, SERVICE, HPA} <= made
    assert not {"aws:iam/instanceProfile:InstanceProfile", "aws:ec2/securityGroup:SecurityGroup"} & made


def test_the_nodes_are_in_private_subnets(dev: Dev) -> None:
    cloud = dev.project.cloud
    inside = {t.id for t in cloud.things(SUBNET) if "kubernetes.io/role/internal-elb" in t.values["tags"]}
    assert set(cloud.only(EKS_CLUSTER).values["vpcConfig"]["subnetIds"]) == inside
    assert len(inside) == 3


def test_the_pods_get_the_pushed_image_by_digest(dev: Dev) -> None:
    cloud = dev.project.cloud
    repository = cloud.only(REPOSITORY).values["repositoryUrl"]
    (digest,) = cloud.images(repository).values()
    (container,) = cloud.only(DEPLOYMENT).values["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"{repository}@{digest}"


def test_every_aws_resource_that_takes_tags_is_tagged(dev: Dev) -> None:
    wanted = {"project": "model-endpoint", "stack": "dev", "owner": "ml-team", "cost-center": "experiments"}
    untagged = [
        f"{thing.type} {thing.id}"
        for thing in dev.project.cloud.things("aws:")
        if "tagsAll" in thing.outputs and not wanted.items() <= thing.values.get("tags", {}).items()
    ]
    assert not untagged


def test_the_graph_forces_the_order_of_destroy(dev: Dev) -> None:
    """On the graph, not the clock: the engine often happens to take the right order without being made to."""
    types = {resource["urn"]: resource["type"] for resource in dev.project.resources()}
    (cluster,) = (urn for urn, type_ in types.items() if type_ == EKS_CLUSTER)
    ways_out = ("aws:ec2/natGateway", "aws:ec2/route:Route", "aws:ec2/internetGateway", "aws:ec2/vpcEndpoint", SUBNET)
    network = {urn for urn, type_ in types.items() if any(is_a(type_, way) for way in ways_out)}
    network = {urn for urn in network if "-public-" not in urn}
    assert network <= dev.project.needs(cluster)
    workloads = [urn for urn, type_ in types.items() if type_.startswith("kubernetes:")]
    assert len(workloads) > 5
    assert not [urn for urn in workloads if cluster not in dev.project.needs(urn)]


def test_output_endpoint_is_the_url_and_nothing_else(dev: Dev) -> None:
    shown = dev.project.pulumi("stack", "output", "endpoint")
    assert shown.stdout == f"http://localhost:{dev.port}\n"
    assert not shown.stderr


def test_a_second_up_changes_nothing(dev: Dev) -> None:
    before = len(dev.project.cloud.journal())
    again = dev.project.up("--expect-no-changes")
    assert not again.changed()
    assert len(dev.project.cloud.journal()) == before


def test_a_colleague_with_another_aws_profile_sees_no_change(dev: Dev, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(dev.project.environment, "AWS_PROFILE", "colleague")
    dev.project.pulumi("preview", "--expect-no-changes")


def test_one_byte_of_the_app_changes_image_deployment_and_check(dev: Dev) -> None:
    with (dev.project.root / "app/server/__init__.py").open("a") as module:
        module.write("\n")
    planned = dev.project.pulumi("preview")
    expected = Counter({("update", "Image"): 1, ("update", "Deployment"): 1, ("update", "EndpointCheck"): 1})
    assert planned.changed() == expected
    assert dev.project.up().changed() == expected


def test_a_broken_dockerfile_fails_in_the_preview(dev: Dev) -> None:
    dockerfile = dev.project.root / "app/Dockerfile"
    good = dockerfile.read_text()
    dockerfile.write_text(good + "COPY nothing /\n")
    failed = dev.project.pulumi("preview", ok=False)
    dockerfile.write_text(good)
    assert "COPY failed: nothing is not in the build context" in failed.text


def test_a_step_back_is_built_and_pushed_again(dev: Dev) -> None:
    """Its first image has the content's tag already, and ECR lets no tag move."""
    module = dev.project.root / "app/server/__init__.py"
    module.write_text(module.read_text()[:-1])
    dev.project.up()
    cloud = dev.project.cloud
    tags = sorted(cloud.images(cloud.only(REPOSITORY).values["repositoryUrl"]))
    contents = [tag.partition("-")[0] for tag in tags]
    assert (len(tags), len(set(contents))) == (3, 2)


def test_the_pods_get_the_newest_image(dev: Dev) -> None:
    cloud = dev.project.cloud
    digest = cloud.only(IMAGE).values["repoDigest"]
    (container,) = cloud.only(DEPLOYMENT).values["spec"]["template"]["spec"]["containers"]
    assert container["image"] == digest


def test_more_replicas_change_the_autoscaler_alone(dev: Dev) -> None:
    dev.project.configure({"replicas": 4})
    assert dev.project.up().changed() == Counter({("update", "HorizontalPodAutoscaler"): 1})
    (scaler,) = dev.project.cloud.things(HPA)
    assert scaler.values["spec"]["minReplicas"] == 4


def test_a_bad_config_changes_nothing_and_lists_every_problem(dev: Dev) -> None:
    before, done = dev.project.snapshot(), len(dev.project.cloud.journal())
    wrong = {"replicas": 20, "maxReplicas": "many", "memory": "512", "colour": "blue", "kubeconfig": "/somewhere"}
    dev.project.configure(wrong)
    refused = dev.project.up(ok=False)
    dev.project.forget("maxReplicas", "memory", "colour", "kubeconfig")
    dev.project.configure({"replicas": 4})
    for key in wrong.keys() - {"replicas"}:
        assert key in refused.text
    assert "Traceback" not in refused.text
    assert "pulumi config set" in refused.text
    assert dev.project.snapshot() == before
    assert len(dev.project.cloud.journal()) == done


def test_another_target_is_refused(dev: Dev) -> None:
    before, done = dev.project.snapshot(), len(dev.project.cloud.journal())
    kept = (dev.project.root / "Pulumi.dev.yaml").read_text()
    (dev.project.root / "Pulumi.dev.yaml").write_text(
        "config:\n  model-endpoint:target: kubernetes\n  model-endpoint:repository: registry.example.com/team/model\n"
        + "".join(line for line in kept.splitlines(keepends=True) if line.startswith("encryptionsalt"))
    )
    refused = dev.project.up(ok=False)
    (dev.project.root / "Pulumi.dev.yaml").write_text(kept)
    assert "live on target eks" in refused.text
    assert "Traceback" not in refused.text
    assert dev.project.snapshot() == before
    assert len(dev.project.cloud.journal()) == done


def test_another_network_is_refused_and_the_command_in_the_error_keeps_the_stack(dev: Dev) -> None:
    before, done = dev.project.snapshot(), len(dev.project.cloud.journal())
    subnets = json.dumps([subnet.id for subnet in dev.project.cloud.things(SUBNET)])
    vpc = dev.project.cloud.only("aws:ec2/vpc:Vpc").id
    for changed in ({"vpcCidr": "10.9.0.0/16"}, {"vpcId": vpc, "privateSubnetIds": subnets}):
        dev.project.configure(changed)
        refused = dev.project.up(ok=False)
        assert "live on network 10.0.0.0/16" in refused.text
        assert "Traceback" not in refused.text
        (keep,) = (line.strip() for line in refused.text.splitlines() if "pulumi config set vpcCidr" in line)
        for command in keep.split(" && "):
            dev.project.pulumi(*command.split()[1:])
        assert not dev.project.pulumi("preview", "--expect-no-changes").changed()
    assert dev.project.snapshot() == before
    assert len(dev.project.cloud.journal()) == done


def test_what_somebody_deleted_is_seen_and_mended(dev: Dev) -> None:
    (scaler,) = dev.project.cloud.things(HPA)
    dev.project.cloud.remove(scaler)
    mended = dev.project.up("--refresh")
    assert mended.changed() == Counter({("create", "HorizontalPodAutoscaler"): 1})
    assert len(dev.project.cloud.things(HPA)) == 1
    assert not dev.project.orphans()


def test_no_secret_is_written_or_said_in_plain(dev: Dev) -> None:
    project = dev.project
    (secret,) = project.cloud.things(SECRET)
    assert KEY in {base64.b64decode(text).decode() for text in secret.values["data"].values()}, "the key must arrive"
    passwords = [login.partition(":")[2] for logins in project.cloud.logins().values() for login in logins]
    assert passwords
    outputs = project.pulumi("stack", "output", "--json")
    assert json.loads(outputs.stdout)["kubeconfig"] == "[secret]"
    project.pulumi("stack", "export")
    project.pulumi("stack", "history", "--json")
    said = [ran.text + json.dumps(ran.events) for ran in project.said]
    files = [
        path.read_text(errors="replace")
        for folder in (project.state, project.root / ".build", project.root.parent / "home")
        for path in folder.rglob("*")
        if path.is_file()
    ]
    files += [path.read_text() for path in project.root.glob("Pulumi*.yaml")]
    assert any(EKS_CLUSTER in text for text in files), "the state must be among what is searched"
    for value in [KEY, *passwords]:
        for form in (value, base64.b64encode(value.encode()).decode().rstrip("=")):
            assert not [text for text in said + files if form in text]


def test_the_kubeconfig_is_a_secret_wherever_it_is_written(dev: Dev) -> None:
    secret = {"4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270"}
    providers = {
        r["urn"].rpartition("::")[2]: r["inputs"]["kubeconfig"]
        for r in dev.project.resources()
        if r["type"] == "pulumi:providers:kubernetes"
    }
    assert secret.items() <= providers["cluster-kubernetes"].items()
    assert providers.keys() - {"cluster-kubernetes"} == {"cluster-eks-eks-k8s"}, "pulumi-eks' own, in plain"
    (check,) = (r for r in dev.project.resources() if r["type"].endswith(":EndpointCheck"))
    assert not [text for text in leaves([check["inputs"], check["outputs"]]) if "get-token" in text]


def test_destroy_goes_backwards_and_leaves_nothing(dev: Dev) -> None:
    project = dev.project
    before = len(project.cloud.journal())
    project.pulumi("destroy", "--yes")
    deleted = [event for event in project.cloud.journal()[before:] if event.op == "delete"]
    workloads = _of(deleted, "kubernetes:")
    cluster = _of(deleted, EKS_CLUSTER)
    network = _of(deleted, "aws:ec2/natGateway") + _of(deleted, "aws:ec2/route") + _of(deleted, "aws:ec2/vpc")
    network += _of(deleted, "aws:ec2/internetGateway") + _of(deleted, SUBNET)
    assert len(cluster) == 1
    assert {SERVICE, DEPLOYMENT, HPA, "kubernetes:karpenter.sh/v1:NodePool"} <= {event.type for event in workloads}
    assert len(network) > 10
    assert max(event.end for event in workloads) <= cluster[0].start
    assert cluster[0].end <= min(event.start for event in network)
    assert max(event.end for event in network) == _of(deleted, "aws:ec2/vpc:Vpc")[0].end
    assert not project.cloud.things()
    assert not project.resources()


def _of(events: list[Event], type_: str) -> list[Event]:
    return [event for event in events if is_a(event.type, type_)]
