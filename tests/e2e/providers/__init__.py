"""Providers for the tests on a real cluster, for a machine that cannot download the official plugins.

They speak the engine's protocol and check inputs against the SDKs as the stand-ins do, but what they act on is real: an
API server over TLS, a Docker daemon and a registry. Where an official plugin is installed, it is used instead.
`kubernetes` and `docker` are the two providers, `builder` and `base` the daemon and the base image for them.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

NAMES = ("kubernetes", "docker")
ROOT = Path(__file__).resolve().parents[3]


def official(name: str) -> Path | None:
    """The program of an official plugin: on PATH, or as the user's own Pulumi has downloaded it, the newest."""
    program = f"pulumi-resource-{name}"
    if found := shutil.which(program):
        return Path(found)
    home = Path(os.environ.get("PULUMI_HOME") or Path.home() / ".pulumi")
    installed = [p for p in (home / "plugins").glob(f"resource-{name}-v*/{program}") if os.access(p, os.X_OK)]
    return max(installed, key=lambda path: path.stat().st_mtime, default=None)


def install(directory: Path) -> dict[str, Path | None]:
    """Write the plugins as executables into `directory`, for PATH. Name -> the official plugin that it leads to."""
    directory.mkdir(parents=True, exist_ok=True)
    found = {name: official(name) for name in NAMES}
    for name, plugin in found.items():
        code = f"import sys; sys.path[0] = {str(ROOT)!r}; from tests.e2e.providers.plugin import main; main({name!r})"
        command = [str(plugin)] if plugin else [sys.executable, "-c", code]
        path = directory / f"pulumi-resource-{name}"
        path.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
        path.chmod(0o755)
    return found
