"""An existing cluster and image repository, for the `kubernetes` target: no cloud's SDK is imported."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pulumi
import pulumi_kubernetes as k8s
import yaml

from infra.cluster_platform import Platform
from infra.config.schema import ExistingSettings, Settings
from infra.load_balancer import plain
from infra.stack_pin import pin_stack

DOCKER_HUB = "docker.io"
_FILES = ("certificate-authority", "client-certificate", "client-key", "tokenFile")
"""Fields of a kubeconfig that name a file, relative to the kubeconfig's own folder."""


class KubeconfigError(pulumi.RunError):
    """There is no usable kubeconfig; the message says what was looked for and how to mend it."""


class ExistingCluster(pulumi.ComponentResource):
    """A cluster that somebody else runs."""

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

    def __init__(self, name: str, chosen: Chosen, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("model-endpoint:existing:ExistingCluster", name, None, opts)
        self.name = pulumi.Output.from_input(chosen.cluster)
        self.kubeconfig = pulumi.Output.secret(chosen.kubeconfig)
        self.node_selector = {}
        self.tolerations = []
        self.provider = k8s.Provider(
            f"{name}-kubernetes",
            kubeconfig=self.kubeconfig,
            # The provider, and with it every workload, is replaced when this changes and only then.
            cluster_identifier=chosen.server,
            enable_server_side_apply=True,
            opts=pulumi.ResourceOptions(parent=self),
        )
        self.register_outputs({"name": self.name, "kubeconfig": self.kubeconfig})


@dataclass(frozen=True)
class ExistingRegistry:
    """The image repository and the login to it, as a Registry has them."""

    repository_url: pulumi.Output[str]
    """Empty with a prebuilt image, which needs no repository."""
    server: pulumi.Output[str]
    """Host name to log in to."""
    username: pulumi.Output[str] | None
    """None: push with the login that the machine has already."""
    password: pulumi.Output[str] | None
    """Secret; goes with `username`."""


def existing_registry(settings: ExistingSettings) -> ExistingRegistry:
    """The repository that the config names."""
    repository = settings.repository or ""
    username, password = settings.registry_username, settings.registry_password
    return ExistingRegistry(
        repository_url=pulumi.Output.from_input(repository),
        server=pulumi.Output.from_input(server_of(repository)),
        username=pulumi.Output.from_input(username) if username else None,
        password=password.output() if password else None,
    )


def existing_platform(settings: Settings) -> Platform:
    """The cluster and the repository of the config: nothing is made but the connection. Raises KubeconfigError."""
    chosen = choose(load_kubeconfig(settings.existing.kubeconfig, os.environ), settings.existing.context)
    pin_stack("Cluster", chosen.server)
    cluster = ExistingCluster("cluster", chosen)
    registry = existing_registry(settings.existing)
    pull_secret = None
    if registry.username is not None and not settings.image.image:
        login = pulumi.Output.all(registry.server, registry.username, registry.password)
        pull_secret = pulumi.Output.secret(login.apply(docker_config))
    return Platform(
        kubeconfig=cluster.kubeconfig,
        workloads=pulumi.ResourceOptions(provider=cluster.provider),
        repository=registry,
        pull_secret=pull_secret,
        load_balancer=plain(),
        domain=None,
        node_selector=cluster.node_selector,
        tolerations=cluster.tolerations,
    )


def server_of(repository: str) -> str:
    """The registry's host in the name of a repository; without one it is Docker Hub, as for `docker push`."""
    host, slash, _ = repository.partition("/")
    return host if slash and (host == "localhost" or "." in host or ":" in host) else DOCKER_HUB


def docker_config(login: Sequence[str]) -> str:
    """The text of a Docker config with one login: server, user name, password."""
    server, username, password = login
    # Docker Hub's login is kept under the address of its first API.
    address = "https://index.docker.io/v1/" if server == DOCKER_HUB else server
    token = base64.b64encode(f"{username}:{password}".encode()).decode()
    return json.dumps({"auths": {address: {"username": username, "password": password, "auth": token}}})


@dataclass(frozen=True)
class Chosen:
    """One context of a kubeconfig."""

    kubeconfig: str
    """JSON with this context alone, as the current one."""
    cluster: str
    server: str


Entry = dict[str, Any]


def load_kubeconfig(given: str | None, environment: Mapping[str, str]) -> Entry:
    """The kubeconfig that `given` is (its text) or names (its path); else that of `KUBECONFIG`, else the user's own.

    Several files in `KUBECONFIG` are merged as kubectl does: the first to say something wins. Raises KubeconfigError.
    """
    if given and ("\n" in given or given.lstrip().startswith("{")):
        return _parse(given, "the config key kubeconfig", None)
    listed = [path for path in environment.get("KUBECONFIG", "").split(os.pathsep) if path]
    wanted = [given] if given else listed or [str(Path("~", ".kube", "config"))]
    paths = [Path(path).expanduser() for path in wanted]
    found = [path for path in paths if path.is_file()]
    if not found or (given and len(found) < len(paths)):
        source = "config key kubeconfig" if given else "KUBECONFIG" if listed else "default"
        raise KubeconfigError(
            f"no kubeconfig at {', '.join(map(str, paths))} ({source}): name one with\n"
            f"    pulumi config set kubeconfig <path>"
        )
    merged: Entry = {}
    for path in found:
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise KubeconfigError(f"the kubeconfig {path} cannot be read: {error}") from error
        for key, value in _parse(text, str(path), path.absolute().parent).items():
            if isinstance(value, list):
                merged[key] = [*merged.get(key, []), *cast(list[Any], value)]
            elif value:
                merged.setdefault(key, value)
    return merged


def choose(kubeconfig: Entry, context: str | None) -> Chosen:
    """The named `context`, or the current one, and what belongs to it. Raises KubeconfigError."""
    contexts = _by_name(kubeconfig, "contexts", "context")
    wanted = context or str(kubeconfig.get("current-context") or "")
    known = ", ".join(sorted(contexts)) or "none"
    if not wanted:
        raise KubeconfigError(
            f"the kubeconfig has no current context: choose one of its contexts ({known}) with\n"
            f"    pulumi config set context <name>"
        )
    if wanted not in contexts:
        raise KubeconfigError(
            f"the kubeconfig has no context {wanted}: choose one of its contexts ({known}) with\n"
            f"    pulumi config set context <name>"
        )
    chosen = contexts[wanted]
    clusters, users = _by_name(kubeconfig, "clusters", "cluster"), _by_name(kubeconfig, "users", "user")
    cluster_name, user_name = str(chosen.get("cluster", "")), str(chosen.get("user", ""))
    cluster = clusters.get(cluster_name, {})
    if not cluster.get("server"):
        raise KubeconfigError(
            f"the kubeconfig's context {wanted} names the cluster {cluster_name}, which has no server"
        )
    minimal = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": wanted,
        "contexts": [{"name": wanted, "context": chosen}],
        "clusters": [{"name": cluster_name, "cluster": cluster}],
        "users": [{"name": user_name, "user": users.get(user_name, {})}],
    }
    return Chosen(json.dumps(minimal, sort_keys=True, default=str), cluster_name, str(cluster["server"]))


def _parse(text: str, source: str, folder: Path | None) -> Entry:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise KubeconfigError(f"{source} is not a kubeconfig: it is not YAML") from error
    if not isinstance(content, dict) or "clusters" not in content:
        raise KubeconfigError(f"{source} is not a kubeconfig: it has no clusters")
    parsed = cast(Entry, content)
    if folder:
        for entry in [*_by_name(parsed, "clusters", "cluster").values(), *_by_name(parsed, "users", "user").values()]:
            _make_absolute(entry, folder)
    return parsed


def _make_absolute(entry: Entry, folder: Path) -> None:
    for key in _FILES:
        if entry.get(key):
            entry[key] = str(folder / str(entry[key]))
    command = entry.get("exec")
    if isinstance(command, dict):
        program = str(cast(Entry, command).get("command", ""))
        if "/" in program:
            command["command"] = str(folder / program)


def _by_name(kubeconfig: Entry, listing: str, kind: str) -> dict[str, Entry]:
    """The entries of a kubeconfig's list by name; the first of a name wins, anything misshapen is left out."""
    found: dict[str, Entry] = {}
    for item in cast(list[Any], kubeconfig.get(listing) or []):
        if isinstance(item, dict):
            named = cast(Entry, item)
            if isinstance(named.get(kind), dict):
                found.setdefault(str(named.get("name")), cast(Entry, named[kind]))
    return found
