"""What the tests may ask of a cluster."""

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
    """An administrator's."""
    registry: str
    """`host:port`, without a login and plain http; the same name here and for the cluster's nodes."""
    load_balancer_ip: str | None
    """What the first Service of type LoadBalancer gets, for this machine too; None when only the cluster knows."""
    environment: Mapping[str, str]
    """Variables with which other programs find this cluster and its `kubectl`."""

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """What kubectl prints; ClusterError with its complaint when it fails."""
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
        """The command as it has to be run so that it reaches the load balancers' addresses."""
        raise NotImplementedError

    def exec(self, command: Sequence[str]) -> str:
        """Run a command on the node, among its processes and mounts; what it prints."""
        raise NotImplementedError

    def restart_kubelet(self) -> None:
        """Stop the kubelet; returns when a new one answers."""
        raise NotImplementedError

    def logs(self, name: str) -> str:
        """What a part of the cluster has written, such as `kubelet` or `containerd`."""
        raise NotImplementedError
