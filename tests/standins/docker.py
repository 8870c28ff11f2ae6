"""The stand-in for Docker: an image is a hash of what it would be built from, a registry is a list of digests."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from tests.standins import wire
from tests.standins.aws import REPOSITORY
from tests.standins.behaviour import Request, Service
from tests.standins.cloud import CloudError, Thing

IMAGE = "docker:index/image:Image"


class Docker(Service):
    """docker.Image, as pulumi-docker treats it: everything is an update, a change of the login is not one."""

    UNDECLARED = frozenset({"context"})

    def check(self, asked: Request) -> dict[str, Any]:
        if asked.type != IMAGE:
            raise CloudError(f"the stand-in builds images only, no {asked.type}")
        build = wire.peel(asked.inputs.get("build", {}))
        if build == wire.UNKNOWN:
            return asked.inputs
        return {**asked.inputs, "build": {**build, "contextDigest": _context_digest(wire.plain(build))}}

    def ignores(self, type_: str, path: str) -> bool:
        return path in {"registry.username", "registry.password"}

    def replaces(self, type_: str, path: str, old: dict[str, Any]) -> bool:
        return False

    def volatile(self, asked: Request) -> frozenset[str]:
        return frozenset({"repoDigest"})

    def preview(self, asked: Request) -> Thing:
        if asked.values.get("buildOnPreview") is True:
            if wire.has_unknown(asked.values):
                raise CloudError("buildOnPreview: the image cannot be built, an input is still unknown")
            _digest(asked.values)
        return super().preview(asked)

    def new_id(self, asked: Request) -> str:
        return _digest(asked.values)

    def outputs(self, asked: Request, id_: str) -> dict[str, Any]:
        values = asked.values
        repository, _, tag = values["imageName"].rpartition(":")
        if not repository or "/" in tag:
            raise CloudError(f"imageName {values['imageName']!r} has no tag")
        digest = _digest(values)
        if not values.get("skipPush"):
            self._push(values, repository, tag, digest)
        return {
            "baseImageName": values["imageName"],
            "context": wire.get(values, "build.context"),
            "repoDigest": f"{repository}@{digest}",
            "registryServer": wire.get(values, "registry.server") or "",
        }

    def _push(self, values: dict[str, Any], repository: str, tag: str, digest: str) -> None:
        server = repository.split("/")[0]
        login = values.get("registry", {})
        given, accepted = f"{login.get('username')}:{login.get('password')}", self.cloud.logins().get(server)
        if login and login.get("server") not in {server, f"https://{server}"}:
            raise CloudError(f"the login is for {login.get('server')!r}, the image for {server!r}")
        if accepted is not None and given not in accepted:
            raise CloudError(f"push to {repository}: no basic auth credentials")
        self._check_ecr(repository, tag)
        self.cloud.push(repository, tag, digest)

    def _check_ecr(self, repository: str, tag: str) -> None:
        found = [t for t in self.cloud.things(REPOSITORY) if t.values["repositoryUrl"] == repository]
        if not found and ".dkr.ecr." in repository:
            raise CloudError(f"name unknown: the repository {repository} does not exist")
        if found and found[0].values.get("imageTagMutability") == "IMMUTABLE" and tag in self.cloud.images(repository):
            raise CloudError(f"tag invalid: the image tag {tag!r} already exists and is immutable")

    def read(self, asked: Request) -> Thing | None:
        """As pulumi-docker does: whatever is in the state."""
        return Thing(type=asked.type, id=asked.id, inputs=asked.inputs, outputs=asked.olds)

    def delete(self, asked: Request) -> Thing:
        """As pulumi-docker does: the image stays in its registry."""
        return super().delete(asked)


def _context_digest(build: dict[str, Any]) -> str:
    context = Path(build.get("context", "."))
    dockerfile = Path(build.get("dockerfile", context / "Dockerfile"))
    if not dockerfile.is_file():
        raise CloudError(f"could not open dockerfile at path {dockerfile}")
    digest = hashlib.sha256()
    for path in sorted({*context.rglob("*"), dockerfile}):
        if path.is_file():
            mode = "x" if path.stat().st_mode & 0o100 else "-"
            digest.update(f"{path.as_posix()}\0{mode}\0".encode() + path.read_bytes() + b"\0")
    return f"sha256:{digest.hexdigest()}"


def _digest(values: dict[str, Any]) -> str:
    """Build: the digest of the image, if the Dockerfile can be followed."""
    build = values["build"]
    context = Path(build.get("context", "."))
    dockerfile = Path(build.get("dockerfile", context / "Dockerfile")).read_text()
    told = build.get("args", {})
    for name in told:
        if not re.search(rf"^\s*ARG\s+{re.escape(name)}\b", dockerfile, re.MULTILINE):
            raise CloudError(f"the Dockerfile has no ARG {name}")
    for line in dockerfile.replace("\\\n", " ").splitlines():
        words = line.split()
        if words and words[0].upper() in {"COPY", "ADD"} and not any(w.startswith("--from") for w in words):
            sources = [w for w in words[1:] if not w.startswith("--")][:-1]
            for source in sources:
                if not list(context.glob(source.strip("/"))) and source not in {".", "./"}:
                    raise CloudError(f"COPY failed: {source} is not in the build context {context}")
    # The name stands for the time and the machine: no two builds of one content give the same bytes.
    name = values["imageName"]
    text = f"{build['contextDigest']}\0{sorted(told.items())}\0{build.get('platform')}\0{build.get('target')}\0{name}"
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


SERVICE = Docker
