"""Load balancers of the clouds: the part of the Service that differs between clouds. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi

NLB_CLASS = "eks.amazonaws.com/nlb"
"""EKS Auto Mode's own controller."""

NLB_DRAIN_SECONDS = 120
"""An NLB sends new connections to a leaving target for about two minutes [aws-load-balancer-controller#2366]."""

_TLS_POLICY = "ELBSecurityPolicy-TLS13-1-2-2021-06"
_PREFIX = "service.beta.kubernetes.io/aws-load-balancer-"


@dataclass(frozen=True, kw_only=True)
class LoadBalancer:
    """The part of a Service that asks for its load balancer."""

    load_balancer_class: str | None
    """None: the cluster's default. It cannot be changed later without a new Service, that is, a new address."""
    annotations: Mapping[str, pulumi.Input[str]]
    drain_seconds: int
    """Seconds for which a leaving pod still gets new connections and must serve them."""
    node_ports: bool
    """Whether traffic comes through a port of the nodes; False where the load balancer reaches the pods themselves."""


def plain() -> LoadBalancer:
    """Take whatever load balancer the cluster has. Its targets leave within seconds."""
    return LoadBalancer(load_balancer_class=None, annotations={}, drain_seconds=5, node_ports=True)


def nlb(
    *, health_path: str | None, certificate_arn: pulumi.Input[str] | None = None, subnets: Sequence[str] = ()
) -> LoadBalancer:
    """Ask EKS Auto Mode for an internet-facing NLB whose targets are the pods.

    `health_path`: what its health check asks for; None: for a connection alone.
    `certificate_arn`: TLS ends at the listener on 443.
    `subnets`: ids of public subnets; empty: those that are tagged for it.
    It has no tags of ours: Auto Mode's own policies do not let it set any.
    """
    annotations: dict[str, pulumi.Input[str]] = {
        "scheme": "internet-facing",
        "nlb-target-type": "ip",
        "attributes": "load_balancing.cross_zone.enabled=true",
        "healthcheck-protocol": "http" if health_path else "tcp",
        "healthcheck-port": "traffic-port",
        **({"healthcheck-path": health_path} if health_path else {}),
        "healthcheck-interval": "10",
        "healthcheck-timeout": "5",
        "healthcheck-healthy-threshold": "2",
        "healthcheck-unhealthy-threshold": "2",
        "target-group-attributes": f"deregistration_delay.timeout_seconds={NLB_DRAIN_SECONDS},"
        "deregistration_delay.connection_termination.enabled=true",
    }
    if certificate_arn is not None:
        annotations |= {"ssl-cert": certificate_arn, "ssl-ports": "443", "ssl-negotiation-policy": _TLS_POLICY}
    if subnets:
        annotations["subnets"] = ",".join(subnets)
    return LoadBalancer(
        load_balancer_class=NLB_CLASS,
        annotations={f"{_PREFIX}{key}": value for key, value in annotations.items()},
        drain_seconds=NLB_DRAIN_SECONDS,
        node_ports=False,
    )
