"""Our own cluster: one node, started for the tests and gone with them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.e2e.cluster import add_ons, images, plan, slots
from tests.e2e.cluster.api import Cluster, ClusterError
from tests.e2e.cluster.programs import Programs, programs, unavailable
from tools.cache import default_cache

_ROOT = Path(__file__).parents[3]
_START_SECONDS = 120
_STOP_SECONDS = 60


class OwnCluster(Cluster):
    """One Kubernetes node, whose parts the tests can reach."""

    def __init__(self, slot: slots.Slot, found: Programs, guard: subprocess.Popen[str]) -> None:
        self.slot = slot
        self.kubeconfig = slot.folder / "kubeconfig"
        self.registry = (slot.folder / "registry").read_text()
        self.load_balancer_ip = slot.load_balancer_ip
        self.environment = {
            "KUBECONFIG": str(self.kubeconfig),
            "KUBECACHEDIR": str(slot.folder / "kubectl"),
            "NO_PROXY": ",".join([slot.node_ip, slot.load_balancer_ip, "127.0.0.1", os.environ.get("NO_PROXY", "")]),
            "PATH": os.pathsep.join([str(found.kube), os.environ.get("PATH", os.defpath)]),
        }
        self.programs, self._guard = found, guard

    def in_network(self, command: Sequence[str]) -> list[str]:
        return ["nsenter", f"--net=/proc/{self._first_process}/ns/net", "--", *command]

    def exec(self, command: Sequence[str]) -> str:
        enter = ["nsenter", "--target", self._first_process, "--mount", "--net", "--pid", "--", *command]
        done = subprocess.run(enter, env=self.programs.environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ClusterError(f"{' '.join(command)}: {done.stderr.strip() or f'exit code {done.returncode}'}")
        return done.stdout

    def restart_kubelet(self) -> None:
        before = self._pid("kubelet")
        self.exec(["kill", before])
        self.wait("the kubelet to be back", lambda: self._pid("kubelet") != before and self._kubelet_answers())

    def logs(self, name: str) -> str:
        log = self.slot.folder / "log" / name
        if not log.is_file():
            known = ", ".join(sorted(file.name for file in log.parent.glob("*")))
            raise ClusterError(f"there is no part {name!r}; there are {known}")
        return log.read_text(errors="replace")

    def wait(self, what: str, done: Callable[[], object], seconds: float = _START_SECONDS) -> None:
        """Wait until `done()` is true; it may raise until then. Raises ClusterError after `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                if done():
                    return
                last = "not yet"
            except (ClusterError, OSError) as error:
                last = str(error)
            if self._guard.poll() is not None:
                complaint = self._guard.stderr.read().strip() if self._guard.stderr else ""
                raise ClusterError(f"the node ended before there was {what}: {complaint}")
            if time.monotonic() > deadline:
                raise ClusterError(f"waited {seconds:.0f} s in vain for {what}: {last}\n{self._last_words()}")
            time.sleep(0.1)

    def set_up(self) -> None:
        self.wait("the registry", lambda: _answers(f"http://{self.registry}/v2/"))
        images.push(self.registry, "pause", self.programs.kube / "pause")
        self.wait("the API server", lambda: self.kubectl("get", "--raw", "/readyz"))
        objects = add_ons.manifests(self.slot.node_ip)
        self.wait("names and metrics to be known", lambda: self.kubectl("apply", "-f", "-", stdin=objects))
        self.wait("the node", self._node_is_ready)
        self.wait("names to be served", lambda: _answers(f"http://{self.slot.node_ip}:8181/ready"))
        self.wait("metrics to be served", lambda: self.kubectl("get", "--raw", "/apis/metrics.k8s.io/v1beta1"))

    def _last_words(self) -> str:
        """Return the last lines of every part's log, since the logs go with the cluster."""
        logs = sorted((self.slot.folder / "log").glob("*"))
        return "\n".join(f"{log.name}: {' | '.join(self.logs(log.name).splitlines()[-2:])}" for log in logs)

    @property
    def _first_process(self) -> str:
        return (self.slot.folder / "first").read_text()

    def _pid(self, part: str) -> str:
        return (self.slot.folder / "pid" / part).read_text()

    def _kubelet_answers(self) -> bool:
        return self.kubectl("get", "--raw", f"/api/v1/nodes/{plan.NODE}/proxy/healthz") == "ok"

    def _node_is_ready(self) -> bool:
        jsonpath = '{.status.conditions[?(@.type=="Ready")].status}'
        ready = self.kubectl("get", "node", plan.NODE, "-o", f"jsonpath={jsonpath}") == "True"
        # A namespace takes no pods before it has its service account.
        return ready and bool(self.kubectl("get", "serviceaccount", "default", "--namespace", "default", "-o", "name"))


@contextmanager
def started(cache: Path | None, state: Path | None) -> Generator[OwnCluster]:
    reason = unavailable()
    if reason:
        raise ClusterError(reason)
    found = programs(cache or default_cache())
    slot, holder = slots.claim((state or Path(tempfile.gettempdir())).resolve())
    with holder, ExitStack() as undo:
        undo.callback(slots.clear, slot)
        slot.folder.mkdir(mode=0o700)
        plan.write(slot, found, _free_port())
        guard = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.cluster.guard", str(slot.number), str(slot.parent)],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=[holder.fileno()],
            start_new_session=True,
        )
        undo.pop_all()  # from here on the guard cleans up
    try:
        cluster = OwnCluster(slot, found, guard)
        cluster.set_up()
        yield cluster
    finally:
        assert guard.stdin
        guard.stdin.close()
        guard.wait(_STOP_SECONDS)


def _answers(url: str) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(url, timeout=1) as answer:
        return answer.status == 200


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
