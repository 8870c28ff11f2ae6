"""The interface of a cluster under test."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


class ClusterError(Exception):
    """The cluster did not do what it was asked; the message says what it did instead."""


class Cluster:
    """A cluster and the registry that it pulls from."""

    kubeconfig: Path
    """Credentials of an administrator."""
    registry: str
    """`host:port`, plain http without a login, under the same name for this machine and the cluster's nodes."""
    load_balancer_ip: str | None
    """Address of the first Service of type LoadBalancer, reachable from this machine; None if it is not known."""
    environment: Mapping[str, str]
    """Environment variables by which other programs find this cluster and its `kubectl`."""

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl and return its output; raises ClusterError with its complaint."""
        variables = os.environ | self.environment
        program = shutil.which("kubectl", path=variables.get("PATH"))
        if not program:
            raise ClusterError("there is no kubectl on PATH: install one for the cluster of E2E_KUBECONFIG")
        done = subprocess.run(
            [program, *arguments], input=stdin, env=variables, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise ClusterError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def in_network(self, command: Sequence[str]) -> list[str]:
        """Wrap a command so that it reaches the load balancers' addresses."""
        raise NotImplementedError

    def exec(self, command: Sequence[str]) -> str:
        """Run a command in the node's namespaces and return its output."""
        raise NotImplementedError

    def restart_kubelet(self) -> None:
        raise NotImplementedError

    def logs(self, name: str) -> str:
        """Read the log of a part of the cluster, such as `kubelet` or `containerd`."""
        raise NotImplementedError
