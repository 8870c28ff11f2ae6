"""What the tests ask a registry without a login: to take an image, and what it has."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import httpx

_DOCKER = "application/vnd.docker"
_MANIFEST = f"{_DOCKER}.distribution.manifest.v2+json"
_ACCEPT = f"{_MANIFEST}, application/vnd.oci.image.manifest.v1+json"


@dataclass(frozen=True)
class Blob:
    content: bytes
    digest: str

    @classmethod
    def of(cls, content: bytes) -> Blob:
        """Its address is computed."""
        return cls(content, f"sha256:{hashlib.sha256(content).hexdigest()}")

    def described(self, media_type: str) -> dict[str, Any]:
        return {"mediaType": media_type, "digest": self.digest, "size": len(self.content)}


def push_image(registry: str, name: str, config: dict[str, Any], layers: list[Blob]) -> str:
    """Push an image of gzipped layers; its reference by digest."""
    head = Blob.of(_json(config))
    manifest = Blob.of(
        _json(
            {
                "schemaVersion": 2,
                "mediaType": _MANIFEST,
                "config": head.described(f"{_DOCKER}.container.image.v1+json"),
                "layers": [layer.described(f"{_DOCKER}.image.rootfs.diff.tar.gzip") for layer in layers],
            }
        )
    )
    with _client(registry) as client:
        for blob in (head, *layers):
            _push_blob(client, name, blob)
        headers = {"Content-Type": _MANIFEST}
        client.put(f"/v2/{name}/manifests/latest", content=manifest.content, headers=headers).raise_for_status()
    return f"{registry}/{name}@{manifest.digest}"


def digest(registry: str, name: str, tag: str) -> str | None:
    """What the registry says a tag is; None: it has no such tag."""
    with _client(registry) as client:
        answer = client.head(f"/v2/{name}/manifests/{tag}", headers={"Accept": _ACCEPT})
    return answer.headers["Docker-Content-Digest"] if answer.is_success else None


def layers(registry: str, name: str, reference: str) -> dict[str, int]:
    """Digest -> compressed size of an image's layers, the base's first."""
    with _client(registry) as client:
        answer = client.get(f"/v2/{name}/manifests/{reference}", headers={"Accept": _ACCEPT})
    answer.raise_for_status()
    return {layer["digest"]: layer["size"] for layer in answer.json()["layers"]}


def _push_blob(client: httpx.Client, name: str, blob: Blob) -> None:
    if client.head(f"/v2/{name}/blobs/{blob.digest}").is_success:
        return
    upload = client.post(f"/v2/{name}/blobs/uploads/")
    upload.raise_for_status()
    place = httpx.URL(upload.headers["Location"]).copy_merge_params({"digest": blob.digest})
    headers = {"Content-Type": "application/octet-stream"}
    client.put(place, content=blob.content, headers=headers).raise_for_status()


def _client(registry: str) -> httpx.Client:
    return httpx.Client(base_url=f"http://{registry}", timeout=120, trust_env=False)


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
