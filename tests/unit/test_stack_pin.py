"""A live stack stays where it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from infra import stack_pin
from infra.config.schema import NetworkSettings
from infra.stack_pin import Marked, PinnedStackError, check_network, pin_stack
from tests.unit import mocked

STACK = "urn:pulumi:dev::model-endpoint::pulumi:pulumi:Stack::model-endpoint-dev"
MARKER = "urn:pulumi:dev::model-endpoint::model-endpoint:target:Target::eks"
SERVER = "urn:pulumi:dev::model-endpoint::model-endpoint:target:Cluster::https%3A%2F%2F%5B%3A%3A1%5D%3A6443"


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], None]:
    def holds(urns: list[str]) -> None:
        monkeypatch.setattr(stack_pin, "previous_resources", lambda: {key: {} for key in urns})

    return holds


@pytest.mark.parametrize("urns", [[], [STACK], [STACK, SERVER], [STACK, MARKER]])
def test_a_new_stack_and_the_same_target_are_marked(state: Callable[[list[str]], None], urns: list[str]) -> None:
    state(urns)
    run = mocked.run(lambda: pin_stack("Target", "eks"))
    assert [(each.type, each.name) for each in run.resources] == [("model-endpoint:target:Target", "eks")]


def test_an_address_is_marked_under_a_name_that_no_urn_takes_apart(state: Callable[[list[str]], None]) -> None:
    state([STACK, MARKER, SERVER])
    run = mocked.run(lambda: pin_stack("Cluster", "https://[::1]:6443"))
    assert [each.name for each in run.resources] == [SERVER.rpartition("::")[2]]


@pytest.mark.parametrize(
    ("pinned_to", "wanted", "says"),
    [
        ("Target", "local", "is live on target eks, and its config now leads to local"),
        ("Cluster", "https://other:6443", "is live on cluster https://[::1]:6443"),
    ],
)
def test_another_place_is_refused_before_anything_is_registered(
    state: Callable[[list[str]], None], pinned_to: Marked, wanted: str, says: str
) -> None:
    state([STACK, MARKER, SERVER])
    with pytest.raises(PinnedStackError) as caught:
        mocked.run(lambda: pin_stack(pinned_to, wanted))
    for part in (says, "nothing was changed", "pulumi config set", "pulumi destroy --stack"):
        assert part in str(caught.value)


# --- the network ---

OF = "urn:pulumi:dev::model-endpoint::model-endpoint:"
EKS = f"{OF}cluster:Cluster$eks:index:Cluster$aws:eks/cluster:Cluster::cluster-eks-eksCluster"
NETWORK = f"{OF}network:Network::network"
OWN: dict[str, dict[str, Any]] = {
    STACK: {},
    EKS: {"name": "model-endpoint-dev-1234567"},
    NETWORK: {"vpcId": "vpc-1", "privateSubnetIds": ["subnet-1", "subnet-2"], "publicSubnetIds": ["subnet-3"]},
    f"{OF}network:Network$aws:ec2/vpc:Vpc::network-vpc": {"cidrBlock": "10.7.0.0/16"},
}
EXISTING = {urn: outputs for urn, outputs in OWN.items() if "ec2/vpc" not in urn}


def network(cidr: str = "10.7.0.0/16", vpc: str | None = None, private: str = "", public: str = "") -> NetworkSettings:
    return NetworkSettings(
        vpc_cidr=cidr,
        nat_per_zone=False,
        flow_logs=False,
        log_retention_days=7,
        vpc_id=vpc,
        private_subnet_ids=tuple(private.split()),
        public_subnet_ids=tuple(public.split()),
        protect=False,
    )


@pytest.mark.parametrize(
    ("resources", "settings"),
    [
        ({}, network("10.8.0.0/16")),
        ({STACK: {}}, network("10.8.0.0/16")),
        ({urn: outputs for urn, outputs in OWN.items() if urn != EKS}, network("10.8.0.0/16")),
        (OWN, network()),
        (EXISTING, network(vpc="vpc-1", private="subnet-2 subnet-1")),
        (EXISTING, network(vpc="vpc-1", private="subnet-1 subnet-2", public="subnet-8 subnet-9")),
    ],
    ids=["new", "destroyed", "no cluster yet", "same", "other order", "other public subnets"],
)
def test_the_same_network_and_a_stack_without_a_cluster_are_let_through(
    monkeypatch: pytest.MonkeyPatch, resources: dict[str, dict[str, Any]], settings: NetworkSettings
) -> None:
    monkeypatch.setattr(stack_pin, "previous_resources", lambda: resources)
    assert not mocked.run(lambda: check_network(settings)).resources


@pytest.mark.parametrize(
    ("resources", "settings", "keep"),
    [
        (OWN, network("10.8.0.0/16"), "pulumi config set vpcCidr 10.7.0.0/16"),
        (OWN, network(vpc="vpc-1", private="subnet-1 subnet-2"), "pulumi config rm-all vpcId privateSubnetIds"),
        (EXISTING, network(), "pulumi config set vpcId vpc-1"),
        (EXISTING, network(vpc="vpc-2", private="subnet-1 subnet-2"), "pulumi config set vpcId vpc-1"),
        (
            EXISTING,
            network(vpc="vpc-1", private="subnet-1 subnet-2 subnet-4"),
            """pulumi config set privateSubnetIds '["subnet-1", "subnet-2"]'""",
        ),
        (EXISTING, network(vpc="vpc-1", private="subnet-1 subnet-4"), "live on network vpc-1 with the private subnets"),
    ],
    ids=["other range", "own to existing", "existing to own", "other VPC", "one more subnet", "another subnet"],
)
def test_another_network_under_a_live_cluster_is_refused(
    monkeypatch: pytest.MonkeyPatch, resources: dict[str, dict[str, Any]], settings: NetworkSettings, keep: str
) -> None:
    monkeypatch.setattr(stack_pin, "previous_resources", lambda: resources)
    with pytest.raises(PinnedStackError) as caught:
        mocked.run(lambda: check_network(settings))
    for part in (keep, "nothing was changed", "would stop half-way", "pulumi destroy --stack"):
        assert part in str(caught.value)
