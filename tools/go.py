"""Builds Go programs from pinned modules: go.sum fixes every byte of the source, and progress is shown."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

from tools.console import Progress


class GoError(Exception):
    """There is no Go toolchain, or it could not build; the message says which and ends with Go's own last lines."""


def unavailable() -> str | None:
    """Say why nothing can be built here and what to do, or None."""
    return None if shutil.which("go") else "there is no Go toolchain: install Go 1.24 or newer from https://go.dev/dl/"


def build(module: Path, package: str, into: Path, *, name: str, linker_flags: str = "") -> None:
    """Build the commands of `package` (a pattern), as the go.mod in the folder `module` pins them, into a folder.

    `name` begins the lines that tell how far it is. Raises GoError.
    """
    if reason := unavailable():
        raise GoError(reason)
    report = Progress(name)
    pinned = (module / "go.sum").read_text().splitlines() if (module / "go.sum").is_file() else []
    modules = sum("/go.mod " not in line for line in pinned)
    packages = len(
        _run(
            ["go", "list", "-mod=readonly", "-deps", package],
            module,
            lambda line: line.startswith("go: downloading "),
            lambda fetched: report(f"fetching Go modules: {fetched} of at most {modules}"),
        )
    )
    report(f"compiling {packages} packages, minutes the first time; kept in {into.parent}", now=True)
    flags = ["-mod=readonly", "-trimpath", "-v", f"-ldflags=-s -w {linker_flags}", "-o", f"{into}/"]
    _run(
        ["go", "build", *flags, package],
        module,
        lambda line: " " not in line,
        lambda compiled: report(f"compiling: {compiled} of at most {packages} packages"),
    )
    report("built", now=True)


def source_of(module: Path, path: str) -> Path:
    """Fetch a module that the go.mod in the folder `module` requires; the folder with its source. Raises GoError."""
    if reason := unavailable():
        raise GoError(reason)
    answer = _run(["go", "mod", "download", "-json", path], module)
    return Path(json.loads("".join(answer))["Dir"])


def _run(
    command: list[str],
    module: Path,
    is_step: Callable[[str], bool] = lambda _: False,
    report: Callable[[int], None] = lambda _: None,
) -> list[str]:
    """Run Go in the folder of the pinned modules; the lines of its stdout.

    `is_step` tells the lines of stderr that are one step each, of which `report` gets the number; the others explain a
    failure.
    """
    # The user's own Go settings reach modules (GOPROXY and the like); those that would change the result do not count.
    settings = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false", "GOWORK": "off"}
    with subprocess.Popen(
        command, cwd=module, env=settings, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        lines: list[str] = []
        reader = threading.Thread(target=lambda: lines.extend(line.rstrip("\n") for line in process.stdout or ()))
        reader.start()
        steps, trouble = 0, list[str]()
        for line in process.stderr or ():
            if is_step(line.rstrip("\n")):
                steps += 1
            else:
                trouble.append(line)
            report(steps)
        reader.join()
    if process.returncode:
        raise GoError(f"Go could not build {command[-1]} of {module.name}:\n{''.join(trouble[-20:])}".rstrip())
    return lines
