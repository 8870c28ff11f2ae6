"""The Docker provider: builds with BuildKit, pushes, and reports the digest that the registry has answered.

`E2E_DOCKER_BUILD_FLAGS` are flags for every `docker build`, for a network that a user does not have: for instance
`--network host --secret id=ca,src=<bundle.pem>`. The Dockerfile stays as it is.
"""

from __future__ import annotations

import base64
import json
import os
import shlex
import subprocess
from typing import Any

import httpx

from tests.e2e.providers import client
from tests.standins import wire
from tests.standins.behaviour import Request
from tests.standins.cloud import CloudError, Thing
from tests.standins.docker import Docker as Standin

BUILD_FLAGS = "E2E_DOCKER_BUILD_FLAGS"
_BUILD_INPUTS = {"args", "builderVersion", "context", "contextDigest", "dockerfile", "platform", "target"}
_LAST_LINES = 20


class Docker(Standin):
    """Checks and compares as the stand-in does; acts on the daemon of DOCKER_HOST."""

    def preview(self, asked: Request) -> Thing:
        build = wire.peel(asked.inputs.get("build", {}))
        if asked.values.get("buildOnPreview") is True:
            if wire.has_unknown(asked.values):
                raise CloudError("buildOnPreview: the image cannot be built, an input is still unknown")
            _build(asked.values)
        unknown = dict.fromkeys(("baseImageName", "repoDigest", "registryServer"), wire.UNKNOWN)
        return Thing(type=asked.type, id=asked.id, outputs={**unknown, **asked.inputs, "build": build})

    def create(self, asked: Request) -> Thing:
        values = asked.values
        name: str = values["imageName"]
        repository, colon, tag = name.rpartition(":")
        if not colon or "/" in tag:
            raise CloudError(f"imageName {name!r} has no tag")
        image = _build(values)
        digest = "" if values.get("skipPush") else _push(repository, tag, values.get("registry") or {})
        outputs = {
            "baseImageName": name,
            "context": wire.get(values, "build.context"),
            "repoDigest": f"{repository}@{digest}" if digest else "",
            "registryServer": wire.get(values, "registry.server") or "",
        }
        return Thing(type=asked.type, id=image, inputs=asked.inputs, outputs={**outputs, **asked.inputs})

    def update(self, asked: Request) -> Thing:
        return self.create(asked)

    def delete(self, asked: Request) -> Thing:
        """As pulumi-docker does: the image stays in its registry."""
        return Thing(type=asked.type, id=asked.id)


def _build(values: dict[str, Any]) -> str:
    build = values["build"]
    strange = build.keys() - _BUILD_INPUTS
    if strange or build.get("builderVersion") == "BuilderV1":
        raise CloudError(f"only BuildKit builds of {', '.join(sorted(_BUILD_INPUTS))} are known here: {strange or ''}")
    told: dict[str, str] = build.get("args", {})
    context = build.get("context", ".")
    command = [str(client.find()), "build", "--progress=plain", f"--tag={values['imageName']}"]
    command += [f"--file={build.get('dockerfile', f'{context}/Dockerfile')}"]
    command += [f"--{key}={build[key]}" for key in ("platform", "target") if build.get(key)]
    for key in told:  # their values come from the environment, where nobody else sees them
        command += ["--build-arg", key]
    command += [*shlex.split(os.environ.get(BUILD_FLAGS, "")), context]
    environment = {**os.environ, **told, "DOCKER_BUILDKIT": "1"}
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        lines = [line for line in done.stdout.splitlines() if line.strip()][-_LAST_LINES:]
        raise CloudError("docker build failed; its last lines:" + "".join(f"\n    {line}" for line in lines))
    with _engine() as engine:
        return _json(engine.get(f"/images/{values['imageName']}/json"))["Id"]


def _push(repository: str, tag: str, login: dict[str, Any]) -> str:
    """The digest that the registry answered. The login goes to the daemon alone, in a header."""
    config = {
        "username": login.get("username"),
        "password": login.get("password"),
        "serveraddress": login.get("server"),
    }
    known = {key: value for key, value in config.items() if value}
    headers = {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(known).encode()).decode()}
    digest = ""
    with _engine() as engine:
        answer = engine.stream("POST", f"/images/{repository}/push", params={"tag": tag}, headers=headers)
        with answer as stream:
            if stream.is_error:
                stream.read()
                _json(stream)
            for line in stream.iter_lines():
                event = json.loads(line)
                if "error" in event:
                    raise CloudError(f"push of {repository}:{tag} failed: {event['error']}")
                digest = event.get("aux", {}).get("Digest", digest)
    if not digest:
        raise CloudError(f"push of {repository}:{tag}: the registry has told no digest")
    return digest


def _engine() -> httpx.Client:
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    scheme, _, path = host.partition("://")
    if scheme != "unix":
        raise CloudError(f"DOCKER_HOST={host}: only a Unix socket is known here")
    return httpx.Client(transport=httpx.HTTPTransport(uds=path), base_url="http://docker", timeout=600)


def _json(answer: httpx.Response) -> dict[str, Any]:
    if answer.is_error:
        raise CloudError(f"Docker: {answer.json().get('message', answer.text)}")
    return answer.json()


SERVICE = Docker
