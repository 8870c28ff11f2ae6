"""The project's own stack on the tests' cluster: brought up by the real CLI, judged through its endpoint."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx
import onnx

from tests.e2e import providers
from tests.e2e.cluster import Cluster, ClusterError
from tests.e2e.load import Traffic, traffic
from tests.e2e.providers.builder import Builder
from tests.support.engine_project import ROOT, Project, Ran

T = TypeVar("T")

PODS = "app.kubernetes.io/name=model-endpoint"
ROWS = '{"input": [[1, 2, 3], [5.1, 1.4, 0.2], [6.3, 6.0, 2.5], [5.9, 4.2, 1.5]]}'
ROLLOUT_SECONDS = 30
"""How long a rollout here may make no progress."""

SMALL = {
    # Three replicas, the one more of a rollout and nothing else fit on a node of two cores.
    "cpu": "400m",
    "memory": "192Mi",
    "replicas": 3,
    "maxReplicas": 4,
    "rolloutTimeoutSeconds": ROLLOUT_SECONDS,
    "endpointTimeoutSeconds": 30,
}


class Stack(Project):
    """A copy of the project whose stack is on the cluster."""

    live: Cluster
    first: dict[str, float]
    """The moments of the first `up`: see timeline.py."""

    @classmethod
    def start(cls, folder: Path, cli: Path, name: str, live: Cluster, daemon: Builder) -> Stack:
        """An empty stack; providers act on the cluster and the daemon."""
        stack = cls.make(folder, cli, name)
        providers.install(stack.bin)
        (stack.bin / "kubectl").unlink()
        path = f"{stack.environment['PATH']}:{live.environment.get('PATH', '')}"
        stack.environment |= {**live.environment, **daemon.environment, "PATH": path}
        stack.live, stack.seconds = live, 400
        return stack

    # --- Pulumi ---

    def output(self, name: str) -> str:
        return self.pulumi("stack", "output", name).stdout.strip()

    def endpoint(self) -> str:
        return self.output("endpoint")

    @contextmanager
    def prebuilt(self, image: str, example: str, **more: object) -> Iterator[None]:
        """Config for an image that is not built here, while the block runs."""
        base = self.pulumi("config", "get", "baseImage").stdout.strip()
        self.configure({"image": image, "example": example, **more})
        self.forget("baseImage")
        try:
            yield
        finally:
            self.forget("image", "example", *more)
            self.configure({"baseImage": base})

    # --- what is shipped ---

    def ship_model(self, version: str, factor: float = 1) -> None:
        """Put another model into the copy: its coefficients are those of the project's, times the factor."""
        folder, original = self.root / "app/model", ROOT / "app/model"
        described = json.loads((original / "model.json").read_text())
        (folder / "model.json").write_text(json.dumps({**described, "version": version}, indent=2))
        model = onnx.load(original / "model.onnx")
        (classifier,) = (node for node in model.graph.node if node.op_type == "LinearClassifier")
        for attribute in classifier.attribute:
            if attribute.name == "coefficients":
                attribute.floats[:] = [value * factor for value in attribute.floats]
        (folder / "model.onnx").write_bytes(model.SerializeToString())

    def restore(self, path: str) -> None:
        (self.root / path).write_bytes((ROOT / path).read_bytes())

    # --- the cluster ---

    def namespace(self) -> str:
        label = f"app.kubernetes.io/part-of=model-endpoint-{self.stack}"
        return self.live.kubectl("get", "namespaces", "-l", label, "-o", "jsonpath={.items[*].metadata.name}")

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self.live.kubectl("--namespace", self.namespace(), *arguments, stdin=stdin)

    def objects(self, kind: str, *arguments: str) -> list[dict[str, Any]]:
        return json.loads(self.kubectl("get", kind, "-o", "json", *arguments))["items"]

    def deployment(self) -> dict[str, Any]:
        """The only one."""
        (found,) = self.objects("deployments")
        return found

    def pods(self) -> list[dict[str, Any]]:
        return [pod for pod in self.objects("pods") if "deletionTimestamp" not in pod["metadata"]]

    def ready(self) -> list[dict[str, Any]]:
        return [
            pod
            for pod in self.pods()
            if all(c["ready"] for c in pod["status"].get("containerStatuses", [{"ready": 0}]))
        ]

    def python(self, pod: str, code: str) -> str:
        return self.kubectl("exec", pod, "--", "python", "-c", code)

    # --- the endpoint ---

    def predict(self, body: str = ROWS, base: str | None = None) -> httpx.Response:
        return httpx.post(f"{base or self.endpoint()}/predict", content=body, trust_env=False, timeout=10)

    def version(self, base: str | None = None) -> str:
        return self.predict(base=base).json()["model"]["version"]

    def traffic(self, **rates: int) -> AbstractContextManager[Traffic]:
        return traffic(f"{self.endpoint()}/predict", ROWS, **rates)

    def heal(self) -> None:
        """After a test that failed half-way: the copy, the state and the cluster as after an `up`."""
        if not self.dirty():
            return
        for path in ("app/server/__main__.py", "app/model/model.json", "app/model/model.onnx"):
            self.restore(path)
        self.pulumi("cancel", "--yes")
        self.up("--refresh")

    def dirty(self) -> bool:
        try:
            return len(self.ready()) < SMALL["replicas"] or self.predict().status_code != 200
        except (ClusterError, ValueError, httpx.HTTPError):
            return True


def reasons(ran: Ran) -> str:
    """What a failed command said, in one line for a comparison."""
    return " ".join(ran.text.split())


def wait_for(what: str, answer: Callable[[], T | None], seconds: float = 30, pause: float = 0.2) -> T:
    """The first answer that is true; failures of the cluster meanwhile do not count."""
    deadline = time.monotonic() + seconds
    while True:
        last: object = None
        try:
            if found := answer():
                return found
        except (ClusterError, httpx.HTTPError) as error:
            last = error
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain for {what}: {last or 'not yet'}"
        time.sleep(pause)


def configured(live: Cluster, base: str, **more: object) -> Mapping[str, object]:
    return {
        **SMALL,
        "target": "kubernetes",
        "kubeconfig": live.kubeconfig,
        "repository": f"{live.registry}/team/model",
        "baseImage": base,
        **more,
    }


def resident(stack: Stack, pod: str) -> float:
    """Memory of a pod's server, in MiB."""
    status = stack.python(pod, "print(open('/proc/1/status').read())")
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def built_at(stack: Stack, daemon: Builder) -> float:
    """When the deployed image was built, as time.time()."""
    (image,) = (r for r in stack.resources() if r["type"] == "docker:index/image:Image")
    created = daemon.docker("image", "inspect", "--format", "{{.Created}}", image["inputs"]["imageName"])
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", created)).timestamp()
