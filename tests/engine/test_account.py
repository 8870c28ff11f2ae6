"""Two stacks in one AWS account, with the same model: neither gets in the other's way."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engine.conftest import MakeProject
from tests.engine.server import served
from tests.standins.aws import EKS_CLUSTER, REPOSITORY
from tests.standins.cloud import VARIABLE
from tests.support.engine_project import Project

STAGING = {
    "aws:region": "us-east-1",
    "target": "eks",
    "owner": "ml-team",
    "costCenter": "experiments",
    "registryForceDelete": "true",
}


@pytest.fixture(scope="module")
def stacks(make_project: MakeProject) -> Iterator[tuple[Project, Project]]:
    dev, staging = make_project("dev"), make_project("staging")
    staging.cloud = dev.cloud
    staging.environment[VARIABLE] = dev.environment[VARIABLE]
    with served(dev.root.parent) as port:
        reached = {"servicePort": port, "publicAccessCidrs": '["203.0.113.7/32"]'}
        dev.configure(reached)
        staging.configure({**STAGING, **reached})
        dev.up()
        staging.up()
        yield dev, staging


def test_each_has_its_own(stacks: tuple[Project, Project]) -> None:
    dev, staging = stacks
    for type_ in (EKS_CLUSTER, REPOSITORY):
        assert {thing.urn.split("::")[0] for thing in dev.cloud.things(type_)} == {
            "urn:pulumi:dev",
            "urn:pulumi:staging",
        }
    for project in stacks:
        project.up("--expect-no-changes")
    assert staging.cloud is dev.cloud


def test_one_is_destroyed_and_the_other_stays(stacks: tuple[Project, Project]) -> None:
    dev, staging = stacks
    dev.pulumi("destroy", "--yes")
    assert not [thing for thing in dev.cloud.things() if thing.urn.startswith("urn:pulumi:dev::")]
    before = staging.snapshot()
    staging.up("--refresh", "--expect-no-changes")
    assert staging.snapshot() == before
