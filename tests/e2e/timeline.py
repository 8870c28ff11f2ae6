"""When what happened during an `up`: the events, the pods and the endpoint, watched from outside as they come."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import httpx

from tests.e2e.cluster import ClusterError
from tests.e2e.stack import PODS, ROWS, Stack

_PAUSE = 0.02
_POD = '{.metadata.name} {.status.phase} {.status.containerStatuses[0].ready}{"\\n"}'
_STARTED = """
import time
ticks = int(open("/proc/1/stat").read().rpartition(")")[2].split()[19])
print(time.time() - float(open("/proc/uptime").read().split()[0]) + ticks / 100)
"""


class Timeline:
    """Moments (as time.time()) by name, complete when the block ends.

    `begin TYPE` and `end TYPE` of resources by the last part of their types, `created POD`, `running POD`, `ready POD`,
    and `answered`.
    """

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._done = threading.Event()
        self._log = stack.root.parent / "events.json"
        self.moments: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._log.unlink(missing_ok=True)
        command = ["get", "pods", "--all-namespaces", "--selector", PODS, "--watch", "-o", f"jsonpath={_POD}"]
        environment = self._stack.environment
        self._watch = subprocess.Popen(["kubectl", *command], env=environment, stdout=subprocess.PIPE, text=True)
        works: list[Callable[[], None]] = [self._follow_events, self._follow_pods, self._ask]
        self._threads = [threading.Thread(target=work, daemon=True) for work in works]
        for thread in self._threads:
            thread.start()
        self._mark("up")
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self._mark("over")
        self._done.wait(0.5)  # for the last events
        self._done.set()
        self._watch.kill()
        for thread in self._threads:
            thread.join()
        self._watch.wait()

    def _mark(self, name: str) -> None:
        self.moments.setdefault(name, time.time())

    def _follow_events(self) -> None:
        while not self._log.exists():
            if self._done.wait(_PAUSE):
                return
        with self._log.open() as log:
            line = ""
            while not self._done.wait(0 if line.endswith("\n") else _PAUSE):
                line = log.readline() if line.endswith("\n") or not line else line + log.readline()
                if line.endswith("\n"):
                    self._event(json.loads(line))

    def _event(self, event: dict[str, dict[str, dict[str, str]]]) -> None:
        for kind, name in (("resourcePreEvent", "begin"), ("resOutputsEvent", "end")):
            if kind in event:
                self._mark(f"{name} {event[kind]['metadata']['type'].rpartition(':')[2]}")

    def _follow_pods(self) -> None:
        assert self._watch.stdout
        for line in self._watch.stdout:
            pod, phase, *ready = line.split()
            self._mark(f"created {pod}")
            if phase == "Running":
                self._mark(f"running {pod}")
            if ready == ["true"]:
                self._mark(f"ready {pod}")

    def _ask(self) -> None:
        with httpx.Client(trust_env=False, timeout=1) as client:
            while not self._done.wait(_PAUSE * 5):
                try:
                    address = self._stack.live.load_balancer_ip or self._address()
                    answer = client.post(f"http://{address}/predict", content=ROWS)
                except (httpx.HTTPError, httpx.InvalidURL, ClusterError):
                    continue
                if answer.status_code == 200:
                    self._mark("answered")
                    return

    def _address(self) -> str:
        ingress = ".status.loadBalancer.ingress[0]"
        path = f"jsonpath={{.items[0]{ingress}.ip}}{{.items[0]{ingress}.hostname}}"
        return self._stack.live.kubectl("get", "services", "--all-namespaces", "--selector", PODS, "-o", path)


def started(stack: Stack, pod: str) -> float:
    """When a pod's container began, to a hundredth of a second."""
    return float(stack.python(pod, _STARTED))


def phases(moments: dict[str, float], built: float, container: float) -> dict[str, float]:
    """Seconds of each phase of an `up` from nothing, in order.

    `built`: when the image was; `container`: when the first pod's began. The cluster's objects are made while the image
    is built, so only the Deployment counts as applied.
    """
    pod = min(time for name, time in moments.items() if name.startswith("created "))
    borders = {
        "program": moments["begin Image"],
        "build": max(built, moments["begin Image"]),
        "push": moments["end Image"],
        "apply": pod,
        "pod start": container,
        "ready": moments["answered"],
    }
    ends = list(borders.values())
    return {name: end - begin for name, begin, end in zip(borders, [moments["up"], *ends], ends, strict=False)}
