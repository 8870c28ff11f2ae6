"""A Docker client that builds with BuildKit: one before 23 has it built in, a newer one needs the buildx plugin."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

from tests.standins.cloud import CloudError

CLIENT = "E2E_DOCKER_CLIENT"
"""Names the client, for processes that would not find it."""


@cache
def find(path: str = "") -> Path:
    """The one that CLIENT names, else the first one on PATH and then on `path`."""
    if named := os.environ.get(CLIENT):
        return Path(named)
    seen: list[str] = []
    for folder in [*os.environ.get("PATH", os.defpath).split(os.pathsep), *path.split(os.pathsep)]:
        program = shutil.which("docker", path=folder)
        if program:
            if _builds(program):
                return Path(program)
            seen.append(program)
    without = f" ({', '.join(dict.fromkeys(seen))} has no buildx)" if seen else ""
    raise CloudError(f"there is no docker on PATH that builds with BuildKit{without}: install Debian's docker.io")


def _builds(program: str) -> bool:
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    major = re.search(r"version (\d+)\.", version)
    if major and int(major[1]) < 23:
        return True
    return subprocess.run([program, "buildx", "version"], capture_output=True, check=False).returncode == 0
