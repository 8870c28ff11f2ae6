"""`pulumi up` on an empty cluster, and what then runs there. State after: the project's own model, three pods."""

from __future__ import annotations

import json
import subprocess
import time

import pytest

from tests.e2e import timeline
from tests.e2e.cluster import ClusterError
from tests.e2e.providers import registry
from tests.e2e.providers.builder import Builder
from tests.e2e.stack import Stack, built_at, resident
from tests.support.figures import Figures

LOOK = """
import json, pathlib, socket
status = dict(line.split(":\\t", 1) for line in open("/proc/1/status").read().splitlines() if ":\\t" in line)
def writable(path):
    try:
        pathlib.Path(path, "probe").write_text("x")
        return True
    except OSError as error:
        return error.strerror
def reachable(*address):
    try:
        socket.create_connection(address, 2).close()
        return True
    except OSError:
        return False
print(json.dumps({
    "uid": status["Uid"].split(), "capabilities": status["CapEff"], "no new privileges": status["NoNewPrivs"],
    "seccomp": status["Seccomp"], "token": pathlib.Path("/var/run/secrets/kubernetes.io").exists(),
    "writable": {path: writable(path) for path in ("/", "/app", "/packages", "/tmp")},
    "reaches the API server": reachable("10.96.0.1", 443),
}))
"""


def test_the_endpoint_answers_the_curl(served: Stack) -> None:
    endpoint = served.endpoint()
    assert endpoint.count(":") == 1, "port 80 is not written"
    command = ["curl", "--silent", "--noproxy", "*", f"{endpoint}/predict", "-d", '{"input": [1, 2, 3]}']
    answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert answer["model"] == {"name": "iris", "version": "1"}
    assert answer["prediction"]
    assert len(served.ready()) == len(served.pods()) == 3


def test_pods_run_the_pushed_image_by_its_digest(served: Stack) -> None:
    digest = served.output("imageDigest")
    images = {pod["spec"]["containers"][0]["image"] for pod in served.pods()}
    assert images == {f"{served.live.registry}/team/model@{digest}"}
    running = {pod["status"]["containerStatuses"][0]["imageID"] for pod in served.pods()}
    assert {each.partition("@")[2] for each in running} == {digest}


def test_the_api_server_enforces_restricted_pod_security(served: Stack) -> None:
    with pytest.raises(ClusterError, match=r'violates PodSecurity "restricted:v1\.34"'):
        served.kubectl("run", "root", "--image=none")


def test_a_pod_may_do_nothing_but_serve(served: Stack) -> None:
    for pod in served.ready():
        seen = json.loads(served.python(pod["metadata"]["name"], LOOK))
        writable = seen.pop("writable")
        assert writable.pop("/tmp") is True  # noqa: S108  the container's own
        assert set(writable.values()) == {"Read-only file system"}
        assert seen == {
            "uid": ["10001"] * 4,
            "capabilities": "0000000000000000",
            "no new privileges": "1",
            "seccomp": "2",
            "token": False,
            "reaches the API server": False,
        }


def test_nothing_changes_without_a_change(served: Stack, figures: Figures) -> None:
    before = served.deployment()["metadata"]["generation"]
    for _ in range(3):
        started = time.perf_counter()
        served.up("--expect-no-changes")
        figures.add("up, no change", time.perf_counter() - started)
        started = time.perf_counter()
        served.pulumi("preview", "--expect-no-changes")
        figures.add("preview, no change", time.perf_counter() - started)
    assert served.deployment()["metadata"]["generation"] == before


def test_the_image_is_small(served: Stack, base_image: str, figures: Figures) -> None:
    name, _, digest = base_image.partition("/")[2].partition("@")
    base = registry.layers(served.live.registry, name, digest)
    layers = registry.layers(served.live.registry, "team/model", served.output("imageDigest"))
    own = {digest: size / 1e6 for digest, size in layers.items() if digest not in base and size > 1000}
    figures.add("layer base", sum(base.values()) / 1e6)
    for what, size in zip(("packages", "server", "model"), own.values(), strict=True):
        figures.add(f"layer {what}", size)
    figures.add("layers beyond base", sum(own.values()))
    assert sum(own.values()) < 110


def test_the_first_up_is_measured(served: Stack, daemon: Builder, figures: Figures) -> None:
    pods = [pod["metadata"]["name"] for pod in served.pods()]
    begun = {pod: timeline.started(served, pod) for pod in pods}
    figures.add("memory at rest", *(resident(served, pod) for pod in pods))
    found = timeline.phases(served.first, built_at(served, daemon), min(begun.values()))
    figures.add("first build", found["build"])
    figures.add("first push", found["push"])
