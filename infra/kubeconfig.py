"""Reads kubeconfigs as kubectl does, and reduces them to one context. No engine, no SDK of a cloud."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pulumi
import yaml

from infra.config.schema import is_document

_FILES = ("certificate-authority", "client-certificate", "client-key", "tokenFile")
"""Fields of a kubeconfig that name a file, relative to the kubeconfig's own folder."""

Entry = dict[str, Any]


class KubeconfigError(pulumi.RunError):
    """There is no usable kubeconfig; the message says what was looked for and how to mend it."""


@dataclass(frozen=True)
class Context:
    """One context of a kubeconfig."""

    kubeconfig: str
    """JSON with this context alone, as the current one."""
    cluster: str
    """The cluster's name in the kubeconfig."""
    server: str
    """URL of the API server."""
    name: str
    """The context's own name."""
    proxied: bool = False
    """Whether the API server is reached through a proxy that the kubeconfig names."""
    tls_server_name: str | None = None
    """Name to ask for in TLS; None: the host in `server`."""


def load_kubeconfig(given: str | None, environment: Mapping[str, str]) -> Entry:
    """Read the kubeconfig that `given` is (its text) or names (its path); else that of `KUBECONFIG`, else the user's.

    Several files in `KUBECONFIG` are merged as kubectl does: the first to say something wins. Raises KubeconfigError.
    """
    if given and is_document(given):
        return _parse(given, "the config key kubeconfig", None)
    listed = [path for path in environment.get("KUBECONFIG", "").split(os.pathsep) if path]
    wanted = [given] if given else listed or [str(Path("~", ".kube", "config"))]
    paths = [Path(path).expanduser() for path in wanted]
    found = [path for path in paths if path.is_file()]
    if not found:
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


def choose_context(kubeconfig: Entry, context: str | None) -> Context:
    """Pick the named `context`, or the current one, and what belongs to it. Raises KubeconfigError."""
    contexts = _by_name(kubeconfig, "contexts", "context")
    wanted = context or str(kubeconfig.get("current-context") or "")
    if wanted not in contexts:
        known = ", ".join(sorted(contexts)) or "none"
        raise KubeconfigError(
            f"the kubeconfig has no {f'context {wanted}' if wanted else 'current context'}: "
            f"choose one of its contexts ({known}) with\n"
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
    return Context(
        kubeconfig=json.dumps(minimal, sort_keys=True, default=str),
        cluster=cluster_name,
        server=str(cluster["server"]),
        name=wanted,
        proxied=bool(cluster.get("proxy-url")),
        tls_server_name=cluster.get("tls-server-name"),
    )


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
    """Index a kubeconfig's list by name; the first of a name wins, anything misshapen is left out."""
    found: dict[str, Entry] = {}
    for item in cast(list[Any], kubeconfig.get(listing) or []):
        if isinstance(item, dict):
            named = cast(Entry, item)
            if isinstance(named.get(kind), dict):
                found.setdefault(str(named.get("name")), cast(Entry, named[kind]))
    return found
