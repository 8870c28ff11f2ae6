"""The Docker provider of `tests/e2e/providers` behaves, on a real daemon and registry, as the official one does."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.e2e.cluster import Cluster
from tests.e2e.providers import registry
from tests.e2e.providers.builder import Builder
from tests.e2e.providers.trial import Trial
from tests.support.engine_project import find_cli

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


def of(images: Trial) -> dict[str, Any]:
    """The image in the state."""
    (found,) = (r for r in images.resources() if r["type"] == IMAGE)
    return found


def test_an_image_is_built_once_and_pushed_by_layer(live: Cluster, images: Trial, base_image: str) -> None:
    repository = f"trial/{uuid.uuid4().hex[:8]}"
    name = f"{live.registry}/{repository}"
    images.describe({"image": image(f"{name}:1", base_image, buildOnPreview=True)})
    images.pulumi("preview")
    assert registry.digest(live.registry, repository, "1") is None
    images.up()
    first = registry.digest(live.registry, repository, "1")
    assert of(images)["outputs"]["repoDigest"] == f"{name}@{first}"
    assert images.up().changed() == {}
    (images.root / "image/model/file").write_text("2")
    images.describe({"image": image(f"{name}:2", base_image)})
    assert images.up().changed() == {("update", "Image"): 1}
    second = registry.digest(live.registry, repository, "2")
    assert of(images)["outputs"]["repoDigest"] == f"{name}@{second}"
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
