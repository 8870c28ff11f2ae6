from __future__ import annotations

import dataclasses
import ipaddress
import json

import pulumi
import pytest

from infra import network
from infra.config.schema import NetworkSettings
from infra.network import Network, NetworkArgs
from tests.unit import mocked

TAGS = {"project": "p", "stack": "s"}
DEV = NetworkSettings(
    vpc_cidr="10.0.0.0/16",
    nat_per_zone=False,
    flow_logs=False,
    log_retention_days=7,
    vpc_id=None,
    private_subnet_ids=(),
    public_subnet_ids=(),
    protect=False,
)
PROD = dataclasses.replace(DEV, nat_per_zone=True, flow_logs=True, log_retention_days=365, protect=True)
UNTAGGABLE = {"Route", "RouteTableAssociation", "RolePolicy"}


def make(settings: NetworkSettings, *, preview: bool = False) -> mocked.Run[Network]:
    args = NetworkArgs(settings=settings, tags=TAGS)
    return mocked.run(lambda: Network("network", args), preview=preview)


def test_vpc_resolves_names() -> None:
    vpc = make(DEV).one("aws:ec2/vpc:Vpc")
    assert vpc.inputs["cidrBlock"] == "10.0.0.0/16"
    assert vpc.inputs["enableDnsSupport"] is True
    assert vpc.inputs["enableDnsHostnames"] is True


def test_default_security_group_allows_nothing() -> None:
    group = make(DEV).one("DefaultSecurityGroup")
    assert group.inputs["ingress"] == []
    assert group.inputs["egress"] == []


def test_three_zones_without_local_zones_and_zones_that_eks_refuses() -> None:
    run = make(DEV)
    zones = {subnet.name: subnet.inputs["availabilityZone"] for subnet in run.all("Subnet")}
    assert zones == {
        f"network-{kind}-{index}": f"us-east-1{'abc'[index]}" for kind in ("public", "private") for index in range(3)
    }
    asked = run.call("getAvailabilityZones").args
    assert asked["filters"] == [{"name": "zone-type", "values": ["availability-zone"]}]
    assert asked["state"] == "available"
    assert "use1-az3" in asked["excludeZoneIds"]


def test_a_region_with_two_zones_is_refused() -> None:
    with pytest.raises(pulumi.RunError, match="has 2 zones"):
        network.first_zones(["us-west-1b", "us-west-1a"])


@pytest.mark.parametrize("cidr", ["10.0.0.0/16", "192.168.16.0/20"])
def test_subnet_plan_fits_without_overlap(cidr: str) -> None:
    plan = network.subnet_plan(cidr)
    ranges = [ipaddress.IPv4Network(each) for each in (*plan.private, *plan.public)]
    assert len(plan.private) == len(plan.public) == 3
    assert all(each.subnet_of(ipaddress.IPv4Network(cidr)) for each in ranges)
    assert not any(a.overlaps(b) for a in ranges for b in ranges if a is not b)


def test_subnets_are_tagged_for_their_load_balancers() -> None:
    run = make(DEV)
    for index in range(3):
        public = run.named(f"network-public-{index}").inputs
        private = run.named(f"network-private-{index}").inputs
        assert public["tags"]["kubernetes.io/role/elb"] == "1"
        assert private["tags"]["kubernetes.io/role/internal-elb"] == "1"
        assert "kubernetes.io/role/elb" not in private["tags"]
        assert public["mapPublicIpOnLaunch"] is False
        assert private["mapPublicIpOnLaunch"] is False


def test_a_zone_that_comes_or_goes_moves_no_subnet() -> None:
    for subnet in make(DEV).all("Subnet"):
        assert subnet.ignore_changes == ["availabilityZone"]


@pytest.mark.parametrize(("settings", "nats"), [(DEV, [0, 0, 0]), (PROD, [0, 1, 2])])
def test_every_zone_has_its_way_out(settings: NetworkSettings, nats: list[int]) -> None:
    run = make(settings)
    assert len(run.all("NatGateway")) == len(run.all("Eip")) == len(set(nats))
    for zone, nat in enumerate(nats):
        route = run.named(f"network-private-{zone}-route").inputs
        assert route["natGatewayId"] == f"network-nat-{nat}-id"
        assert route["destinationCidrBlock"] == "0.0.0.0/0"
        association = run.named(f"network-private-{zone}-association").inputs
        assert association["routeTableId"] == route["routeTableId"] == f"network-private-{zone}-routes-id"
        assert association["subnetId"] == f"network-private-{zone}-id"
        assert run.named(f"network-nat-{nat}").inputs["subnetId"] == f"network-public-{nat}-id"


def test_nat_and_its_address_wait_for_the_internet_gateway() -> None:
    run = make(DEV)
    assert "network-internet" in run.one("NatGateway").dependencies
    assert "network-internet" in run.one("Eip").dependencies
    assert run.one("Eip").inputs["domain"] == "vpc"


def test_public_subnets_reach_the_internet_gateway() -> None:
    run = make(DEV)
    assert run.named("network-public-route").inputs["gatewayId"] == "network-internet-id"
    for zone in range(3):
        joined = run.named(f"network-public-{zone}-association").inputs
        assert joined == {"routeTableId": "network-public-routes-id", "subnetId": f"network-public-{zone}-id"}


def test_s3_is_reached_without_nat() -> None:
    endpoint = make(PROD).one("VpcEndpoint").inputs
    assert endpoint["serviceName"] == "com.amazonaws.us-east-1.s3"
    assert endpoint["vpcEndpointType"] == "Gateway"
    assert endpoint["routeTableIds"] == [f"network-private-{zone}-routes-id" for zone in range(3)]


def test_flow_logs_in_prod_only() -> None:
    assert not make(DEV).all("FlowLog")
    run = make(PROD)
    log = run.one("FlowLog")
    assert log.inputs["trafficType"] == "ALL"
    assert log.inputs["vpcId"] == "network-vpc-id"
    assert log.inputs["logDestination"].endswith("network-flow-logs")
    assert log.inputs["iamRoleArn"].endswith("network-flow-logs-role")
    assert "network-flow-logs-policy" in log.dependencies
    assert run.one("LogGroup").inputs["retentionInDays"] == 365


def test_flow_logs_are_encrypted_with_a_key_that_only_their_group_may_use() -> None:
    assert not make(DEV).all("aws:kms/key:Key")
    run = make(PROD)
    key = run.one("aws:kms/key:Key")
    assert run.one("LogGroup").inputs["kmsKeyId"].endswith(":network-flow-logs-key")
    assert key.protect
    assert key.inputs["deletionWindowInDays"] == 30
    assert key.inputs["enableKeyRotation"] is True
    account, logs = json.loads(key.inputs["policy"])["Statement"]
    assert account["Principal"] == {"AWS": f"arn:aws:iam::{mocked.ACCOUNT}:root"}
    assert logs["Principal"] == {"Service": "logs.us-east-1.amazonaws.com"}
    assert "kms:*" not in logs["Action"]
    pattern = f"arn:aws:logs:us-east-1:{mocked.ACCOUNT}:log-group:network-flow-logs-*"
    assert logs["Condition"] == {"ArnLike": {"kms:EncryptionContext:aws:logs:arn": pattern}}


def test_the_key_of_flow_logs_goes_with_a_stack_that_is_not_guarded() -> None:
    key = make(dataclasses.replace(PROD, protect=False)).one("aws:kms/key:Key")
    assert not key.protect
    assert key.inputs["deletionWindowInDays"] == 7


def test_flow_logs_role_may_only_write_its_group() -> None:
    run = make(PROD)
    (trust,) = json.loads(run.one("Role").inputs["assumeRolePolicy"])["Statement"]
    assert trust["Principal"] == {"Service": "vpc-flow-logs.amazonaws.com"}
    assert trust["Condition"] == {"StringEquals": {"aws:SourceAccount": mocked.ACCOUNT}}
    write, read = json.loads(run.one("RolePolicy").inputs["policy"])["Statement"]
    assert write["Resource"].endswith("network-flow-logs:*")
    assert "logs:PutLogEvents" in write["Action"]
    assert "logs:CreateLogGroup" not in write["Action"]
    assert read == {"Effect": "Allow", "Action": "logs:DescribeLogGroups", "Resource": "*"}


def test_everything_that_takes_tags_is_tagged() -> None:
    run = make(PROD)
    untagged = [r for r in run.resources if r.custom and not TAGS.items() <= r.inputs.get("tags", {}).items()]
    assert {r.type.rpartition(":")[2] for r in untagged} == UNTAGGABLE
    names = [r.inputs["tags"]["Name"] for r in run.resources if r.custom and r not in untagged]
    assert all(name.startswith("model-endpoint-dev-") for name in names)


def test_users_of_the_private_subnets_wait_for_routes_and_nat() -> None:
    def program() -> None:
        import pulumi_aws as aws

        made = Network("network", NetworkArgs(settings=DEV, tags=TAGS))
        aws.ssm.Parameter("user", type="String", value=made.private_subnet_ids.apply(",".join))

    user = mocked.run(program).named("user")
    assert user.inputs["value"] == "network-private-0-id,network-private-1-id,network-private-2-id"
    for zone in range(3):
        assert f"network-private-{zone}-route" in user.dependencies
        assert f"network-private-{zone}-association" in user.dependencies


def test_first_preview_knows_no_ids() -> None:
    run = make(PROD, preview=True)
    assert len(run.resources) == len(make(PROD).resources)
    assert not mocked.resolve(run.result.private_subnet_ids).known
    assert run.named("network-private-0").inputs["vpcId"] is mocked.UNKNOWN


@pytest.mark.parametrize("preview", [False, True])
def test_an_existing_vpc_is_passed_through(preview: bool) -> None:
    given = dataclasses.replace(
        DEV,
        vpc_id="vpc-0123456789abcdef0",
        private_subnet_ids=("subnet-1", "subnet-2"),
        public_subnet_ids=("subnet-3",),
    )
    run = make(given, preview=preview)
    assert [r.type for r in run.resources] == ["model-endpoint:network:Network"]
    assert not run.calls
    assert mocked.resolve(run.result.vpc_id).value == "vpc-0123456789abcdef0"
    assert list(mocked.resolve(run.result.private_subnet_ids).value) == ["subnet-1", "subnet-2"]
    assert list(mocked.resolve(run.result.public_subnet_ids).value) == ["subnet-3"]
