"""The stand-in for Kubernetes: one API server a cluster, and controllers that are done at once."""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from tests.standins import schema, sign_in, wire
from tests.standins.aws import EKS_CLUSTER
from tests.standins.behaviour import HalfDone, Request, Service
from tests.standins.cloud import CloudError, Thing

CLUSTER = "test:index:Cluster"
"""A cluster that was there before: its id is the API server's address."""
NAMESPACE = "kubernetes:core/v1:Namespace"
SERVICE_ = "kubernetes:core/v1:Service"
DEPLOYMENT = "kubernetes:apps/v1:Deployment"
SECRET = "kubernetes:core/v1:Secret"
ADDRESS = "localhost"
"""What every load balancer is reached by: the test serves the real app there."""

_ALWAYS = ("apiVersion", "kind", "metadata.name", "metadata.namespace")
_REPLACES = {
    DEPLOYMENT: ("spec.selector",),
    SECRET: ("type", "data", "stringData", "immutable"),
    "kubernetes:core/v1:ConfigMap": ("data", "binaryData", "immutable"),
    SERVICE_: ("spec.clusterIP",),
}
_FIXED = {SERVICE_: ("spec.loadBalancerClass",)}
"""What the API server refuses to change, and the provider does not replace for."""
_WITHOUT_NAMESPACE = {
    NAMESPACE,
    "kubernetes:storage.k8s.io/v1:StorageClass",
    "kubernetes:karpenter.sh/v1:NodePool",
    "kubernetes:eks.amazonaws.com/v1:NodeClass",
}
_CUSTOM = {"kubernetes:karpenter.sh/v1:NodePool", "kubernetes:eks.amazonaws.com/v1:NodeClass"}
"""The custom resources that an EKS Auto Mode cluster knows."""


class Kubernetes(Service):
    """The objects of one cluster, or of none while its kubeconfig is unknown."""

    server = ""
    user: Mapping[str, Any] = MappingProxyType({})
    """The kubeconfig's user."""
    mutable_secrets = False

    def configure(self, config: dict[str, Any]) -> None:
        self.mutable_secrets = config.get("enableSecretMutable") in {True, "true"}
        text = config.get("kubeconfig", "")
        if wire.has_unknown(text):
            return
        if text and "\n" not in text and not text.lstrip().startswith("{") and Path(text).expanduser().is_file():
            text = Path(text).expanduser().read_text()
        self.server, self.user = _entries(text, config.get("context", "")) or ("", {})

    def config_replaces(self, old: dict[str, Any], new: dict[str, Any]) -> list[str]:
        if old.get("clusterIdentifier") and new.get("clusterIdentifier"):
            return ["clusterIdentifier"] if old["clusterIdentifier"] != new["clusterIdentifier"] else []
        before, after = (server_of(c.get("kubeconfig", ""), c.get("context", "")) for c in (old, new))
        return ["kubeconfig"] if before != after and "kubeconfig" in wire.differences(old, new) else []

    # --- inputs ---

    def foreign_failures(self, type_: str, inputs: dict[str, Any]) -> list[schema.Failure]:
        if type_ not in _CUSTOM:
            return super().foreign_failures(type_, inputs)
        meta = schema.args_class(schema.resource_class(NAMESPACE) or type(None))
        known = {key: inputs[key] for key in ("metadata",) if key in inputs}
        strange = [(k, "no such property") for k in inputs if k not in {"apiVersion", "kind", "metadata", "spec"}]
        missing = [] if "spec" in inputs else [("spec", "a required property is missing")]
        return [*schema.failures(meta, known), *strange, *missing]

    def check(self, asked: Request) -> dict[str, Any]:
        group_version, kind = asked.type.removeprefix("kubernetes:").rsplit(":", 1)
        expected = {"apiVersion": group_version.removeprefix("core/"), "kind": kind}
        for key, value in expected.items():
            if asked.values.get(key) != value:
                raise CloudError(f"{key} must be {value!r}, not {asked.values.get(key)!r}")
        meta = dict(wire.peel(asked.inputs.get("metadata", {})))
        if meta == wire.UNKNOWN:
            return asked.inputs
        if "name" not in meta:
            old = wire.get(wire.plain(asked.olds), "metadata.name")
            meta["name"] = old or f"{asked.name}-{asked.suffix(8)}"
            meta["annotations"] = {**meta.get("annotations", {}), "pulumi.com/autonamed": "true"}
        if asked.type not in _WITHOUT_NAMESPACE:
            meta.setdefault("namespace", "default")
        return {**asked.inputs, "metadata": meta}

    def replaces(self, type_: str, path: str, old: dict[str, Any]) -> bool:
        fields = _ALWAYS + (() if self.mutable_secrets and type_ == SECRET else _REPLACES.get(type_, ()))
        return any(path == field or path.startswith((f"{field}.", f"{field}[")) for field in fields)

    def deletes_first(self, type_: str, old: dict[str, Any], new: dict[str, Any]) -> bool:
        name, before = wire.get(new, "metadata.name"), wire.get(old, "metadata.name")
        return name == before and wire.get(new, "metadata.namespace") == wire.get(old, "metadata.namespace")

    # --- the API server ---

    def scope(self) -> str:
        return self.server

    def new_id(self, asked: Request) -> str:
        meta = asked.values["metadata"]
        return "/".join(part for part in (meta.get("namespace"), meta["name"]) if part)

    def outputs(self, asked: Request, id_: str) -> dict[str, Any]:
        status: dict[str, Any] = {}
        spec = asked.values.get("spec", {})
        if asked.type == SERVICE_:
            balanced = spec.get("type") == "LoadBalancer"
            status = {"loadBalancer": {"ingress": [{"hostname": ADDRESS}]} if balanced else {}}
        if asked.type == DEPLOYMENT:
            status = {"readyReplicas": spec.get("replicas", 1), "observedGeneration": 1}
        outputs: dict[str, Any] = {"status": status} if status else {}
        if asked.type == SECRET and "stringData" in asked.values:
            texts = asked.values["stringData"].items()
            outputs["data"] = wire.secret({k: base64.b64encode(v.encode()).decode() for k, v in texts})
        return outputs

    def create(self, asked: Request) -> Thing:
        self._reach()
        return super().create(asked)

    def update(self, asked: Request) -> Thing:
        self._reach()
        return super().update(asked)

    def delete(self, asked: Request) -> Thing:
        self._reach()
        return super().delete(asked)

    def read(self, asked: Request) -> Thing | None:
        self._reach()
        return super().read(asked)

    def _reach(self) -> None:
        clusters = {t.values["endpoint"]: t for t in self.cloud.things(EKS_CLUSTER)}
        if self.server not in {*clusters, *(t.id for t in self.cloud.things(CLUSTER))}:
            raise CloudError(f"configured Kubernetes cluster is unreachable: nothing answers at {self.server!r}")
        if not (cluster := clusters.get(self.server)):
            return
        if not sign_in.is_reachable(self.cloud, cluster.values):
            raise CloudError(f"configured Kubernetes cluster is unreachable: dial {self.server}: i/o timeout")
        who = sign_in.kubeconfig_principal(self.user)
        if not sign_in.may_enter(self.cloud.things(sign_in.ACCESS_ENTRY), cluster.id, who):
            raise CloudError(f"Unauthorized: {who} has no access entry of cluster {cluster.id}")

    def _thing(self, asked: Request, id_: str) -> Thing:
        thing = super()._thing(asked, id_)
        meta = {**wire.peel(asked.inputs["metadata"]), "uid": str(uuid.uuid4()), "resourceVersion": "1"}
        thing.outputs["metadata"] = meta
        return thing

    def before_create(self, asked: Request) -> None:
        namespace = wire.get(asked.values, "metadata.namespace")
        built_in = {"default", "kube-system"}
        if namespace and namespace not in built_in and not self.cloud.find(NAMESPACE, namespace, self.server):
            raise CloudError(f'namespaces "{namespace}" not found')
        _check_selector(asked)

    def before_update(self, asked: Request, thing: Thing) -> None:
        _check_selector(asked)
        for path in _FIXED.get(asked.type, ()):
            if wire.get(asked.values, path) != wire.get(wire.plain(thing.inputs), path):
                raise CloudError(f"{path}: Invalid value: may not change once set")

    def before_delete(self, thing: Thing) -> None:
        if thing.type == SERVICE_:
            time.sleep(0.5)  # the load balancer goes; whatever does not wait for it is caught
        if thing.type == NAMESPACE:
            for inside in self.cloud.things("kubernetes:", scope=self.server):
                if inside.id.startswith(f"{thing.id}/"):
                    self.cloud.remove(inside)

    def after_create(self, thing: Thing) -> None:
        """What the provider waits for; the object stays when it does not come."""
        try:
            if thing.type == DEPLOYMENT:
                self._pods_start(thing)
            if thing.type == SERVICE_:
                self._finds_pods(thing)
        except CloudError as error:
            raise HalfDone(thing, str(error)) from None

    def _pods_start(self, thing: Thing) -> None:
        pod, namespace = thing.values["spec"]["template"]["spec"], thing.values["metadata"]["namespace"]

        def there(type_: str, name: str) -> None:
            message = f"pods do not start: {type_.split(':')[-1]} {name!r} is not in namespace {namespace!r}"
            self.cloud.wait(lambda: self.cloud.find(type_, f"{namespace}/{name}", self.server), message)

        if "serviceAccountName" in pod:
            there("kubernetes:core/v1:ServiceAccount", pod["serviceAccountName"])
        for volume in pod.get("volumes", []):
            if "secret" in volume:
                there(SECRET, volume["secret"]["secretName"])
        for reference in pod.get("imagePullSecrets", []):
            there(SECRET, reference["name"])
        for container in pod["containers"]:
            self._pull(container["image"])

    def _pull(self, image: str) -> None:
        repository, _, digest = image.partition("@")
        pushed = self.cloud.images(repository)
        ours = any(server in repository for server in self.cloud.logins())
        if (ours or pushed) and digest not in pushed.values():
            raise CloudError(f"ImagePullBackOff: {image} is not in the registry")

    def _finds_pods(self, thing: Thing) -> None:
        spec, namespace = thing.values["spec"], thing.values["metadata"]["namespace"]
        selector = spec.get("selector", {}).items()

        def pods() -> bool:
            templates = [
                wire.get(t.values, "spec.template.metadata.labels") or {}
                for t in self.cloud.things(DEPLOYMENT, scope=self.server)
                if wire.get(t.values, "metadata.namespace") == namespace
            ]
            return any(selector <= labels.items() for labels in templates)

        self.cloud.wait(pods, f"Service {thing.id} does not target any Pods")


def server_of(kubeconfig: str, context: str = "") -> str:
    """The address of the cluster that a kubeconfig's context names; empty if there is none."""
    found = _entries(kubeconfig, context)
    return found[0] if found else ""


def _entries(kubeconfig: str, context: str) -> tuple[str, dict[str, Any]] | None:
    """The address of the cluster and the user that a kubeconfig's context names; None if there are none."""
    if wire.has_unknown(kubeconfig):
        return None
    try:
        config = yaml.safe_load(kubeconfig) or {}
        wanted = context or config["current-context"]
        (chosen,) = [c["context"] for c in config["contexts"] if c["name"] == wanted]
        (server,) = [c["cluster"]["server"] for c in config["clusters"] if c["name"] == chosen["cluster"]]
        users = [u["user"] for u in config.get("users", []) if u["name"] == chosen.get("user")]
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError):
        return None
    return server, users[0] if users else {}


def _check_selector(asked: Request) -> None:
    if asked.type != DEPLOYMENT:
        return
    selector = wire.get(asked.values, "spec.selector.matchLabels") or {}
    labels = wire.get(asked.values, "spec.template.metadata.labels") or {}
    if not selector.items() <= labels.items():
        raise CloudError(f"spec.template.metadata.labels: {json.dumps(labels)}: `selector` does not match them")


SERVICE = Kubernetes
