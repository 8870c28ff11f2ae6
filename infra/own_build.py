"""Stages a service of the user's own: a folder with a Dockerfile, in any language, and what starts it here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pulumi
from docker.utils.build import exclude_paths

from infra.build_context import Release, ReleaseError, check_file, compact_example, copy_files, refuse_overlap, stage
from infra.config.schema import Settings
from infra.own_folder import DOCKERFILE, EXAMPLE, instructions, procfile_command
from infra.server_contract import CONTAINER_PORT

_IGNORE_FILE = ".dockerignore"
_HOW_TO_IGNORE = f", or leave it out by a line in {_IGNORE_FILE}"
_NEVER_SHIPPED = (".git", "**/.venv", "**/__pycache__")
"""Besides what .dockerignore names: they differ from machine to machine, and so would the image's name."""


def stage_release(settings: Settings, root: Path) -> Release:
    """Stage what the config names, the folder `build` or the app with its model, in the stack's build context."""
    common, into = settings.common, Path(".build", settings.stack)
    if common.build:
        return stage_build(root / common.build, into, settings.local.command)
    return stage(root / "app", root / common.model, into, settings.image.extras)


def stage_build(folder: Path, into: Path, command: str | None = None) -> Release:
    """Make `into` hold exactly what Docker would take of `folder` as its build context.

    `command` starts the service on this machine; None takes that of the Procfile. Raises `ReleaseError` before it
    changes anything when a file cannot ship, or when the Dockerfile is none.
    """
    refuse_overlap(into, folder)
    dockerfile = check_file(folder / DOCKERFILE)
    _check_dockerfile(dockerfile)
    sources = {PurePosixPath(name): check_file(folder / name, _HOW_TO_IGNORE) for name in _shipped(folder)}
    return Release(
        path=into,
        content_hash=copy_files(sources, {}, into),
        model_name=folder.resolve().name,
        model_version="",
        example=_example(folder / EXAMPLE),
        is_own_build=True,
        command=command or procfile_command(folder),
    )


def _shipped(folder: Path) -> Iterator[str]:
    """Yield the files of the build context, relative to `folder`; the builder applies .dockerignore once more."""
    ignore = folder / _IGNORE_FILE
    lines = ignore.read_text().splitlines() if ignore.is_file() else []
    patterns = [stripped for line in lines if (stripped := line.strip()) and not stripped.startswith("#")]
    if ignore.is_file():
        patterns.append(f"!{_IGNORE_FILE}")
    for name in sorted(exclude_paths(str(folder), [*patterns, *_NEVER_SHIPPED], dockerfile=DOCKERFILE)):
        path = folder / name
        if path.is_symlink() or not path.is_dir():
            yield name


def _example(file: Path) -> str:
    """Read the prediction as compact JSON; empty where there is no such file."""
    if not file.exists():
        return ""
    try:
        return compact_example(file.read_bytes(), whole=True)
    except (ValueError, RecursionError) as mistake:
        raise ReleaseError(file, str(mistake)) from None


def _check_dockerfile(file: Path) -> None:
    """Refuse what cannot be built, and warn of a port that nothing here calls."""
    lines = instructions(file.read_text(errors="replace"))
    stages = [number for number, (name, _) in enumerate(lines) if name == "FROM"]
    if not stages:
        raise ReleaseError(file, "has no FROM line, so that nothing can be built of it")
    exposed = [port for name, rest in lines[stages[-1] :] if name == "EXPOSE" for port in rest.split()]
    numbers = {int(port.partition("/")[0]) for port in exposed if port.partition("/")[0].isdigit()}
    if numbers and CONTAINER_PORT not in numbers:
        pulumi.warn(
            f"{file} exposes {', '.join(map(str, sorted(numbers)))}, but the endpoint calls port {CONTAINER_PORT}; "
            "the service must listen on the port in the environment variable PORT"
        )
