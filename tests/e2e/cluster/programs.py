"""Programs of our own cluster, kept in the user's cache: Kubernetes from pinned Go modules, the rest from Debian."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.cluster.api import ClusterError
from tools import debian, go
from tools.cache import default_cache, digest, machine, once

_HERE = Path(__file__).parent
_KUBE, _METRICS = _HERE / "kube", _HERE / "metrics"
_PARTS = [
    *("kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubelet"),
    *("balancer", "coredns", "kubectl", "policy"),
]
"""Names under which the one program of kube/ runs its parts."""

_PACKAGES = {
    "containerd": "containerd",
    "docker-registry": "docker-registry",
    "etcd": "etcd-server",
    "host-local": "containernetworking-plugins",
    "ip": "iproute2",
    "iptables": "iptables",
    "openssl": "openssl",
    "runc": "runc",
}
"""Debian package by program."""


@dataclass(frozen=True, kw_only=True)
class Programs:
    """Paths of all programs that a cluster runs."""

    kube: Path
    """Folder with `kubectl`, `kubelet` and the like, `metrics-server`, and the images' `pause` and `probe`."""
    environment: Mapping[str, str]
    """Environment in which all programs run by their bare names."""

    def find(self, name: str) -> Path:
        """Return a program's path; raises ClusterError if there is none."""
        found = shutil.which(name, path=self.environment["PATH"])
        if not found:
            raise ClusterError(f"there is no {name} in {self.environment['PATH']}")
        return Path(found)


def unavailable() -> str | None:
    """Say why our own cluster cannot run here and what to do, or None."""
    instead = "or name a cluster by E2E_KUBECONFIG"
    if not Path("/proc/self/ns/net").exists():
        return f"a cluster needs Linux namespaces: use Linux, {instead}"
    if os.geteuid() != 0:
        return f"a cluster needs namespaces, mounts and cgroups: run as root, {instead}"
    if reason := debian.unavailable(_PACKAGES):
        return f"{reason}, which a cluster needs: install them, {instead}"
    if (reason := go.unavailable()) and not _kube_folder(default_cache()).is_dir():
        return f"a cluster is built once from Go modules, and {reason}, {instead}"
    return None


def programs(cache: Path) -> Programs:
    """Return all programs, from the cache or built into it now."""
    environment = {"HOME": "/root", "TMPDIR": "/run"} | debian.environment(_PACKAGES, cache)
    kube = _kube_folder(cache)
    once(kube, _build)
    environment["PATH"] = os.pathsep.join([str(kube), environment["PATH"]])
    return Programs(kube=kube, environment=environment)


def version() -> str:
    pinned = re.search(r"k8s\.io/kubernetes (v\S+)", (_KUBE / "go.mod").read_text())
    if not pinned:
        raise ClusterError(f"{_KUBE / 'go.mod'} does not pin k8s.io/kubernetes")
    return pinned[1]


def _kube_folder(cache: Path) -> Path:
    sources = sorted(file for module in (_KUBE, _METRICS) for file in module.rglob("*") if file.is_file())
    return cache / f"kube-{version()}-{machine()}-{digest(sources)}"


def _build(into: Path) -> None:
    _, major, minor, *_ = re.split(r"[v.]", version())
    variables = {"gitVersion": version(), "gitMajor": major, "gitMinor": minor}
    flags = " ".join(f"-X k8s.io/component-base/version.{name}={value}" for name, value in variables.items())
    go.build(_KUBE, "./...", into, name=f"Kubernetes {version()}", linker_flags=flags)
    go.build(_METRICS, ".", into, name="metrics-server")
    for part in _PARTS:
        (into / part).symlink_to("kube")
