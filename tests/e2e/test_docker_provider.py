"""The providers of `tests/e2e/providers` behave, on a real cluster, as the official ones do."""

from __future__ import annotations

import base64
import json
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from tests.e2e.cluster import Cluster
from tests.e2e.providers import registry
from tests.e2e.providers.builder import Builder
from tests.e2e.providers.live import observed
from tests.e2e.providers.trial import Trial
from tests.standins import wire
from tests.support.engine_project import find_cli, leaves

NAMESPACE, FULL = "trial", "trial-full"
LABELS = {"app": "trial"}
SERVES = "import http.server; http.server.test(http.server.SimpleHTTPRequestHandler, port=8080)"
CRASHES = "import sys; print('one'); print('no model in /model'); sys.exit(3)"
EATS = "x = []\nwhile True: x.append(bytearray(1 << 20))"
SLEEPS = "import time; time.sleep(600)"


@pytest.fixture(scope="module")
def made(live: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    trial = Trial.start(tmp_path_factory.mktemp("kubernetes"), find_cli(), {})
    yield trial
    trial.pulumi("destroy", "--yes", "--skip-preview")
    assert live.kubectl("get", "namespace", NAMESPACE, FULL, "--ignore-not-found") == ""


def provider(live: Cluster) -> dict[str, Any]:
    properties = {"kubeconfig": live.kubeconfig.read_text(), "enableServerSideApply": "true"}
    return {"type": "pulumi:providers:kubernetes", "properties": properties, "secrets": ["kubeconfig"]}


def cluster_and_space(live: Cluster) -> dict[str, Any]:
    metadata = {"name": NAMESPACE}
    properties = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
    space = {"type": "kubernetes:core/v1:Namespace", "properties": properties, "options": {"provider": "cluster"}}
    return {"cluster": provider(live), "space": space}


def thing(
    type_: str, content: dict[str, Any], metadata: dict[str, Any] | None = None, **options: Any
) -> dict[str, Any]:
    version, kind = type_.rsplit(":", 1)
    api = {"apiVersion": version.removeprefix("core/"), "kind": kind}
    meta = {"namespace": NAMESPACE, **(metadata or {})}
    chosen = {"provider": "cluster", "parent": "space", **options}
    return {"type": f"kubernetes:{type_}", "properties": {**api, "metadata": meta, **content}, "options": chosen}


def deployment(image: str, code: str, *, seconds: int = 12, labels: dict[str, str] = LABELS, **options: Any) -> Any:
    """One pod that runs Python code and is ready when it listens."""
    container: dict[str, Any] = {
        "name": "server",
        "image": image,
        "command": ["python3", "-u", "-c", code],
        "ports": [{"containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
        "resources": {"limits": {"memory": "64Mi", "cpu": "1000m"}, "requests": {"cpu": "10m"}},
    }
    spec = {
        "replicas": 1,
        "progressDeadlineSeconds": seconds,
        "selector": {"matchLabels": labels},
        "template": {
            "metadata": {"labels": labels},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]},
        },
    }
    return thing("apps/v1:Deployment", {"spec": spec}, **options)


def container_of(described: Any) -> dict[str, Any]:
    return described["properties"]["spec"]["template"]["spec"]["containers"][0]


def objects(live: Cluster, kind: str) -> dict[str, Any]:
    found = json.loads(live.kubectl("get", kind, "--namespace", NAMESPACE, "-o", "json"))["items"]
    return {item["metadata"]["name"].rpartition("-")[0] or item["metadata"]["name"]: item for item in found}


def config_map(name: str, value: str, **options: Any) -> Any:
    return thing("core/v1:ConfigMap", {"data": {"key": value}}, {"name": name}, **options)


def of(made: Trial, name: str) -> dict[str, Any]:
    """A resource in the state."""
    (found,) = [r for r in made.resources() if r["urn"].endswith(f"::{name}")]
    return found


# --- what is drift ---


def test_what_the_api_server_writes_otherwise_is_not_drift() -> None:
    inputs = {
        "cpu": "2000m",
        "memory": "1024Mi",
        "read_only": False,
        "egress": [],
        "ports": [{"port": 2}, {"port": 1}],
        "key": wire.secret("a"),
    }
    live = {"cpu": "2", "memory": "1Gi", "ports": [{"port": 1, "nodePort": 3}, {"port": 2}], "key": "a", "added": 1}
    assert observed(inputs, live) == inputs
    assert observed({"stringData": {"key": "a"}}, {"data": {"key": "YQ=="}}) == {"stringData": {"key": "a"}}


@pytest.mark.parametrize(
    ("wanted", "found", "seen"),
    [
        ({"cpu": "1"}, {"cpu": "2"}, {"cpu": "2"}),
        ({"labels": {"a": "1"}}, {"labels": {"b": "2"}}, {"labels": {}}),
        ({"args": ["a"]}, {"args": ["a", "b"]}, {"args": ["a", "b"]}),
        ({"env": [{"name": "a", "value": "1"}]}, {"env": [{"name": "b", "value": "1"}]}, {"env": []}),
        ({"key": wire.secret("a")}, {"key": "b"}, {"key": wire.secret("b")}),
    ],
)
def test_what_somebody_has_changed_is_drift(wanted: Any, found: Any, seen: Any) -> None:
    assert observed(wanted, found) == seen


# --- Kubernetes ---


def test_a_failed_rollout_says_why_and_the_next_up_heals_it(live: Cluster, made: Trial, base_image: str) -> None:
    names = ("crash", "missing", "oom", "pending", "slow", "unready")
    good = {name: deployment(base_image, SERVES, labels={"app": name}) for name in names}
    quick = {"custom_timeouts": {"create": "6s"}}
    bad = {
        **{name: deployment(base_image, SLEEPS, labels={"app": name}) for name in names},
        "crash": deployment(base_image, CRASHES, labels={"app": "crash"}),
        "oom": deployment(base_image, EATS, labels={"app": "oom"}),
        "slow": deployment(base_image, SLEEPS, labels={"app": "slow"}, seconds=600, **quick),
        "full": deployment(base_image, SERVES),
    }
    container_of(bad["missing"])["image"] = f"{live.registry}/nowhere:1"
    container_of(bad["pending"])["resources"] = {"requests": {"cpu": "1000"}}
    full = {"type": "kubernetes:core/v1:Namespace", "options": {"provider": "cluster"}}
    full["properties"] = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": FULL}}
    bad["full"]["properties"]["metadata"] = {"namespace": FULL}
    quota = thing("core/v1:ResourceQuota", {"spec": {"hard": {"pods": "0"}}}, {"namespace": FULL}, parent="full-space")
    bad["full"]["options"] |= {"depends_on": ["quota"], "custom_timeouts": {"create": "6s"}}
    made.describe({**cluster_and_space(live), "full-space": full, "quota": quota, **bad})
    said = made.up(ok=False).text
    assert "(ProgressDeadlineExceeded)" in said
    expected = {
        "crash": ("CrashLoopBackOff", "Error (exit code 3)", "no model in /model"),
        "missing": ("ImagePull", "nowhere:1"),
        "oom": ("OOMKilled",),
        "pending": ("Unschedulable", "Insufficient cpu"),
        "slow": ("waited 6 s in vain",),
        "unready": ("Readiness probe failed",),
        "full": ("exceeded quota",),
    }
    for name, reasons in expected.items():
        error = said.partition(f"Deployment ({name}):")[2].partition("  kubernetes:")[0]
        assert [reason for reason in reasons if reason not in error] == [], error
    before = objects(live, "deployments")
    assert "Deployment trial/crash-" in made.pulumi("refresh", "--yes").text
    made.describe({**cluster_and_space(live), **good})
    assert made.up().changed() == {("update", "Deployment"): 6, ("delete", "Deployment"): 1} | {
        ("delete", "ResourceQuota"): 1,
        ("delete", "Namespace"): 1,
    }
    after = objects(live, "deployments")
    assert {n: o["metadata"]["uid"] for n, o in before.items()} == {n: o["metadata"]["uid"] for n, o in after.items()}
    assert all(item["status"]["readyReplicas"] == 1 for item in after.values())
    made.pulumi("preview", "--refresh", "--expect-no-changes")


def test_drift_is_seen_and_mended_and_ignored_fields_are_left_alone(
    live: Cluster, made: Trial, base_image: str
) -> None:
    app = deployment(base_image, SERVES, ignore_changes=["spec.replicas"])
    container_of(app)["env"] = [{"name": "MODE", "value": "one"}]
    service = thing("core/v1:Service", {"spec": {"selector": LABELS, "ports": [{"port": 80, "targetPort": 8080}]}})
    service["properties"]["spec"]["type"] = "LoadBalancer"
    described = {**cluster_and_space(live), "app": app, "service": service}
    made.describe(described)
    made.up()
    assert address(of(made, "service"))
    made.pulumi("preview", "--refresh", "--expect-no-changes")
    name = of(made, "app")["outputs"]["metadata"]["name"]
    patch = json.dumps([{"op": "replace", "path": "/spec/template/spec/containers/0/env/0/value", "value": "two"}])
    live.kubectl("scale", "deployment", name, "--namespace", NAMESPACE, "--replicas=2")
    live.kubectl("patch", "deployment", name, "--namespace", NAMESPACE, "--type=json", "--patch", patch)
    live.kubectl("rollout", "status", "deployment", name, "--namespace", NAMESPACE, "--timeout=60s")
    assert made.pulumi("preview", "--diff").changed() == {}
    conflict = made.pulumi("preview", "--refresh", "--diff", ok=False).text
    assert 'value: "two" => "one"' in conflict
    assert '.spec.template.spec.containers[name="server"].env[name="MODE"].value' in conflict
    assert 'conflict with "kubectl-patch"' in conflict
    app["properties"]["metadata"]["annotations"] = {"pulumi.com/patchForce": "true"}
    made.describe(described)
    assert made.pulumi("preview", "--refresh").changed() == {("update", "Deployment"): 1}
    made.up("--refresh")
    (mended,) = json.loads(live.kubectl("get", "deployments", "--namespace", NAMESPACE, "-o", "json"))["items"]
    assert mended["spec"]["template"]["spec"]["containers"][0]["env"][0]["value"] == "one"
    assert mended["spec"]["replicas"] == 2
    made.pulumi("preview", "--refresh", "--expect-no-changes")


def address(service: dict[str, Any]) -> str:
    (ingress,) = service["outputs"]["status"]["loadBalancer"]["ingress"]
    return ingress.get("ip") or ingress["hostname"]


def test_what_cannot_change_is_replaced_and_secrets_stay_secret(live: Cluster, made: Trial) -> None:
    def describe(secret: str, value: str, labels: dict[str, str]) -> None:
        key = thing("core/v1:Secret", {"immutable": True, "stringData": {"key": secret}})
        described = {**cluster_and_space(live), "key": {**key, "secrets": ["stringData.key"]}}
        described["fixed"] = config_map("fixed", value)
        described["marked"] = thing("core/v1:ConfigMap", {"data": {}}, {"labels": labels})
        made.describe(described)

    describe("first-secret", "1", {})
    made.up()
    first = of(made, "key")["id"]
    describe("second-secret", "2", {"is": "new"})
    steps = [(op, name) for op, _, name in made.up().steps() if name in {"key", "fixed", "marked"}]
    assert steps.count(("update", "marked")) == 1
    assert {name for op, name in steps if op == "replace"} == {"key", "fixed"}
    # A chosen name is new, so the old one serves until the end; a fixed one has to be freed first.
    fresh = of(made, "key")["id"]
    assert fresh != first
    assert of(made, "fixed")["id"] == f"{NAMESPACE}/fixed"
    found = json.loads(live.kubectl("get", "secrets,configmaps", "--namespace", NAMESPACE, "-o", "json"))["items"]
    names = {item["metadata"]["name"] for item in found}
    assert fresh.partition("/")[2] in names
    assert first.partition("/")[2] not in names
    everything = "".join(leaves(made.exported())) + "".join(ran.text for ran in made.said)
    for word in ("second-secret", "c2Vjb25kLXNlY3JldA", "BEGIN CERTIFICATE", "client-key-data"):
        assert word not in everything


def test_deletion_is_over_when_it_says_so(live: Cluster, made: Trial) -> None:
    described = {**cluster_and_space(live), "gone": config_map("gone", "1")}
    described["held"] = config_map("held", "1", custom_timeouts={"delete": "3s"})
    described["held"]["properties"]["metadata"]["finalizers"] = ["example.com/hold"]
    made.describe(described)
    made.up()
    live.kubectl("delete", "configmap", "gone", "--namespace", NAMESPACE)
    assert made.up("--refresh").changed() == {("create", "ConfigMap"): 1}
    del described["held"]
    made.describe(described)
    said = made.up(ok=False).text
    assert f"ConfigMap {NAMESPACE}/held is still there: finalizers example.com/hold" in said
    live.kubectl("patch", "configmap", "held", "--namespace", NAMESPACE, "--patch", '{"metadata":{"finalizers":null}}')
    assert made.up().changed() == {("delete", "ConfigMap"): 1}


def test_an_interrupted_wait_keeps_the_object_and_a_killed_cli_leaves_no_plugin(
    live: Cluster, made: Trial, base_image: str
) -> None:
    described = {**cluster_and_space(live), "late": deployment(base_image, SLEEPS, seconds=600)}
    made.describe(described)
    running = made.begin_up()
    wait_for(lambda: "late" in objects(live, "deployments"))
    running.send_signal(signal.SIGINT)
    said, _ = running.communicate(timeout=30)
    assert "cancelled while waiting for" in said
    assert of(made, "late")["id"] == f"{NAMESPACE}/{objects(live, 'deployments')['late']['metadata']['name']}"
    container_of(described["late"])["env"] = [{"name": "AGAIN", "value": "1"}]
    made.describe(described)
    running = made.begin_up()
    wait_for(lambda: objects(live, "deployments")["late"]["metadata"]["generation"] == 2)
    assert plugins(made)
    running.kill()
    try:
        wait_for(lambda: not plugins(made))
    finally:
        for left in processes(made, b"language_host"):  # it does not notice
            os.kill(left, signal.SIGKILL)
    running.communicate()
    made.pulumi("cancel", "--yes", stack=False)
    container_of(described["late"])["command"][-1] = SERVES
    made.describe(described)
    made.up()
    assert objects(live, "deployments").keys() == {"late"}
    made.pulumi("preview", "--refresh", "--expect-no-changes")


def plugins(made: Trial) -> list[int]:
    return processes(made, b"tests.e2e.providers")


def processes(made: Trial, named: bytes) -> list[int]:
    """Those that serve the stack's CLI and have this in their command line."""
    mark, found = f"PULUMI_BACKEND_URL=file://{made.state}".encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if mark in path.read_bytes() and named in path.with_name("cmdline").read_bytes():
                found.append(int(path.parent.name))
    return found


def wait_for(done: Callable[[], Any], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_wrong_field_fails_the_preview_and_a_dead_cluster_is_named(live: Cluster, made: Trial) -> None:
    described = {**cluster_and_space(live), "policy": config_map("policy", "1")}
    made.describe(described)
    made.up()
    wrong = thing("networking.k8s.io/v1:NetworkPolicy", {"spec": {"podSelector": {}, "policyTypes": ["Sideways"]}})
    made.describe({**described, "wrong": wrong})
    assert "Sideways" in made.pulumi("preview", ok=False).text
    dead = elsewhere(described["cluster"])
    lost = config_map("lost", "1", provider="dead")
    made.describe({**described, "dead": dead, "lost": lost})
    assert made.pulumi("preview").changed() == {("create", "ConfigMap"): 1}
    assert "cluster is unreachable: https://127.0.0.1:1: " in made.up(ok=False).text
    # Another cluster: everything on it is made anew.
    made.describe({**described, "cluster": dead})
    assert made.pulumi("preview").changed() == {("replace", "Namespace"): 1, ("replace", "ConfigMap"): 1}
    made.describe(described)


def elsewhere(cluster: dict[str, Any]) -> dict[str, Any]:
    config = yaml.safe_load(cluster["properties"]["kubeconfig"])
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    properties = {**cluster["properties"], "kubeconfig": json.dumps(config), "clusterIdentifier": "elsewhere"}
    return {**cluster, "properties": properties}


# --- Docker ---

DOCKERFILE = """\
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
COPY packages /packages
RUN head -c 1000000 /dev/urandom > /packages/more
COPY model /model
"""
IMAGE = "docker:index/image:Image"


@pytest.fixture
def images(daemon: Builder, tmp_path: Path) -> Trial:
    trial = Trial.start(tmp_path, find_cli(), daemon.environment)
    for folder in ("packages", "model"):
        (trial.root / "image" / folder).mkdir(parents=True)
        (trial.root / "image" / folder / "file").write_text("1")
    (trial.root / "image/Dockerfile").write_text(DOCKERFILE)
    return trial


def image(reference: str, base_image: str, **properties: Any) -> dict[str, Any]:
    build = {"context": "image", "dockerfile": "image/Dockerfile", "args": {"BASE_IMAGE": base_image}}
    build["builderVersion"] = "BuilderBuildKit"
    return {"type": IMAGE, "properties": {"imageName": reference, "build": build, **properties}}


def test_an_image_is_built_once_and_pushed_by_layer(live: Cluster, images: Trial, base_image: str) -> None:
    repository = f"trial/{uuid.uuid4().hex[:8]}"
    name = f"{live.registry}/{repository}"
    images.describe({"image": image(f"{name}:1", base_image, buildOnPreview=True)})
    images.pulumi("preview")
    assert registry.digest(live.registry, repository, "1") is None
    images.up()
    first = registry.digest(live.registry, repository, "1")
    assert of(images, "image")["outputs"]["repoDigest"] == f"{name}@{first}"
    assert images.up().changed() == {}
    (images.root / "image/model/file").write_text("2")
    images.describe({"image": image(f"{name}:2", base_image)})
    assert images.up().changed() == {("update", "Image"): 1}
    second = registry.digest(live.registry, repository, "2")
    assert of(images, "image")["outputs"]["repoDigest"] == f"{name}@{second}"
    old, new = (list(registry.layers(live.registry, repository, str(each))) for each in (first, second))
    assert old[:-1] == new[:-1]
    assert old[-1] != new[-1]
    assert [layer for layer in new if layer in registry.layers(live.registry, "python", base_image.partition("@")[2])]


def test_a_broken_build_shows_its_last_lines_already_in_the_preview(images: Trial, base_image: str) -> None:
    (images.root / "image/Dockerfile").write_text(f"{DOCKERFILE}RUN echo there is no spoon && false\n")
    images.describe({"image": image("127.0.0.1:1/model:1", base_image, buildOnPreview=True)})
    assert "there is no spoon" in images.pulumi("preview", ok=False).text


def test_a_login_reaches_the_registry_and_nothing_else(images: Trial, base_image: str, daemon: Builder) -> None:
    with guarded_registry() as (server, seen):
        login = {"server": server, "username": "me", "password": "open-sesame"}
        described = image(f"{server}/model:1", base_image, registry=login)
        images.describe({"image": {**described, "secrets": ["registry.password"]}})
        said = images.up(ok=False).text
    token = base64.b64encode(b"me:open-sesame").decode()
    assert f"Basic {token}" in seen
    assert f"push of {server}/model:1 failed" in said
    assert "open-sesame" not in said
    for path in Path(daemon.host.removeprefix("unix://")).parent.rglob("*"):
        if path.is_file() and "overlay2" not in path.parts:
            assert b"open-sesame" not in path.read_bytes()


@contextmanager
def guarded_registry() -> Iterator[tuple[str, list[str]]]:
    """A registry that lets nobody in, and the logins that it was given."""
    seen: list[str] = []

    class Door(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers.get("Authorization", ""))
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="door"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_POST = do_GET  # noqa: N815  the library names them

        def log_message(self, *_: Any, **__: Any) -> None:
            """Nothing is printed."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Door) as door:
        Thread(target=door.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{door.server_port}", seen
        door.shutdown()
