"""The cluster of E2E_KUBECONFIG: kind, k3d, any that pulls from E2E_REGISTRY."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.e2e.cluster.api import Cluster, ClusterError


class GivenCluster(Cluster):
    """A cluster that is used through its API only, never started or stopped."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.kubeconfig = Path(environment["E2E_KUBECONFIG"])
        if not self.kubeconfig.is_file():
            raise ClusterError(f"E2E_KUBECONFIG: there is no file {self.kubeconfig}")
        self.registry = environment.get("E2E_REGISTRY", "")
        if not self.registry:
            raise ClusterError(
                "E2E_KUBECONFIG needs E2E_REGISTRY beside it: the host:port of a registry that takes pushes from here"
                " and that the cluster pulls from under the same name, such as localhost:5001"
            )
        self.load_balancer_ip = None
        self.environment = {"KUBECONFIG": str(self.kubeconfig)}

    def in_network(self, command: Sequence[str]) -> list[str]:
        return list(command)

    def exec(self, command: Sequence[str]) -> str:
        raise _out_of_reach("run a command on its node")

    def restart_kubelet(self) -> None:
        raise _out_of_reach("restart its kubelet")

    def logs(self, name: str) -> str:
        raise _out_of_reach(f"read the log of its {name}")


def _out_of_reach(what: str) -> ClusterError:
    return ClusterError(f"the cluster of E2E_KUBECONFIG is used through its API only: cannot {what}")
