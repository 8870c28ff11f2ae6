"""Network: a VPC over three zones, or the ids of an existing one."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from infra import kms, outputs
from infra.config.schema import NetworkSettings

ZONES = 3
UNUSABLE_ZONE_IDS = ("use1-az3", "usw1-az2", "cac1-az3")
"""EKS refuses subnets of its control plane there [EKS user guide, VPC and subnet requirements]."""


@dataclass(frozen=True, kw_only=True)
class NetworkArgs:
    settings: NetworkSettings
    """If `vpc_id` is set, nothing is made: the ids are passed through. `protect` guards the key of the flow logs."""
    tags: Mapping[str, str]
    """Tags of every resource."""


class Network(pulumi.ComponentResource):
    """Private subnets for nodes, public ones for the load balancer, and the way out of each zone."""

    vpc_id: pulumi.Output[str]
    private_subnet_ids: pulumi.Output[Sequence[str]]
    """Subnets of the cluster and its nodes. Whoever uses them waits for NAT and routes, and is deleted before them."""
    public_subnet_ids: pulumi.Output[Sequence[str]]
    """Subnets of internet-facing load balancers; empty where an existing VPC names none."""

    def __init__(self, name: str, args: NetworkArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("model-endpoint:network:Network", name, None, opts)
        self._name = name
        self._prefix = f"{pulumi.get_project()}-{pulumi.get_stack()}"
        self._tags = args.tags
        self._child = pulumi.ResourceOptions(parent=self)
        settings = args.settings
        if settings.vpc_id:
            self.vpc_id = pulumi.Output.from_input(settings.vpc_id)
            self.private_subnet_ids = pulumi.Output.from_input(settings.private_subnet_ids)
            self.public_subnet_ids = pulumi.Output.from_input(settings.public_subnet_ids)
        else:
            self._make(settings)
        self.register_outputs(
            {
                "vpcId": self.vpc_id,
                "privateSubnetIds": self.private_subnet_ids,
                "publicSubnetIds": self.public_subnet_ids,
            }
        )

    def _make(self, settings: NetworkSettings) -> None:
        name, child = self._name, self._child
        vpc = aws.ec2.Vpc(
            f"{name}-vpc",
            cidr_block=settings.vpc_cidr,
            enable_dns_support=True,
            enable_dns_hostnames=True,
            tags=self._named("vpc"),
            opts=child,
        )
        aws.ec2.DefaultSecurityGroup(
            f"{name}-default-security-group",
            vpc_id=vpc.id,
            ingress=[],
            egress=[],
            tags=self._named("default-unused"),
            opts=child,
        )
        gateway = aws.ec2.InternetGateway(f"{name}-internet", vpc_id=vpc.id, tags=self._named("internet"), opts=child)
        zones = aws.get_availability_zones_output(
            state="available",
            filters=[aws.GetAvailabilityZonesFilterArgs(name="zone-type", values=["availability-zone"])],
            exclude_zone_ids=UNUSABLE_ZONE_IDS,
            opts=pulumi.InvokeOutputOptions(parent=self),
        ).names.apply(first_zones)
        plan = subnet_plan(settings.vpc_cidr)
        public = self._subnets(vpc, zones, "public", plan.public, "kubernetes.io/role/elb")
        private = self._subnets(vpc, zones, "private", plan.private, "kubernetes.io/role/internal-elb")
        way_in = self._public_routes(vpc, gateway, public)
        way_out, private_tables = self._private_routes(vpc, gateway, public, private, settings.nat_per_zone)
        region = aws.get_region_output(opts=pulumi.InvokeOutputOptions(parent=self)).region
        endpoint = aws.ec2.VpcEndpoint(
            f"{name}-s3",
            vpc_id=vpc.id,
            vpc_endpoint_type="Gateway",
            service_name=pulumi.Output.format("com.amazonaws.{0}.s3", region),
            route_table_ids=[table.id for table in private_tables],
            tags=self._named("s3"),
            opts=child,
        )
        if settings.flow_logs:
            self._flow_logs(vpc, settings)
        self.vpc_id = vpc.id
        self.private_subnet_ids = outputs.after(_ids(private), [*way_out, endpoint])
        self.public_subnet_ids = outputs.after(_ids(public), way_in)

    def _named(self, what: str) -> dict[str, str]:
        return {**self._tags, "Name": f"{self._prefix}-{what}"}

    def _subnets(
        self, vpc: aws.ec2.Vpc, zones: pulumi.Output[list[str]], kind: str, cidrs: Sequence[str], role: str
    ) -> list[aws.ec2.Subnet]:
        return [
            aws.ec2.Subnet(
                f"{self._name}-{kind}-{index}",
                vpc_id=vpc.id,
                cidr_block=cidr,
                availability_zone=zones[index],
                map_public_ip_on_launch=False,
                tags={**self._named(f"{kind}-{index}"), role: "1"},
                # A zone that AWS closes or opens must not move, and so replace, the subnets of a live network.
                opts=pulumi.ResourceOptions(parent=self, ignore_changes=["availabilityZone"]),
            )
            for index, cidr in enumerate(cidrs)
        ]

    def _table(self, vpc: aws.ec2.Vpc, what: str) -> aws.ec2.RouteTable:
        return aws.ec2.RouteTable(
            f"{self._name}-{what}-routes", vpc_id=vpc.id, tags=self._named(what), opts=self._child
        )

    def _join(self, table: aws.ec2.RouteTable, subnet: aws.ec2.Subnet, what: str) -> aws.ec2.RouteTableAssociation:
        return aws.ec2.RouteTableAssociation(
            f"{self._name}-{what}-association", route_table_id=table.id, subnet_id=subnet.id, opts=self._child
        )

    def _public_routes(
        self, vpc: aws.ec2.Vpc, gateway: aws.ec2.InternetGateway, public: Sequence[aws.ec2.Subnet]
    ) -> list[pulumi.CustomResource]:
        table = self._table(vpc, "public")
        route = aws.ec2.Route(
            f"{self._name}-public-route",
            route_table_id=table.id,
            destination_cidr_block="0.0.0.0/0",
            gateway_id=gateway.id,
            opts=self._child,
        )
        return [route, *(self._join(table, subnet, f"public-{index}") for index, subnet in enumerate(public))]

    def _private_routes(
        self,
        vpc: aws.ec2.Vpc,
        gateway: aws.ec2.InternetGateway,
        public: Sequence[aws.ec2.Subnet],
        private: Sequence[aws.ec2.Subnet],
        nat_per_zone: bool,
    ) -> tuple[list[pulumi.CustomResource], list[aws.ec2.RouteTable]]:
        """Route each zone through NAT: one table a zone even with one NAT, so that `nat_per_zone` moves routes only."""
        nats = [
            self._nat(gateway, subnet, index) for index, subnet in enumerate(public if nat_per_zone else public[:1])
        ]
        tables = [self._table(vpc, f"private-{index}") for index in range(len(private))]
        routes = [
            aws.ec2.Route(
                f"{self._name}-private-{index}-route",
                route_table_id=table.id,
                destination_cidr_block="0.0.0.0/0",
                nat_gateway_id=nats[index % len(nats)].id,
                opts=self._child,
            )
            for index, table in enumerate(tables)
        ]
        pairs = enumerate(zip(tables, private, strict=True))
        joins = [self._join(table, subnet, f"private-{index}") for index, (table, subnet) in pairs]
        return [*routes, *joins], tables

    def _nat(self, gateway: aws.ec2.InternetGateway, subnet: aws.ec2.Subnet, index: int) -> aws.ec2.NatGateway:
        after_gateway = pulumi.ResourceOptions(parent=self, depends_on=[gateway])
        address = aws.ec2.Eip(
            f"{self._name}-nat-{index}-address", domain="vpc", tags=self._named(f"nat-{index}"), opts=after_gateway
        )
        return aws.ec2.NatGateway(
            f"{self._name}-nat-{index}",
            allocation_id=address.id,
            subnet_id=subnet.id,
            tags=self._named(f"nat-{index}"),
            opts=after_gateway,
        )

    def _flow_logs(self, vpc: aws.ec2.Vpc, settings: NetworkSettings) -> None:
        name = self._name
        invoke_opts = pulumi.InvokeOutputOptions(parent=self)
        caller = aws.get_caller_identity_output(opts=invoke_opts)
        region = aws.get_region_output(opts=invoke_opts).region
        key = kms.make_key(
            f"{name}-flow-logs-key",
            f"Flow logs of {self._prefix}",
            policy=pulumi.Output.all(caller.arn, region).apply(
                # A pattern, since Pulumi ends the group's name in random digits.
                lambda known: kms.log_key_policy("FlowLogs", known[0], known[1], f"{name}-flow-logs-*")
            ),
            tags=self._named("flow-logs"),
            protect=settings.protect,
            parent=self,
        )
        group = aws.cloudwatch.LogGroup(
            f"{name}-flow-logs",
            retention_in_days=settings.log_retention_days,
            kms_key_id=key.arn,
            tags=self._named("flow-logs"),
            opts=self._child,
        )
        role = aws.iam.Role(
            f"{name}-flow-logs-role",
            description="Lets VPC flow logs write to their log group",
            assume_role_policy=caller.account_id.apply(flow_logs_trust),
            tags=self._named("flow-logs"),
            opts=self._child,
        )
        policy = aws.iam.RolePolicy(
            f"{name}-flow-logs-policy", role=role.id, policy=group.arn.apply(flow_logs_policy), opts=self._child
        )
        aws.ec2.FlowLog(
            f"{name}-flow-log",
            vpc_id=vpc.id,
            traffic_type="ALL",
            log_destination_type="cloud-watch-logs",
            log_destination=group.arn,
            iam_role_arn=role.arn,
            tags=self._named("flow-log"),
            opts=pulumi.ResourceOptions(parent=self, depends_on=[policy]),
        )


@dataclass(frozen=True)
class SubnetPlan:
    """Address ranges by kind, one a zone."""

    private: tuple[str, ...]
    public: tuple[str, ...]


def subnet_plan(vpc_cidr: str) -> SubnetPlan:
    """Divide the VPC: a quarter for each zone's nodes and pods, a sixteenth for each zone's load balancer and NAT."""
    *private, rest = ipaddress.ip_network(vpc_cidr).subnets(prefixlen_diff=2)
    public = list(rest.subnets(prefixlen_diff=2))[:ZONES]
    return SubnetPlan(tuple(map(str, private)), tuple(map(str, public)))


def first_zones(names: Sequence[str]) -> list[str]:
    """Pick the zones to use, the same ones in each run. Raises RunError when the region has too few."""
    if len(names) < ZONES:
        raise pulumi.RunError(
            f"the region has {len(names)} zones that EKS can use ({', '.join(names)}), and the network needs {ZONES}: "
            "choose another region with `pulumi config set aws:region <region>`, or an existing VPC with `vpcId`"
        )
    return sorted(names)[:ZONES]


def flow_logs_trust(account: str) -> str:
    """Trust policy of the flow logs' role: the flow logs of this account may take it."""
    return _policy(
        {
            "Effect": "Allow",
            "Principal": {"Service": "vpc-flow-logs.amazonaws.com"},
            "Action": "sts:AssumeRole",
            "Condition": {"StringEquals": {"aws:SourceAccount": account}},
        }
    )


def flow_logs_policy(log_group_arn: str) -> str:
    """Permissions of the flow logs' role: it writes streams of its group, which exists already."""
    streams = ["logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"]
    return _policy(
        {"Effect": "Allow", "Action": streams, "Resource": f"{log_group_arn}:*"},
        {"Effect": "Allow", "Action": "logs:DescribeLogGroups", "Resource": "*"},
    )


def _policy(*statements: Mapping[str, object]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


def _ids(subnets: Sequence[aws.ec2.Subnet]) -> pulumi.Output[Sequence[str]]:
    return pulumi.Output.all(*[subnet.id for subnet in subnets])
