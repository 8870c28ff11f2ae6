"""Builds Go programs from pinned modules: go.sum fixes every byte of their source."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

SETTINGS = {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false", "GOWORK": "off"}
"""Override the user's own; those that say how to reach modules (GOPROXY and the like) hold."""


class GoError(Exception):
    """A program could not be built; the message is Go's own."""


def unavailable() -> str | None:
    """The reason why nothing can be built here and what to do; None when it can."""
    return None if shutil.which("go") else "there is no Go toolchain: install Go 1.24 or newer from https://go.dev/dl/"


def build(module: Path, package: str, into: Path, ldflags: str = "") -> None:
    """Build the commands of `package`, as the go.mod in folder `module` pins it, into the folder `into`."""
    command = ["go", "build", "-mod=readonly", "-trimpath", f"-ldflags=-s -w {ldflags}", f"-o={into}/", package]
    done = subprocess.run(
        command, cwd=module, env=os.environ | SETTINGS, stderr=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise GoError(f"Go could not build {package} of {module.name}:\n{done.stderr[-2000:]}")
