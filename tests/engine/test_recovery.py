"""An `up` that fails half-way is finished by the next one, wherever it failed; so is a `destroy`."""

from __future__ import annotations

import pytest

from tests.engine.conftest import MakeProject
from tests.engine.server import served
from tests.standins.aws import EKS_CLUSTER
from tests.standins.docker import IMAGE
from tests.standins.kubernetes import DEPLOYMENT, SERVICE_
from tests.support.engine_project import Project

NAT = "aws:ec2/natGateway:NatGateway"


@pytest.fixture(scope="module")
def project(make_project: MakeProject) -> Project:
    project = make_project("dev")
    with served(project.root.parent) as port:
        pass  # the port is free again: the app is served on it later
    project.configure({"servicePort": port, "publicAccessCidrs": '["203.0.113.7/32"]', "endpointTimeoutSeconds": 10})
    return project


def test_up_is_finished_by_the_next_one_wherever_it_failed(project: Project) -> None:
    """Each `up` gets past the failures before it, and fails at another point; the last at an endpoint that is mute."""
    cloud = project.cloud
    for type_, after in [(NAT, False), (IMAGE, False), (EKS_CLUSTER, False), (DEPLOYMENT, True)]:
        cloud.fail_next("create", type_, after=after)
    while pending := cloud.pending_failures():
        failed = project.up(ok=False)
        assert "injected failure" in failed.text
        assert not project.orphans()
        assert len(cloud.pending_failures()) < len(pending)

    unanswered = project.up(ok=False)
    assert "did not answer a prediction" in unanswered.text
    assert "Traceback" not in unanswered.text

    with served(project.root.parent, port=_port(project)):
        project.up()
        assert not project.up("--expect-no-changes").changed()
    assert not project.orphans()
    assert {len(cloud.things(type_)) for type_ in (NAT, EKS_CLUSTER, IMAGE, DEPLOYMENT, SERVICE_)} == {1}


def test_destroy_is_finished_by_the_next_one(project: Project) -> None:
    project.cloud.fail_next("delete", SERVICE_)
    stopped = project.pulumi("destroy", "--yes", ok=False)
    assert "injected failure" in stopped.text
    assert project.cloud.things(EKS_CLUSTER), "the cluster must outlive its load balancer"
    project.pulumi("destroy", "--yes")
    assert not project.cloud.things()


def _port(project: Project) -> int:
    return int(project.pulumi("config", "get", "servicePort").stdout)
