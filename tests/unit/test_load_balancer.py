"""What each cloud's Service asks for."""

from __future__ import annotations

from infra.load_balancer import nlb, plain

PREFIX = "service.beta.kubernetes.io/aws-load-balancer-"
PLAIN_HTTP = {
    "scheme": "internet-facing",
    "nlb-target-type": "ip",
    "attributes": "load_balancing.cross_zone.enabled=true",
    "healthcheck-protocol": "http",
    "healthcheck-port": "traffic-port",
    "healthcheck-path": "/ready",
    "healthcheck-interval": "10",
    "healthcheck-timeout": "5",
    "healthcheck-healthy-threshold": "2",
    "healthcheck-unhealthy-threshold": "2",
    "target-group-attributes": (
        "deregistration_delay.timeout_seconds=120,deregistration_delay.connection_termination.enabled=true"
    ),
}


def prefixed(annotations: dict[str, str]) -> dict[str, str]:
    return {f"{PREFIX}{key}": value for key, value in annotations.items()}


def test_a_plain_one_asks_for_nothing() -> None:
    found = plain()
    assert (found.load_balancer_class, found.annotations, found.node_ports) == (None, {}, True)
    assert found.drain_seconds == 5


def test_an_nlb_goes_to_the_pods_and_drains_as_long_as_it_sends() -> None:
    found = nlb(health_path="/ready")
    assert found.load_balancer_class == "eks.amazonaws.com/nlb"
    assert found.annotations == prefixed(PLAIN_HTTP)
    assert found.drain_seconds == 120
    assert found.node_ports is False


def test_a_certificate_ends_tls_at_the_listener() -> None:
    assert nlb(health_path="/ready", certificate_arn="arn:aws:acm:x").annotations == prefixed(
        {
            **PLAIN_HTTP,
            "ssl-cert": "arn:aws:acm:x",
            "ssl-ports": "443",
            "ssl-negotiation-policy": "ELBSecurityPolicy-TLS13-1-2-2021-06",
        }
    )


def test_named_subnets_need_no_tags() -> None:
    found = nlb(health_path="/ready", subnets=("subnet-1", "subnet-2")).annotations
    assert found[f"{PREFIX}subnets"] == "subnet-1,subnet-2"
