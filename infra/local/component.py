"""LocalService: the app as a supervised process on this machine, with the same endpoint as everywhere else."""

from __future__ import annotations

import hashlib
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pulumi
from pulumi import dynamic

from infra.build_context import Release
from infra.config.schema import LocalSettings, Settings
from infra.local import supervisor
from infra.local.provider import ProcessProvider


@dataclass(frozen=True, kw_only=True)
class LocalServiceArgs:
    settings: LocalSettings
    """The port."""
    release: Release
    """The staged app and model; the process gets a copy of them, and a new content hash is a new process."""
    environment: Mapping[str, str]
    """Variables for the server, besides those that its supervisor sets; another value is a new process."""
    api_key: pulumi.Output[str] | None
    """Key that predictions must carry; None opens them to every user of this machine."""
    state_dir: Path
    """Folder of this stack alone, relative to the project; `destroy` removes it."""

    @classmethod
    def from_settings(cls, settings: Settings, release: Release) -> LocalServiceArgs:
        key = settings.common.api_key
        return cls(
            settings=settings.local,
            release=release,
            environment=settings.common.environment,
            api_key=key.output() if key else None,
            state_dir=Path(".local", settings.stack),
        )


class LocalService(pulumi.ComponentResource):
    """The app on a port of 127.0.0.1: changed without dropping a request, started again when it dies."""

    url: pulumi.Output[str]
    """Its address, once it is ready."""
    log_file: pulumi.Output[str]
    """Log of the server and its supervisor, relative to the project; what grows too long moves to `<log_file>.1`."""
    pid: pulumi.Output[int]
    """The supervisor's process id; the server is its child."""

    def __init__(self, name: str, args: LocalServiceArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("model-endpoint:local:LocalService", name, None, opts)
        if missing := _not_installed(args.release.debian_packages):
            pulumi.warn(
                f"the model asks for Debian packages that this machine lacks, and may not run here without them:\n"
                f"  sudo apt-get install {' '.join(missing)}",
                self,
            )
        process = _Process(f"{name}-process", args, pulumi.ResourceOptions(parent=self))
        self.url = process.url
        self.log_file = process.log_file
        self.pid = process.pid
        self.register_outputs({"url": self.url, "log_file": self.log_file, "pid": self.pid})


def _not_installed(packages: Sequence[str]) -> list[str]:
    """List those of Debian's `packages` that the system does not have; all of them where it is no Debian."""
    if not packages:
        return []
    names = {package.partition("=")[0]: package for package in packages}
    query = ["dpkg-query", "--show", "--showformat=${Package} ${Package}:${Architecture} ${db:Status-Status}\n"]
    try:
        answer = subprocess.run([*query, *names], capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return list(packages)
    lines = [line.split() for line in answer.splitlines()]
    installed = {name for *spellings, status in lines if status == "installed" for name in spellings}
    return [package for name, package in names.items() if name not in installed]


class _Process(dynamic.Resource, module="local", name="Process"):
    url: pulumi.Output[str]
    log_file: pulumi.Output[str]
    pid: pulumi.Output[int]
    status: pulumi.Output[str]

    def __init__(self, name: str, args: LocalServiceArgs, opts: pulumi.ResourceOptions) -> None:
        inputs: dict[str, Any] = {
            "state_dir": str(args.state_dir),
            "release": args.release.content_hash,
            "release_path": str(args.release.path),
            "port": args.settings.port,
            "environment": dict(args.environment),
            "python": f"{sys.executable} {platform.python_version()}",
            "supervisor": hashlib.sha256(Path(supervisor.__file__).read_bytes()).hexdigest(),
            "api_key": pulumi.Output.secret(args.api_key) if args.api_key else None,
        }
        outputs = dict.fromkeys(("url", "log_file", "pid", "status"))
        super().__init__(ProcessProvider(), name, {**inputs, **outputs}, opts)
