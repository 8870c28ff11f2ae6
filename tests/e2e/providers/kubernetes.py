"""The Kubernetes provider: server-side apply, real waiting, drift, and deletion that is over when it says so."""

from __future__ import annotations

import base64
import hashlib
import os
import threading
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.providers import live as living
from tests.e2e.providers import waiting
from tests.e2e.providers.api import Api, ApiError, Object, UnreachableError
from tests.e2e.providers.kubeconfig import access
from tests.standins import wire
from tests.standins.behaviour import HalfDone, Request
from tests.standins.cloud import Cloud, CloudError, Thing
from tests.standins.kubernetes import SECRET
from tests.standins.kubernetes import Kubernetes as Standin

MANAGER = "__fieldManager"
FORCE = "pulumi.com/patchForce"
AUTONAMED = "pulumi.com/autonamed"


class Kubernetes(Standin):
    """Checks, names and replaces as the stand-in does; acts on the API server of the kubeconfig."""

    def __init__(self, cloud: Cloud) -> None:
        super().__init__(cloud)
        self._config: dict[str, Any] = {}
        self._lock = threading.Lock()

    def configure(self, config: dict[str, Any]) -> None:
        super().configure(config)
        self._config = config

    @cached_property
    def _connected(self) -> Api:
        text = self._config.get("kubeconfig") or os.environ.get("KUBECONFIG", "~/.kube/config")
        if wire.has_unknown(text):
            raise UnreachableError("configured Kubernetes cluster is unreachable: its kubeconfig is not known yet")
        if "\n" not in text and not text.lstrip().startswith("{"):
            text = Path(text).expanduser().read_text()
        try:
            return Api(access(text, self._config.get("context", "")))
        except (yaml.YAMLError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CloudError(f"the kubeconfig cannot be used: {error}") from error

    @property
    def _api(self) -> Api:
        with self._lock:
            return self._connected

    def deletes_first(self, type_: str, old: dict[str, Any], new: dict[str, Any]) -> bool:
        """A name that the provider has chosen is chosen anew: the old object can serve until the new one does."""
        annotations = wire.get(new, "metadata.annotations") or {}
        return annotations.get(AUTONAMED) != "true" and super().deletes_first(type_, old, new)

    # --- operations ---

    def preview(self, asked: Request) -> Thing:
        """What the API server would make of it; where it cannot say, the inputs."""
        only_inputs = Thing(type=asked.type, id=asked.id, outputs=asked.inputs)
        if wire.has_unknown(asked.values):
            return only_inputs
        try:
            return self._thing_of(asked, self._dry_run(asked))
        except UnreachableError:
            return only_inputs
        except ApiError as error:
            if error.code in {403, 404}:  # may not look, or the namespace or the kind does not exist yet
                return only_inputs
            raise

    def _dry_run(self, asked: Request) -> Object:
        content, path = self._content(asked)
        try:
            return self._apply(asked, content, path, dry=True)
        except ApiError as error:
            if asked.id or error.code != 422 or "immutable" not in str(error):
                raise
        # It will replace an object of the same name, which does not go for a preview.
        content["metadata"]["name"] += "-preview"
        return self._apply(asked, content, f"{path}-preview", dry=True)

    def create(self, asked: Request) -> Thing:
        content, path = self._content(asked)
        return self._wait(asked, path, self._apply(asked, content, path))

    def update(self, asked: Request) -> Thing:
        content, path = self._content(asked)
        return self._wait(asked, path, self._apply(asked, content, path))

    def delete(self, asked: Request) -> Thing:
        path = self._path(asked, wire.plain(asked.olds))
        found = self._api.find(path) if path else None
        if path and found:
            try:
                self._api.delete(path, found["metadata"]["uid"])
            except ApiError as error:
                if error.code != 404:
                    raise
            waiting.until_gone(self._api, path, found, self._limits(asked))
        return Thing(type=asked.type, id=asked.id)

    def read(self, asked: Request) -> Thing | None:
        path = self._path(asked, wire.plain(asked.inputs) or wire.plain(asked.olds))
        found = self._api.find(path) if path else None
        if found is None:
            return None
        thing = self._thing_of(asked, found, living.observed(asked.inputs, found))
        try:
            waiting.check_ready(self._api, found)
        except waiting.NotReadyError as error:
            raise HalfDone(thing, str(error)) from error
        return thing

    # --- how ---

    def _content(self, asked: Request) -> tuple[Object, str]:
        content = {key: value for key, value in asked.values.items() if not key.startswith("__")}
        if wire.has_unknown(content):
            raise CloudError("an input is still unknown")
        if "stringData" in content:  # it is write-only: nobody could own its fields
            texts = {key: base64.b64encode(value.encode()).decode() for key, value in content.pop("stringData").items()}
            content["data"] = {**content.get("data", {}), **texts}
        path = self._path(asked, content)
        if path is None:
            status = {"message": f"the cluster has no kind {content['kind']} in {content['apiVersion']}"}
            raise ApiError(404, status)
        return content, path

    def _path(self, asked: Request, content: Object) -> str | None:
        namespace, _, name = asked.id.rpartition("/")
        meta = content.get("metadata", {})
        namespace, name = namespace or meta.get("namespace"), name or meta["name"]
        return self._api.path(content["apiVersion"], content["kind"], namespace, name)

    def _apply(self, asked: Request, content: Object, path: str, *, dry: bool = False) -> Object:
        manager = _manager(asked)
        if asked.id:
            found = self._api.find(path)
            if found is None:
                raise CloudError(f"{content['kind']} {asked.id} is gone: run `pulumi refresh`")
            for ignored in asked.ignored:
                _ignore(content, found, ignored, manager)
        forced = (content["metadata"].get("annotations") or {}).get(FORCE) == "true"
        # A preview of a creation may be that of a replacement, whose name the old object has still.
        force = forced or os.environ.get("PULUMI_K8S_ENABLE_PATCH_FORCE") == "true" or (dry and not asked.id)
        return self._api.apply(path, content, manager, force=force, dry=dry)

    def _wait(self, asked: Request, path: str, applied: Object) -> Thing:
        try:
            return self._thing_of(asked, waiting.until_ready(self._api, path, applied, self._limits(asked)))
        except waiting.NotReadyError as error:
            raise HalfDone(self._thing_of(asked, error.live), str(error)) from error
        except CloudError as error:
            raise HalfDone(self._thing_of(asked, applied), str(error)) from error

    @staticmethod
    def _limits(asked: Request) -> waiting.Limits:
        return waiting.Limits(asked.seconds, asked.stopped)

    def _thing_of(self, asked: Request, found: Object, inputs: Object | None = None) -> Thing:
        inputs = asked.inputs if inputs is None else inputs
        meta = {key: value for key, value in found["metadata"].items() if key != "managedFields"}
        outputs = living.marked({**found, "metadata": meta}, inputs)
        if asked.type == SECRET:
            outputs = {key: wire.secret(value) if key == "data" else value for key, value in outputs.items()}
            if "stringData" in inputs:
                outputs["stringData"] = wire.secret(wire.plain(inputs["stringData"]))
        outputs[MANAGER] = _manager(asked)
        id_ = "/".join(part for part in (meta.get("namespace"), meta["name"]) if part)
        return Thing(type=asked.type, id=asked.id or id_, inputs=inputs, outputs=outputs)


def _manager(asked: Request) -> str:
    """The owner of our fields: kept with the object, so that a renamed resource stays the owner."""
    fresh = f"pulumi-kubernetes-{hashlib.sha256(asked.urn.encode()).hexdigest()[:8]}"
    return wire.plain(asked.olds).get(MANAGER) or fresh


def _ignore(content: Object, found: Object, path: str, manager: str) -> None:
    """Leave an ignored field to its owner if that is another one; if it is ours, keep it as it is."""
    *parents, last = path.split(".")
    inside = content
    for key in parents:
        inside = inside.get(key) if isinstance(inside, dict) else None
    if not isinstance(inside, dict):
        return
    owners = {m["manager"] for m in found["metadata"].get("managedFields", []) if _owns(m["fieldsV1"], path)}
    current = wire.get(found, path)
    if owners and manager not in owners:
        inside.pop(last, None)
    elif current is not None:
        inside[last] = current


def _owns(fields: Object, path: str) -> bool:
    inside: Object | None = fields
    for key in path.split("."):
        inside = inside.get(f"f:{key}")
        if inside is None:
            return False
    return True


SERVICE = Kubernetes
