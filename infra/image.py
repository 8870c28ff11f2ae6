"""ModelImage: what ships, built, pushed once under its content's name, and referred to by digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pulumi
import pulumi_docker as docker

from infra import outputs
from infra.build_context import Release
from infra.cluster_platform import Repository
from infra.config.schema import ImageSettings, Settings
from infra.state import outputs_of, previous_resources

_CONTENT_TAG_DIGITS = 20
"""Hex digits: 80 bits are plenty for the images of one repository."""


class ImageDigestError(pulumi.RunError):
    """The pushed image has no digest in our repository, so that nothing can be deployed by it."""

    def __init__(self, repository: str, found: str) -> None:
        """`found` is what Docker answered instead."""
        self.repository = repository
        self.found = found
        super().__init__(
            f"the image was pushed to {repository}, but Docker names its digest as {found or 'nothing'!r}. "
            "An image of the same content from another registry is in the way: "
            "remove it (docker image rm --force <it>) and run `pulumi up` again."
        )


@dataclass(frozen=True, kw_only=True)
class ModelImageArgs:
    settings: ImageSettings
    release: Release
    """Its path is the build context, relative to the program: an absolute one would rebuild on every machine."""
    repository_url: pulumi.Input[str] | None
    """Repository without tag or digest. None only with a prebuilt image."""
    server: pulumi.Input[str] | None = None
    """Registry to log in to."""
    username: pulumi.Input[str] | None = None
    """None: the login that the machine's Docker has already."""
    password: pulumi.Input[str] | None = None
    """Kept as a secret. A new password alone builds and pushes nothing."""
    live_repository: str | None = None
    """Repository as the config or the last `up` has it, to compare with that of `pushed`."""
    pushed: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Outputs of the image that the last `up` pushed: its name is kept until something else is to be built."""

    @classmethod
    def from_settings(cls, settings: Settings, release: Release, repository: Repository) -> ModelImageArgs:
        resources = previous_resources()
        return cls(
            settings=settings.image,
            release=release,
            repository_url=repository.repository_url,
            server=repository.server,
            username=repository.username,
            password=repository.password,
            live_repository=settings.existing.repository
            or outputs_of(resources, "aws:ecr/repository:Repository").get("repositoryUrl"),
            pushed=outputs_of(resources, "docker:index/image:Image"),
        )


class ModelImage(pulumi.ComponentResource):
    """The image in its repository, or the prebuilt one from the config, for which nothing is built."""

    reference: pulumi.Output[str]
    """`repository@sha256:...`: give this to a container, never a tag. Unknown in a preview that would push."""
    digest: pulumi.Output[str]
    """`sha256:...`; changes exactly when other content is deployed."""

    def __init__(self, name: str, args: ModelImageArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("model-endpoint:image:ModelImage", name, None, opts)
        self.reference = (
            pulumi.Output.from_input(args.settings.image) if args.settings.image else self._build(f"{name}-build", args)
        )
        self.digest = self.reference.apply(lambda reference: reference.partition("@")[2])
        self.register_outputs({"reference": self.reference, "digest": self.digest})

    def _build(self, name: str, args: ModelImageArgs) -> pulumi.Output[str]:
        if args.repository_url is None:
            raise pulumi.RunError("an image needs a repository to be pushed to, or give a prebuilt one with `image`")
        if args.release.needs_torch and "torch" not in args.settings.extras:
            raise pulumi.RunError(
                "the model is model.pt2, which the image cannot run without PyTorch: package it as ONNX, or\n"
                "  pulumi config set --path 'extras[0]' torch && pulumi config set memory 2Gi"
            )
        repository = pulumi.Output.from_input(args.repository_url)
        platform = f"linux/{args.settings.architecture}"
        build_args = _build_args(args.settings, args.release)
        context = args.release.path.as_posix()
        content = content_tag(args.release, platform, build_args)
        registry = None
        if args.username is not None:
            registry = docker.RegistryArgs(
                server=args.server,
                username=args.username,
                password=None if args.password is None else pulumi.Output.secret(args.password),
            )
        image = docker.Image(
            name,
            build=docker.DockerBuildArgs(
                context=context,
                dockerfile=f"{context}/Dockerfile",
                platform=platform,
                args=build_args,
                builder_version=docker.BuilderVersion.BUILDER_BUILD_KIT,
            ),
            # With unknown inputs, as before the repository exists, the provider refuses to build in a preview
            # [pulumi-docker#855].
            build_on_preview=outputs.all_known(repository, args.server, args.username, args.password),
            image_name=pulumi.Output.concat(repository, f":{tag_to_push(content, datetime.now(UTC))}"),
            registry=registry,
            opts=pulumi.ResourceOptions(
                parent=self,
                # Not the old name given again: where the image is made anew all the same (`up --replace`), the engine
                # takes the new one, and an immutable tag is not in its way.
                ignore_changes=["imageName"] if is_pushed(args, content) else None,
            ),
        )
        return pulumi.Output.all(image.repo_digest, repository).apply(_reference_of)


def _build_args(settings: ImageSettings, release: Release) -> dict[str, str]:
    """Build arguments for the Dockerfile; none where it is to keep its defaults."""
    told = {
        "BASE_IMAGE": settings.base_image or "",
        "EXTRAS": " ".join(sorted(settings.extras)),
        "MODEL_LAYERS": "dependencies" if release.has_dependencies else "",
    }
    return {name: value for name, value in told.items() if value}


def tag_to_push(content: str, now: datetime) -> str:
    """Spell the tag of a push: no two pushes have the same one.

    The content alone is no tag that never moves: a build of the same content elsewhere, or after a step back, has
    another digest, and a registry with immutable tags refuses it.
    """
    return f"{content}-{now:%Y%m%d%H%M%S}"


def is_pushed(args: ModelImageArgs, content: str) -> bool:
    """Tell whether the last `up` pushed `content`, from the same folder, to the same repository, with a login as now.

    Anything else makes the provider build and push again: the folder changes when the stack is renamed.
    """
    repository, _, tag = str(args.pushed.get("imageName", "")).rpartition(":")
    context, logged_in = args.release.path.as_posix(), args.username is not None
    return (
        tag.partition("-")[0] == content
        and repository == args.live_repository
        and args.pushed.get("context", context) == context
        and bool(args.pushed.get("registryServer", logged_in)) == logged_in
    )


def content_tag(release: Release, platform: str, build_args: dict[str, str]) -> str:
    """Hash what is built and what the build is told; the same on every machine."""
    told = "\0".join([release.content_hash, platform, *(f"{key}={build_args[key]}" for key in sorted(build_args))])
    return hashlib.sha256(told.encode()).hexdigest()[:_CONTENT_TAG_DIGITS]


def pushed_reference(repo_digest: str | None, repository: str) -> str:
    """Refer to the image in `repository` by digest. Raises ImageDigestError when `repo_digest` is of another one.

    With one image in several registries, Docker may name the digest of any of them [pulumi-docker#778].
    """
    named, _, digest = (repo_digest or "").partition("@")
    # Docker leaves its default registry's host out of names.
    if not digest.startswith("sha256:") or named not in (repository, repository.partition("/")[2]):
        raise ImageDigestError(repository, repo_digest or "")
    return f"{repository}@{digest}"


def _reference_of(values: list[str]) -> str:
    repo_digest, repository = values
    try:
        return pushed_reference(repo_digest, repository)
    except ImageDigestError:
        if pulumi.runtime.is_dry_run():  # built for a preview, never pushed: it has no digest there yet
            return outputs.NOT_KNOWN_YET
        raise
