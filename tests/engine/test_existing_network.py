"""A stack in a VPC of the company's, signed in to AWS as the stack says, and then run by a colleague."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.engine.conftest import MakeProject
from tests.engine.server import served
from tests.standins.aws import SUBNET, VPC
from tests.standins.cloud import Thing
from tests.standins.kubernetes import SERVICE_
from tests.standins.sign_in import ACCESS_ENTRY
from tests.support.engine_project import Project

DIGEST = "sha256:" + "5" * 64
VPC_ID = "vpc-0123456789abcdef0"
SUBNETS = [f"subnet-0000000000000000{number}" for number in range(1, 6)]
ROLE = "arn:aws:iam::123456789012:role"
TEAM, COLLEAGUE = f"{ROLE}/ml/team", f"{ROLE}/colleague"


@pytest.fixture(scope="module")
def team(make_project: MakeProject) -> Iterator[Project]:
    """The stack after its first `up`, by the profile `team`."""
    project = make_project("dev")
    project.cloud.add(Thing(type=VPC, id=VPC_ID, outputs={"cidrBlock": "10.0.0.0/16"}))
    for number, subnet in enumerate(SUBNETS):
        zone = f"us-east-1{'ab'[number % 2]}"
        project.cloud.add(Thing(type=SUBNET, id=subnet, outputs={"vpcId": VPC_ID, "availabilityZone": zone}))
    with served(project.root.parent) as port:
        project.configure(
            {
                "image": f"team/model@{DIGEST}",
                "example": '{"input": [1, 2, 3]}',
                "servicePort": port,
                "vpcId": VPC_ID,
                "privateSubnetIds": json.dumps(SUBNETS[:2]),
                "publicSubnetIds": json.dumps(SUBNETS[2:3]),
                "publicAccessCidrs": '["203.0.113.7/32"]',
                "aws:profile": "team",
                "adminPrincipalArns": json.dumps([TEAM, COLLEAGUE]),
            }
        )
        project.up()
        yield project


def entries(project: Project) -> dict[str, bool]:
    """Whether each access entry of the cluster is the stack's own, by the name of its principal."""
    found = project.cloud.things(ACCESS_ENTRY)
    return {entry.values["principalArn"].rpartition("/")[2]: bool(entry.urn) for entry in found}


def test_a_creator_among_the_administrators_gets_no_second_access_entry(team: Project) -> None:
    assert entries(team) == {"team": False, "colleague": True}


def test_a_colleague_with_another_profile_sees_no_change(team: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(team.environment, "AWS_PROFILE", "colleague")
    team.pulumi("preview", "--expect-no-changes")


def test_a_colleagues_up_changes_what_they_changed_and_nobodys_access(
    team: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a profile in the stack both providers sign in as the colleague's environment says."""
    monkeypatch.setitem(team.environment, "AWS_PROFILE", "colleague")
    team.forget("aws:profile")
    team.configure({"replicas": 4})
    assert team.up().changed() == Counter({("update", "HorizontalPodAutoscaler"): 1})
    assert entries(team) == {"team": False, "colleague": True}


def test_the_workloads_provider_assumes_the_role_of_the_stack(team: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(team.environment, "AWS_PROFILE", "without-access")
    team.pulumi("config", "set", "--path", "aws:assumeRoles[0].roleArn", COLLEAGUE)
    team.configure({"replicas": 5})
    assert team.up().changed() == Counter({("update", "HorizontalPodAutoscaler"): 1})


def test_keys_in_the_stack_are_refused_before_anything_is_done(team: Project) -> None:
    done = len(team.cloud.journal())
    team.configure({"aws:accessKey": "AKIAEXAMPLE"}, {"aws:secretKey": "never-shown"})
    refused = team.up(ok=False)
    team.forget("aws:accessKey", "aws:secretKey")
    assert "pulumi config rm aws:secretKey && export AWS_SECRET_ACCESS_KEY=<secret>" in refused.text
    assert "Traceback" not in refused.text
    assert "never-shown" not in refused.text
    assert len(team.cloud.journal()) == done


def test_other_private_subnets_are_refused_and_other_public_ones_are_not(team: Project) -> None:
    team.configure({"privateSubnetIds": json.dumps(SUBNETS[:2] + SUBNETS[3:4])})
    refused = team.pulumi("preview", ok=False)
    assert f"live on network {VPC_ID} with the private subnets" in refused.text
    assert f"pulumi config set privateSubnetIds '{json.dumps(SUBNETS[:2])}'" in refused.text
    team.configure({"privateSubnetIds": json.dumps(SUBNETS[1::-1]), "publicSubnetIds": json.dumps(SUBNETS[4:])})
    changed = team.up().changed()
    assert ("update", "Service") in changed
    assert not [step for step in changed if step[0] != "update"]
    annotations = team.cloud.only(SERVICE_).values["metadata"]["annotations"]
    assert SUBNETS[4] in annotations["service.beta.kubernetes.io/aws-load-balancer-subnets"]


def test_destroy_leaves_the_network_that_was_there(team: Project) -> None:
    team.pulumi("destroy", "--yes")
    assert {(thing.type, thing.id) for thing in team.cloud.things()} == {
        (VPC, VPC_ID),
        *((SUBNET, subnet) for subnet in SUBNETS),
    }
