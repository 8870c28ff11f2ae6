"""Target `kubernetes`: an existing cluster and image repository. No cloud's SDK is imported."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping, Sequence

import pulumi
import pulumi_kubernetes as k8s

from infra.cluster_platform import Platform, Repository
from infra.config.schema import ExistingSettings, Settings
from infra.kubeconfig import Context, choose_context, load_kubeconfig
from infra.load_balancer import plain
from infra.reachability import require_existing_cluster
from infra.stack_pin import pin_stack

DOCKER_HUB = "docker.io"


class ExistingCluster(pulumi.ComponentResource):
    """A cluster that somebody else runs: the connection to it is all that is made."""

    provider: k8s.Provider
    """Give it to every Kubernetes resource."""
    name: pulumi.Output[str]
    """The cluster's name in the kubeconfig."""
    kubeconfig: pulumi.Output[str]
    """Secret. JSON with the chosen context and nothing else."""
    node_selector: Mapping[str, str]
    """Empty: pods run on any node."""
    tolerations: Sequence[k8s.core.v1.TolerationArgs]
    """Empty."""

    def __init__(self, name: str, context: Context, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("model-endpoint:existing:ExistingCluster", name, None, opts)
        self.name = pulumi.Output.from_input(context.cluster)
        self.kubeconfig = pulumi.Output.secret(context.kubeconfig)
        self.node_selector = {}
        self.tolerations = []
        self.provider = k8s.Provider(
            f"{name}-kubernetes",
            kubeconfig=self.kubeconfig,
            # The provider, and with it every workload, is replaced when this changes and only then.
            cluster_identifier=context.server,
            enable_server_side_apply=True,
            opts=pulumi.ResourceOptions(parent=self),
        )
        self.register_outputs({"name": self.name, "kubeconfig": self.kubeconfig})


def existing_platform(settings: Settings) -> Platform:
    """Connect to the cluster and the repository of the config; nothing else is made.

    Raises KubeconfigError, and UnreachableError when the cluster does not answer.
    """
    kubeconfig = load_kubeconfig(settings.existing.kubeconfig, os.environ)
    context = choose_context(kubeconfig, settings.existing.context)
    require_existing_cluster(context)
    pin_stack("Cluster", context.server)
    cluster = ExistingCluster("cluster", context)
    repository = existing_repository(settings.existing)
    pull_secret = None
    if repository.username is not None and not settings.image.image:
        login = pulumi.Output.all(repository.server, repository.username, repository.password)
        pull_secret = pulumi.Output.secret(login.apply(docker_config))
    return Platform(
        kubeconfig=cluster.kubeconfig,
        workloads=pulumi.ResourceOptions(provider=cluster.provider),
        repository=repository,
        pull_secret=pull_secret,
        load_balancer=plain(),
        domain=None,
        node_selector=cluster.node_selector,
        tolerations=cluster.tolerations,
    )


def existing_repository(settings: ExistingSettings) -> Repository:
    """Take the repository that the config names, and the login to it."""
    repository = settings.repository or ""
    username, password = settings.registry_username, settings.registry_password
    return Repository(
        repository_url=pulumi.Output.from_input(repository),
        server=pulumi.Output.from_input(server_of(repository)),
        username=pulumi.Output.from_input(username) if username else None,
        password=password.output() if password else None,
    )


def server_of(repository: str) -> str:
    """The registry's host in the name of a repository; without one it is Docker Hub, as for `docker push`."""
    host, slash, _ = repository.partition("/")
    return host if slash and (host == "localhost" or "." in host or ":" in host) else DOCKER_HUB


def docker_config(login: Sequence[str]) -> str:
    """Render a Docker config (JSON) with one login: server, user name, password."""
    server, username, password = login
    # Docker Hub's login is kept under the address of its first API.
    address = "https://index.docker.io/v1/" if server == DOCKER_HUB else server
    token = base64.b64encode(f"{username}:{password}".encode()).decode()
    return json.dumps({"auths": {address: {"username": username, "password": password, "auth": token}}})
