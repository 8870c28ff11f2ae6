"""Target `eks`: network -> cluster -> registry -> domain, all in one AWS account and region."""

from __future__ import annotations

import pulumi
import pulumi_aws as aws

from infra import naming
from infra.cluster import Cluster, ClusterArgs
from infra.cluster_creator import record_creator
from infra.cluster_platform import Platform, Repository
from infra.config.schema import Settings
from infra.domain import Domain, DomainArgs
from infra.load_balancer import nlb
from infra.network import Network, NetworkArgs
from infra.reachability import require_eks_cluster
from infra.registry import Registry, RegistryArgs
from infra.stack_pin import check_network, pin_stack
from infra.state import outputs_of, previous_resources


def eks_platform(settings: Settings) -> Platform:
    """Make the cluster and all that it stands on; destroy takes it down in the opposite order."""
    pin_stack("Region", settings.region)
    check_network(settings.network)
    require_eks_cluster(previous_resources(), settings.cluster.public_access_cidrs)
    tags = naming.tags(
        project=settings.project, stack=settings.stack, owner=settings.tags.owner, cost_center=settings.tags.cost_center
    )
    network = Network("network", NetworkArgs(settings=settings.network, tags=tags))
    cluster = Cluster(
        "cluster",
        ClusterArgs(
            settings=settings.cluster,
            architecture=settings.image.architecture,
            gpus=settings.service.gpus,
            vpc_id=network.vpc_id,
            private_subnet_ids=network.private_subnet_ids,
            tags=tags,
            sign_in=settings.sign_in,
            creator=record_creator(),
            live_name=outputs_of(previous_resources(), "aws:eks/cluster:Cluster").get("name"),
        ),
        # The cluster goes before NAT and routes: its nodes need them to leave cleanly [pulumi-eks#194].
        pulumi.ResourceOptions(depends_on=[network]),
    )
    registry = Registry("registry", RegistryArgs(settings=settings.registry, tags=tags))
    name, zone = settings.domain.domain, settings.domain.hosted_zone
    domain = Domain("domain", DomainArgs(domain=name, hosted_zone=zone, tags=tags)) if name else None
    pulumi.export("clusterName", cluster.name)
    pulumi.export("region", aws.get_region_output().region)
    pulumi.export("kubeconfig", cluster.kubeconfig)
    return Platform(
        kubeconfig=cluster.kubeconfig,
        workloads=pulumi.ResourceOptions(provider=cluster.provider, depends_on=[cluster]),
        repository=Repository(
            repository_url=registry.repository_url,
            server=registry.server,
            username=registry.username,
            password=registry.password,
        ),
        pull_secret=None,  # the nodes' own role may pull
        load_balancer=nlb(
            health_path=settings.service.readiness_path,
            certificate_arn=domain.certificate_arn if domain else None,
            # Subnets of an existing VPC need not carry the tags that the controller looks for.
            subnets=settings.network.public_subnet_ids,
        ),
        domain=domain,
        node_selector=cluster.node_selector,
        tolerations=cluster.tolerations,
    )
