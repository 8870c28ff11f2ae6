"""ModelImage on the wire: what is built, its tag, and the digest that it is deployed by."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pulumi
import pytest

from infra.build_context import Release
from infra.config.schema import ImageSettings
from infra.image import (
    ImageDigestError,
    ModelImage,
    ModelImageArgs,
    content_tag,
    is_pushed,
    pushed_reference,
    tag_to_push,
)
from tests.unit import mocked

REPOSITORY = "registry.example.com/team/model"
DIGEST = f"sha256:{'a' * 64}"
BASE = f"python@sha256:{'b' * 64}"
IMAGE = "docker:index/image:Image"
RELEASE = Release(
    path=Path(".build/dev/image"), content_hash="c" * 64, model_name="iris", model_version="1", example="{}"
)
SETTINGS = ImageSettings(image=None, base_image=None, architecture="arm64", extras=())
ARGS = ModelImageArgs(
    settings=SETTINGS, release=RELEASE, repository_url=REPOSITORY, server="registry.example.com",
    username="robot", password="registry-password", live_repository=REPOSITORY,
)  # fmt: skip
PUSHED = {
    "imageName": f"{REPOSITORY}:a1-20260102030405", "context": ".build/dev/image",
    "registryServer": "registry.example.com", "repoDigest": f"{REPOSITORY}@{DIGEST}",
}  # fmt: skip


def build(
    args: ModelImageArgs, repo_digest: str | None = f"{REPOSITORY}@{DIGEST}", **options: Any
) -> mocked.Run[ModelImage]:
    outputs = {IMAGE: {} if repo_digest is None else {"repoDigest": repo_digest}}
    return mocked.run(lambda: ModelImage("image", args), outputs=outputs, **options)


def test_a_model_with_dependencies_gets_their_layers_and_a_plain_one_the_same_build_as_ever() -> None:
    plain, own = ARGS, replace(ARGS, release=replace(RELEASE, has_dependencies=True))
    assert build(plain).one(IMAGE).inputs["build"].get("args", {}) == {}
    image = build(own).one(IMAGE).inputs
    assert image["build"]["args"] == {"MODEL_LAYERS": "dependencies"}
    assert content_tag(RELEASE, "linux/arm64", {"MODEL_LAYERS": "dependencies"}) in image["imageName"]


def unknown() -> pulumi.Output[str]:
    async def value() -> Any:
        return None

    async def known() -> bool:
        return False

    return pulumi.Output(set(), value(), known())


def test_the_image_on_the_wire() -> None:
    run = build(replace(ARGS, settings=replace(SETTINGS, base_image=BASE)))
    image = run.one(IMAGE)

    name, _, pushed_at = image.inputs["imageName"].partition("-")
    assert name == f"{REPOSITORY}:{content_tag(RELEASE, 'linux/arm64', {'BASE_IMAGE': BASE})}"
    assert datetime.strptime(pushed_at, "%Y%m%d%H%M%S")
    assert image.ignore_changes == []
    assert image.inputs == {
        "imageName": image.inputs["imageName"],
        "build": {
            "context": ".build/dev/image",
            "dockerfile": ".build/dev/image/Dockerfile",
            "platform": "linux/arm64",
            "args": {"BASE_IMAGE": BASE},
            "builderVersion": "BuilderBuildKit",
        },
        "buildOnPreview": True,
        "skipPush": False,
        "registry": {"server": "registry.example.com", "username": "robot", "password": "registry-password"},
    }
    assert any(path.startswith("registry") for path in image.secrets)
    assert image.parent == "image"
    assert mocked.resolve(run.result.reference).value == f"{REPOSITORY}@{DIGEST}"
    assert mocked.resolve(run.result.digest).value == DIGEST


def test_no_base_image_leaves_the_dockerfiles_own() -> None:
    assert build(ARGS).one(IMAGE).inputs["build"]["args"] == {}


def test_extras_are_a_build_argument_in_any_order() -> None:
    orders = [replace(SETTINGS, extras=extras) for extras in (("torch", "otel"), ("otel", "torch"))]
    first, second = (build(replace(ARGS, settings=settings)).one(IMAGE).inputs for settings in orders)
    assert first["build"]["args"] == {"EXTRAS": "otel torch"}
    assert first["imageName"].partition("-")[0] == second["imageName"].partition("-")[0]


def test_a_pytorch_program_needs_an_image_with_pytorch() -> None:
    args = replace(ARGS, release=replace(RELEASE, needs_torch=True))
    with pytest.raises(pulumi.RunError, match="extras"):
        build(args)
    assert build(replace(args, settings=replace(SETTINGS, extras=("torch",)))).one(IMAGE)
    assert not build(replace(args, settings=replace(SETTINGS, image=f"team/other@{DIGEST}"))).all(IMAGE)


def test_without_a_user_name_the_machines_own_login_is_used() -> None:
    assert "registry" not in build(replace(ARGS, username=None, password=None)).one(IMAGE).inputs


def test_every_push_has_a_tag_of_its_own() -> None:
    """So that content that was pushed before, and is built again, never meets an immutable tag."""
    assert tag_to_push("a1", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)) == "a1-20260102030405"


def test_the_name_of_what_is_pushed_is_kept() -> None:
    pushed = {**PUSHED, "imageName": f"{REPOSITORY}:{content_tag(RELEASE, 'linux/arm64', {})}-20260102030405"}
    assert build(replace(ARGS, pushed=pushed)).one(IMAGE).ignore_changes == ["imageName"]


@pytest.mark.parametrize(
    ("expected", "content", "changed"),
    [
        (True, "a1", ARGS),
        (False, "b2", ARGS),
        (False, "a1", replace(ARGS, release=replace(RELEASE, path=Path(".build/renamed/image")))),
        (False, "a1", replace(ARGS, live_repository="registry.example.com/team/other")),
        (False, "a1", replace(ARGS, username=None, password=None)),
    ],
    ids=["nothing", "content", "folder, as after a rename", "repository", "login"],
)
def test_another_build_or_push_gets_another_name(expected: bool, content: str, changed: ModelImageArgs) -> None:
    assert is_pushed(replace(changed, pushed=PUSHED), content) is expected


def test_nothing_is_pushed_before_the_first_up() -> None:
    assert not is_pushed(ARGS, "a1")


def test_the_content_is_what_is_built_and_what_the_build_is_told() -> None:
    tag = content_tag(RELEASE, "linux/arm64", {})
    assert tag == content_tag(replace(RELEASE, path=Path("elsewhere")), "linux/arm64", {})
    others = {
        content_tag(replace(RELEASE, content_hash="d" * 64), "linux/arm64", {}),
        content_tag(RELEASE, "linux/amd64", {}),
        content_tag(RELEASE, "linux/arm64", {"BASE_IMAGE": BASE}),
    }
    assert len({tag, *others}) == 4
    assert len(tag) == 20


def test_a_prebuilt_image_makes_no_docker_resource() -> None:
    prebuilt = f"team/other@{DIGEST}"
    run = build(replace(ARGS, settings=replace(SETTINGS, image=prebuilt), repository_url=None))

    assert not run.all(IMAGE)
    assert mocked.resolve(run.result.reference).value == prebuilt
    assert mocked.resolve(run.result.digest).value == DIGEST


def test_the_first_preview_does_not_build_for_an_unknown_repository() -> None:
    run = build(replace(ARGS, repository_url=unknown()), preview=True)
    image = run.one(IMAGE)

    assert image.inputs["buildOnPreview"] is False, "the provider fails on unknown inputs otherwise"
    assert image.inputs["imageName"] is mocked.UNKNOWN
    assert not mocked.resolve(run.result.reference).known
    assert not mocked.resolve(run.result.digest).known


def test_a_later_preview_builds() -> None:
    assert build(ARGS, preview=True).one(IMAGE).inputs["buildOnPreview"] is True


@pytest.mark.parametrize("repo_digest", [DIGEST, f"other.example.com/team/model@{DIGEST}", ""])
def test_another_registrys_digest_is_refused(repo_digest: str) -> None:
    with pytest.raises(ImageDigestError, match=r"registry\.example\.com/team/model.*docker image rm"):
        build(ARGS, repo_digest)


@pytest.mark.parametrize(
    "repo_digest",
    [f"{REPOSITORY}@{DIGEST}", f"team/model@{DIGEST}"],
    ids=["in full", "without the host, as Docker writes its default registry's"],
)
def test_our_repositorys_digest_is_taken(repo_digest: str) -> None:
    assert pushed_reference(repo_digest, REPOSITORY) == f"{REPOSITORY}@{DIGEST}"


@pytest.mark.parametrize("wrong", [f"{REPOSITORY}-evil@{DIGEST}", f"{REPOSITORY}@md5:x", f"model@{DIGEST}", None])
def test_a_prefix_alone_is_not_our_repository(wrong: str | None) -> None:
    with pytest.raises(ImageDigestError):
        pushed_reference(wrong, REPOSITORY)
