"""The cluster that the other tests here run on does what a cluster of EKS does, and goes without a trace."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.e2e.cluster import ClusterError, OwnCluster, images, own, programs, slots
from tests.e2e.cluster import cluster as any_cluster

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
NAMESPACE = "self-check"
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
HOLD = """
import sys
from pathlib import Path
from tests.e2e.cluster import own
with own.started(None, Path(sys.argv[1])) as cluster:
    print(cluster.slot.number, flush=True)
    sys.stdin.read()
"""
"""A test process that has a cluster until its input ends."""

pytestmark = pytest.mark.skipif(programs.unavailable() is not None, reason=str(programs.unavailable()))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnCluster]:
    with own.started(None, tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def address(cluster: OwnCluster) -> str:
    image = images.push(cluster.registry, "probe", cluster.programs.kube / "probe")
    enforce = {"pod-security.kubernetes.io/enforce": "restricted"}
    apply(cluster, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": enforce}})
    metadata, labels = {"name": "probe", "namespace": NAMESPACE}, {"app": "probe"}
    resources = {"requests": {"cpu": "50m", "memory": "16Mi"}, "limits": {"cpu": "200m", "memory": "64Mi"}}
    container = {"name": "probe", "image": image, "securityContext": RESTRICTED, "resources": resources}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    apply(
        cluster,
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": metadata,
            "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": template},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {"type": "LoadBalancer", "selector": labels, "ports": [{"port": 80, "targetPort": 8080}]},
        },
    )
    kubectl(cluster, "rollout", "status", "deployment/probe", "--timeout=60s")
    jsonpath = "jsonpath={.status.loadBalancer.ingress[0].ip}"
    return wait_for(lambda: kubectl(cluster, "get", "service", "probe", "-o", jsonpath))


def test_the_node_is_one_of_the_pinned_version_in_a_zone(cluster: OwnCluster) -> None:
    node = json.loads(cluster.kubectl("get", "nodes", "-o", "json"))["items"][0]
    assert node["status"]["nodeInfo"]["kubeletVersion"] == programs.version()
    assert node["metadata"]["labels"]["topology.kubernetes.io/zone"]


def test_pod_security_is_enforced(cluster: OwnCluster, address: str) -> None:
    with pytest.raises(ClusterError, match='violates PodSecurity "restricted:latest"'):
        kubectl(cluster, "run", "root", "--image=none")


def test_a_load_balancer_answers_inside_and_outside(cluster: OwnCluster, address: str) -> None:
    assert address == cluster.load_balancer_ip
    inside = cluster.in_network(["curl", "--silent", "--noproxy", "*", f"http://{address}"])
    assert wait_for(lambda: run(inside)).startswith("probe-")
    assert get(address, "/").startswith("probe-")


def test_pods_resolve_names(address: str) -> None:
    assert wait_for(lambda: get(address, "/lookup?kubernetes.default.svc.cluster.local")) == "[10.96.0.1]\n"
    assert wait_for(lambda: get(address, "/lookup?probe")).startswith("[10.96.")


def test_network_policies_are_enforced(cluster: OwnCluster, address: str) -> None:
    """Both ways of a pod: what it serves, to all but a network, and what it asks, which is nothing but names."""
    assert get(address, "/lookup?probe")
    world = {"cidr": "0.0.0.0/0", "except": [f"{cluster.slot.host_ip}/32"]}

    def allow(*sources: dict[str, Any], names: bool) -> None:
        spec = {
            "podSelector": {"matchLabels": {"app": "probe"}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": list(sources), "ports": [{"port": 8080}]}],
            "egress": [{"ports": [{"port": 53, "protocol": "UDP"}]}] if names else [],
        }
        metadata = {"name": "probe", "namespace": NAMESPACE}
        apply(
            cluster, {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}
        )

    allow({"ipBlock": world}, names=True)
    wait_for(lambda: not answers(address, "/"))
    allow(names=True)
    wait_for(lambda: answers(address, "/lookup?probe"))
    allow(names=False)
    wait_for(lambda: not answers(address, "/lookup?probe") and answers(address, "/"))
    kubectl(cluster, "delete", "networkpolicy", "probe")
    wait_for(lambda: answers(address, "/lookup?probe"))


def test_work_is_measured_and_scaled(cluster: OwnCluster, address: str) -> None:
    kubectl(cluster, "autoscale", "deployment/probe", "--min=2", "--max=3", "--cpu=20%")
    load = subprocess.Popen(["sh", "-c", f"while curl -s --noproxy '*' http://{address}/burn; do :; done"])
    try:
        replicas = "jsonpath={.status.replicas}"
        wait_for(lambda: kubectl(cluster, "get", "deployment", "probe", "-o", replicas) == "3", seconds=90)
    finally:
        load.kill()
        load.wait()
    usage = [line.split() for line in kubectl(cluster, "top", "pods", "--no-headers").splitlines()]
    assert max(int(cpu.removesuffix("m")) for _, cpu, _ in usage) > 10


def test_pods_outlive_the_kubelet(cluster: OwnCluster, address: str) -> None:
    before = kubectl(cluster, "get", "pods", "--output=name")
    cluster.restart_kubelet()
    assert get(address, "/").startswith("probe-")
    assert kubectl(cluster, "get", "pods", "--output=name") == before


def test_logs_and_exec_reach_the_node(cluster: OwnCluster) -> None:
    assert cluster.logs("kubelet")
    with pytest.raises(ClusterError, match=r"there are .*containerd"):
        cluster.logs("nothing")
    assert "/pause:latest" in cluster.exec(["ctr", "--namespace=k8s.io", "images", "list"])


def test_an_address_is_taken_back(cluster: OwnCluster, address: str) -> None:
    expose = ("expose", "deployment/probe", "--name=second", "--type=LoadBalancer", "--port=80")
    kubectl(cluster, *expose)
    jsonpath = "jsonpath={.status.loadBalancer.ingress[0].ip}"
    second = wait_for(lambda: kubectl(cluster, "get", "service", "second", "-o", jsonpath))
    assert second != address
    kubectl(cluster, "delete", "service", "second", "--timeout=20s")
    kubectl(cluster, *expose)
    assert wait_for(lambda: kubectl(cluster, "get", "service", "second", "-o", jsonpath)) == second


def test_pods_end_when_told(cluster: OwnCluster, address: str) -> None:
    """Signals reach containers with their meaning, whatever this process ignores."""
    pods = kubectl(cluster, "get", "pods", "--selector=app=probe", "--output=name").split()
    start = time.monotonic()
    kubectl(cluster, "delete", pods[0], "--grace-period=30")
    assert time.monotonic() - start < 10


def test_a_given_cluster_is_used_as_it_is(cluster: OwnCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECACHEDIR", str(tmp_path))
    monkeypatch.setenv("PATH", cluster.environment["PATH"])
    monkeypatch.setenv("E2E_KUBECONFIG", str(cluster.kubeconfig))
    with pytest.raises(ClusterError, match="E2E_REGISTRY"), any_cluster():
        pass
    monkeypatch.setenv("E2E_REGISTRY", cluster.registry)
    with any_cluster() as given:
        assert given.registry == cluster.registry
        assert given.kubectl("get", "nodes", "--output=name") == "node/node-1\n"
        with pytest.raises(ClusterError, match="through its API only"):
            given.restart_kubelet()
    assert cluster.kubectl("get", "--raw", "/readyz") == "ok"


@pytest.mark.parametrize("end", ["well", "killed"])
def test_nothing_is_left(end: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin
        assert holder.stdout
        slot = slots.Slot(int(holder.stdout.readline()), tmp_path)
        namespaces = namespaces_of((slot.folder / "first").read_text())
        assert leftovers(slot, namespaces)
        if end == "killed":
            holder.send_signal(signal.SIGKILL)
        else:
            holder.stdin.close()
    wait_for(lambda: not leftovers(slot, namespaces), seconds=15)


def test_what_a_crash_left_is_cleared(tmp_path: Path) -> None:
    first, holder = slots.claim(tmp_path)
    first.folder.mkdir()
    (first.folder / "etcd").touch()
    groups = slots.make_cgroups(first)
    run(["ip", "link", "add", first.interface, "type", "veth", "peer", "name", "me-e2e-peer"])
    with subprocess.Popen(["sleep", "60"]) as orphan:
        (groups[0] / "cgroup.procs").write_text(str(orphan.pid))
        holder.close()
        again, holder = slots.claim(tmp_path)
        assert orphan.wait(5) == -signal.SIGKILL
    holder.close()
    assert again == first
    assert not leftovers(first, set())


def leftovers(slot: slots.Slot, namespaces: set[str]) -> list[str]:
    """Everything on this machine that bears the slot's number or is in its namespaces."""
    places = [slot.folder, Path("/sys/class/net", slot.interface), *slots.cgroups(slot)]
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if slot.name in line]
    processes = [pid.name for pid in Path("/proc").glob("[1-9]*") if namespaces & namespaces_of(pid.name)]
    return [str(place) for place in places if place.exists()] + mounts + processes


def namespaces_of(pid: str) -> set[str]:
    """Of a process, but for those that it shares with this one."""
    found: set[str] = set()
    for kind in ("mnt", "net", "pid"):
        try:
            found.add(str(Path(f"/proc/{pid}/ns/{kind}").readlink()))
        except OSError:
            continue
        found.discard(str(Path(f"/proc/self/ns/{kind}").readlink()))
    return found


def apply(cluster: OwnCluster, *objects: dict[str, Any]) -> None:
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))


def kubectl(cluster: OwnCluster, *arguments: str) -> str:
    return cluster.kubectl("--namespace", NAMESPACE, *arguments)


def get(address: str, path: str) -> str:
    return run(["curl", "--silent", "--fail", "--noproxy", "*", "--max-time", "3", f"http://{address}{path}"])


def answers(address: str, path: str) -> bool:
    try:
        return bool(get(address, path))
    except subprocess.CalledProcessError:
        return False


def run(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def wait_for(answer: Callable[[], T], seconds: float = 20) -> T:
    deadline = time.monotonic() + seconds
    while True:
        try:
            found = answer()
        except (ClusterError, subprocess.CalledProcessError):
            if time.monotonic() > deadline:
                raise
        else:
            if found or time.monotonic() > deadline:
                assert found
                return found
        time.sleep(0.2)
