"""Providers for the tests on a real cluster: the official Kubernetes plugin, and a Docker one of our own.

What is installed is used, the newest: on PATH, or as the user's own Pulumi has downloaded it. Else the Kubernetes
plugin is built from its Go module; `docker` speaks the engine's protocol as the stand-ins do, and acts on a real Docker
daemon and a real registry. `builder` and `base` are the daemon and the base image for it.
"""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

from tests import standins
from tests.e2e.providers import kubernetes


def official(name: str) -> Path | None:
    """Find the program of an installed official plugin."""
    program = f"pulumi-resource-{name}"
    if found := shutil.which(program):
        return Path(found)
    home = Path(os.environ.get("PULUMI_HOME") or Path.home() / ".pulumi")
    installed = [p for p in (home / "plugins").glob(f"resource-{name}-v*/{program}") if os.access(p, os.X_OK)]
    return max(installed, key=lambda path: path.stat().st_mtime, default=None)


def install(directory: Path) -> None:
    """Write the plugins as executables into `directory`, for PATH."""
    directory.mkdir(parents=True, exist_ok=True)
    plugin = official("kubernetes") or kubernetes.built()
    standins.script(directory / "pulumi-resource-kubernetes", _leads_to(plugin))
    docker = official("docker")
    line = _leads_to(docker) if docker else standins.plugin_command(f"{__name__}.docker")
    standins.script(directory / "pulumi-resource-docker", line)


def _leads_to(program: Path) -> str:
    return f'exec {shlex.quote(str(program))} "$@"'
