"""The few verbs of the Kubernetes API that the provider needs."""

from __future__ import annotations

import json
from functools import cached_property
from typing import Any

import httpx

from tests.e2e.providers.kubeconfig import Access
from tests.standins.cloud import CloudError

Object = dict[str, Any]


class ApiError(CloudError):
    """The API server said no."""

    def __init__(self, code: int, status: Object, manager: str = "") -> None:
        self.code = code
        self.causes: list[Object] = (status.get("details") or {}).get("causes") or []
        message = str(status.get("message") or f"HTTP {code}")
        self.conflict = code == 409 and any(c.get("reason") == "FieldManagerConflict" for c in self.causes)
        super().__init__(_conflict(self.causes, manager) if self.conflict else message)


class UnreachableError(CloudError):
    """There is no answer."""


class Api:
    def __init__(self, found: Access) -> None:
        self.server = found.server
        self._access = found
        self._kinds: dict[str, list[Object]] = {}

    @cached_property
    def _client(self) -> httpx.Client:
        access = self._access
        return httpx.Client(
            base_url=access.server, verify=access.tls, headers=access.headers, timeout=30, trust_env=False
        )

    def get(self, path: str, **query: str | int) -> Object:
        return self._send("GET", path, query).json()

    def find(self, path: str) -> Object | None:
        """An object, None if there is none."""
        try:
            return self.get(path)
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    def text(self, path: str, **query: str | int) -> str:
        """A log."""
        return self._send("GET", path, query).text

    def apply(self, path: str, content: Object, manager: str, *, force: bool = False, dry: bool = False) -> Object:
        """Server-side apply; what the object is afterwards, or would be."""
        query = {"fieldManager": manager, "force": str(force).lower(), "fieldValidation": "Strict"}
        if dry:
            query["dryRun"] = "All"
        kind = {"Content-Type": "application/apply-patch+yaml"}
        return self._send("PATCH", path, query, json.dumps(content), kind, manager).json()

    def delete(self, path: str, uid: str) -> None:
        """Ask for the end of that very object and, before it, of all that it owns."""
        options = {"propagationPolicy": "Foreground", "preconditions": {"uid": uid}}
        self._send("DELETE", path, {}, json.dumps(options), {"Content-Type": "application/json"})

    def path(self, api_version: str, kind: str, namespace: str | None, name: str) -> str | None:
        """Where an object is; None: the cluster does not know its kind."""
        base = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
        for known in (True, False):  # what was not there a moment ago may be now
            if not known:
                self._kinds[base] = (self.find(base) or {}).get("resources", [])
            for resource in self._kinds.get(base, []):
                if resource["kind"] == kind and "/" not in resource["name"]:
                    inside = f"/namespaces/{namespace}" if resource["namespaced"] else ""
                    return f"{base}{inside}/{resource['name']}/{name}"
        return None

    def _send(
        self,
        method: str,
        path: str,
        query: dict[str, Any],
        body: str | None = None,
        headers: dict[str, str] | None = None,
        manager: str = "",
    ) -> httpx.Response:
        try:
            answer = self._client.request(method, path, params=query, content=body, headers=headers)
        except httpx.TransportError as error:
            why = str(error) or type(error).__name__
            raise UnreachableError(f"configured Kubernetes cluster is unreachable: {self.server}: {why}") from error
        if answer.is_error:
            raise ApiError(answer.status_code, _status(answer), manager)
        return answer


def _status(answer: httpx.Response) -> Object:
    try:
        found = answer.json()
    except ValueError:
        found = {}
    return found if isinstance(found, dict) and "message" in found else {"message": answer.text.strip()}


def _conflict(causes: list[Object], manager: str) -> str:
    fields = "\n".join(f"    {c.get('field')}: {c.get('message')}" for c in causes)
    return (
        f"server-side apply by {manager!r} conflicts with other managers of the same fields:\n{fields}\n"
        'Leave the fields to them, or take them with the annotation pulumi.com/patchForce: "true".'
    )
