"""A kubeconfig's way to its API server, and nothing of it on disk."""

from __future__ import annotations

import base64
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.standins.cloud import CloudError


@dataclass(frozen=True)
class Access:
    server: str
    tls: ssl.SSLContext
    headers: dict[str, str]


def access(text: str, context: str = "") -> Access:
    """What the text of a kubeconfig says for a context, by default the current one."""
    config = yaml.safe_load(text) or {}
    names = _named(config, "contexts", "context", context or config.get("current-context", ""))
    cluster = _named(config, "clusters", "cluster", names.get("cluster", ""))
    user = _named(config, "users", "user", names.get("user", ""))
    unknown = user.keys() & {"exec", "auth-provider", "username"}
    if unknown:
        raise CloudError(
            f"the kubeconfig logs in by {', '.join(sorted(unknown))}: give one with a certificate or token"
        )
    tls = ssl.create_default_context(cadata=_pem(cluster, "certificate-authority"))
    if cluster.get("insecure-skip-tls-verify"):
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    certificate, key = _pem(user, "client-certificate"), _pem(user, "client-key")
    if certificate and key:
        with _in_memory(certificate + "\n" + key) as path:
            tls.load_cert_chain(path)
    token = user.get("token") or (Path(user["tokenFile"]).read_text().strip() if "tokenFile" in user else "")
    return Access(cluster["server"], tls, {"Authorization": f"Bearer {token}"} if token else {})


def _named(config: dict[str, Any], listing: str, kind: str, name: str) -> dict[str, Any]:
    for item in config.get(listing) or []:
        if item.get("name") == name:
            return item[kind]
    raise CloudError(f"the kubeconfig has no {kind} {name!r}")


def _pem(entry: dict[str, Any], key: str) -> str | None:
    """Given in place, as base64, or as a file's name."""
    if data := entry.get(f"{key}-data"):
        return base64.b64decode(data).decode()
    return Path(entry[key]).read_text() if entry.get(key) else None


@contextmanager
def _in_memory(text: str) -> Iterator[str]:
    """A path under which the text can be read in this process; ssl takes a private key from a path only."""
    descriptor = os.memfd_create("key")
    try:
        os.write(descriptor, text.encode())
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
