"""The platform that a cluster target gives to the image and the service, and the endpoint's URL on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import pulumi
import pulumi_kubernetes as k8s

from infra import outputs
from infra.load_balancer import LoadBalancer


@dataclass(frozen=True, kw_only=True)
class Repository:
    """Image repository, to push to and pull from."""

    repository_url: pulumi.Output[str]
    """Without scheme or tag; empty with a prebuilt image, which needs no repository."""
    server: pulumi.Output[str]
    """Host name to log in to."""
    username: pulumi.Output[str] | None
    """None: the login that the machine has already."""
    password: pulumi.Output[str] | None
    """Secret; goes with `username`."""


class HostName(Protocol):
    """The endpoint's own host name."""

    @property
    def host(self) -> str:
        """Name that callers use, over https."""
        ...

    def point_to(self, hostname: pulumi.Input[str]) -> pulumi.Output[str]:
        """Make the record that leads to the load balancer; the host name that is returned is known once it exists."""
        ...


@dataclass(frozen=True, kw_only=True)
class Platform:
    """Made by `infra.eks.eks_platform` or `infra.kubernetes.existing_platform`."""

    kubeconfig: pulumi.Output[str]
    """Secret; text."""
    workloads: pulumi.ResourceOptions
    """Options for everything that runs on the cluster: its provider, and what must outlive the workloads."""
    repository: Repository
    pull_secret: pulumi.Output[str] | None
    """Secret; the login with which pods pull, as the text of a Docker config. None: the nodes need none."""
    load_balancer: LoadBalancer
    domain: HostName | None
    """None: the load balancer's own address, over http."""
    node_selector: Mapping[str, str]
    tolerations: Sequence[k8s.core.v1.TolerationArgs]

    def url(self, hostname: pulumi.Output[str], port: int) -> pulumi.Output[str]:
        """Make the endpoint's URL from the service's load balancer and listener port; call it once.

        Under a domain this makes the record that leads to `hostname`, and the URL is known once the record exists.
        """
        if self.domain is None:
            return hostname.apply(lambda host: endpoint_url(host, port, https=False))
        host = pulumi.Output.from_input(self.domain.host)
        named = outputs.after(host, [self.domain.point_to(hostname)])
        return named.apply(lambda name: endpoint_url(name, port, https=True))


def endpoint_url(host: str, port: int, *, https: bool) -> str:
    """Spell the URL of a host name or address; the scheme's own port is left out, an IPv6 address is bracketed."""
    scheme, usual = ("https", 443) if https else ("http", 80)
    name = f"[{host}]" if ":" in host else host
    return f"{scheme}://{name}" if port == usual else f"{scheme}://{name}:{port}"
