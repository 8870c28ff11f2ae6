"""Providers for the tests on a real cluster, for a machine that cannot download the official plugins.

They speak the engine's protocol and check inputs against the SDKs as the stand-ins do, but what they act on is real: an
API server over TLS, a Docker daemon and a registry. Where an official plugin is installed, it is used instead.
`kubernetes` and `docker` are the two providers, `builder` and `base` the daemon and the base image for them.
"""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

from tests import standins


def official(name: str) -> Path | None:
    """The program of an official plugin: on PATH, or as the user's own Pulumi has downloaded it, the newest."""
    program = f"pulumi-resource-{name}"
    if found := shutil.which(program):
        return Path(found)
    home = Path(os.environ.get("PULUMI_HOME") or Path.home() / ".pulumi")
    installed = [p for p in (home / "plugins").glob(f"resource-{name}-v*/{program}") if os.access(p, os.X_OK)]
    return max(installed, key=lambda path: path.stat().st_mtime, default=None)


def install(directory: Path) -> None:
    """Write the plugins as executables into `directory`, for PATH; they lead to the official ones where there are."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("kubernetes", "docker"):
        plugin = official(name)
        own = standins.plugin_command(f"{__name__}.{name}")
        line = f'exec {shlex.quote(str(plugin))} "$@"' if plugin else own
        standins.script(directory / f"pulumi-resource-{name}", line)
