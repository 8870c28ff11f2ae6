"""Strict stand-ins for the aws, eks, docker and kubernetes providers, for tests on the real engine without a cloud.

They answer the engine's own protocol, so that `pulumi` cannot tell; a folder (`STANDIN_CLOUD`) is the cloud. They are
strict where a cloud would be: inputs must fit the SDKs' own types, names are unique, what is in use cannot be deleted,
an image must have been pushed before a pod can run it. They are quick where a cloud is slow, and nothing more.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def install(directory: Path) -> None:
    """Write the four plugins as executables into `directory`, beside stand-ins for the CLIs that are asked for.

    The eks component wants to see an AWS CLI; a failed endpoint check asks kubectl, which must not reach any cluster.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("aws", "docker", "kubernetes"):
        script(directory / f"pulumi-resource-{name}", plugin_command(f"tests.standins.{name}"))
    eks = "from tests.standins.component import main; main()"
    script(directory / "pulumi-resource-eks", python_command(eks))
    script(directory / "aws", "echo aws-cli/2.31.0 Python/3.13.7 Linux/6.1 exe/x86_64")
    script(directory / "kubectl", "echo the stand-in has nothing to tell >&2; exit 1")


def python_command(code: str) -> str:
    """Shell line that becomes a process of this Python which runs code of this project."""
    return f'exec {shlex.join([sys.executable, "-c", f"import sys; sys.path[0] = {str(ROOT)!r}; {code}"])} "$@"'


def plugin_command(module: str) -> str:
    """Shell line that becomes the plugin of a module's `SERVICE`."""
    return python_command(f"from tests.standins.plugin import main; main({module!r})")


def script(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)
