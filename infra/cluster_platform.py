"""What a cluster target offers to the image and the service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import pulumi
import pulumi_kubernetes as k8s

from infra.load_balancer import LoadBalancer


class Repository(Protocol):
    """Where the image is pushed to and pulled from."""

    @property
    def repository_url(self) -> pulumi.Output[str]:
        """Without scheme or tag."""
        ...

    @property
    def server(self) -> pulumi.Output[str]:
        """Host name to log in to."""
        ...

    @property
    def username(self) -> pulumi.Output[str] | None:
        """None: the login that the machine has already."""
        ...

    @property
    def password(self) -> pulumi.Output[str] | None:
        """Secret."""
        ...


class HostName(Protocol):
    """The endpoint's own host name."""

    @property
    def host(self) -> str:
        """What callers use, over https."""
        ...

    def point_to(self, hostname: pulumi.Input[str]) -> pulumi.Output[str]:
        """Makes the record that leads to the load balancer; the host name that is returned is known once it exists."""
        ...


@dataclass(frozen=True, kw_only=True)
class Platform:
    """Made by `infra.eks.eks_platform` or `infra.kubernetes.existing_platform`."""

    kubeconfig: pulumi.Output[str]
    """Secret; text."""
    workloads: pulumi.ResourceOptions
    """Options of everything that runs on the cluster: its provider, and what must outlive the workloads."""
    repository: Repository
    pull_secret: pulumi.Output[str] | None
    """Secret; the login with which pods pull, as the text of a Docker config. None: the nodes need none."""
    load_balancer: LoadBalancer
    domain: HostName | None
    """None: the load balancer's own address, over http."""
    node_selector: Mapping[str, str]
    tolerations: Sequence[k8s.core.v1.TolerationArgs]

    def publish(self, url: pulumi.Output[str], hostname: pulumi.Output[str]) -> pulumi.Output[str]:
        """The service's `url`, known once it leads to the load balancer `hostname`; makes the domain's record."""
        if self.domain is None:
            return url
        return pulumi.Output.all(url, self.domain.point_to(hostname)).apply(_first)


def _first(values: list[str]) -> str:
    return values[0]
