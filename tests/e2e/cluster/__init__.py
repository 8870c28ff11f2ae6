"""A real Kubernetes cluster for the tests: the one of E2E_KUBECONFIG, else one of our own.

    with cluster() as c:
        c.kubectl("get", "nodes")

Our own is one Kubernetes node in its own process, mount and network namespaces, with a registry, DNS, metrics and load
balancers. It is gone when the block ends, and also when the process is killed. The modules:

own       start, use and stop it        given     the cluster of E2E_KUBECONFIG instead
guard     the process that outlives the tests to clean up; slots: what there is to clean up
node      process 1 of the namespaces   plan      what it runs, with pki: the keys
add_ons   DNS and metrics               images    images without a builder
programs  where the binaries come from; kube/ and metrics/: their Go modules
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.cluster import own, programs
from tests.e2e.cluster.api import Cluster, ClusterError
from tests.e2e.cluster.given import GivenCluster
from tests.e2e.cluster.own import OwnCluster

__all__ = ["Cluster", "ClusterError", "GivenCluster", "OwnCluster", "cluster", "unavailable"]


@contextmanager
def cluster(cache: Path | None = None, state: Path | None = None) -> Generator[Cluster]:
    """Yield the cluster for these tests.

    `cache` keeps binaries for the next time, by default the user's cache. Our own cluster makes its state folder in
    `state`, by default the folder for temporary files.
    """
    if os.environ.get("E2E_KUBECONFIG"):
        yield GivenCluster(os.environ)
        return
    with own.started(cache, state) as started:
        yield started


def unavailable() -> str | None:
    """Say why there can be no cluster here, or None."""
    return None if os.environ.get("E2E_KUBECONFIG") else programs.unavailable()
