"""The base image where none can be pulled: Debian's own Python, made once a user and pushed to the tests' registry."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
from pathlib import Path

from tests.e2e.providers.registry import Blob, push_image
from tests.standins.cloud import CloudError
from tools import debian
from tools.cache import default_cache, machine, once
from tools.console import say

SUITE = "bookworm"
PACKAGES = ("ca-certificates", "python-is-python3", "python3", "python3-pip")
_LEFT_OUT = ("doc", "info", "locale", "man")
_OPTIONS = (
    "--variant=minbase",
    f"--include={','.join(PACKAGES)}",
    '--aptopt=Acquire::Languages "none"',
    *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _LEFT_OUT),
)
_FORMAT = 1
"""Of the cached folder."""


def base_image(registry: str) -> str:
    """Push the base image to `host:port`; `host:port/name@sha256:...`, for the config key baseImage."""
    folder = layer()
    diff_id = (folder / "diff_id").read_text()
    config = {
        "architecture": "arm64" if machine().endswith("arm64") else "amd64",
        "os": "linux",
        "config": {"Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8"], "Cmd": ["python3"]},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    }
    return push_image(registry, "python", config, [Blob.of((folder / "layer.tar.gz").read_bytes())])


def layer() -> Path:
    """The folder with the image's layer, from the cache or made now."""
    pins = json.dumps([SUITE, _OPTIONS, machine(), _FORMAT])
    return once(default_cache() / f"base-{SUITE}-{hashlib.sha256(pins.encode()).hexdigest()[:12]}", _make)


def _make(folder: Path) -> None:
    say("Base image: making Debian's Python, a minute the first time")
    tar = folder / "layer.tar"
    tools = debian.environment({"mmdebstrap": "mmdebstrap"})
    environment = {**os.environ, **tools, "SOURCE_DATE_EPOCH": "0"}
    command = ["mmdebstrap", *_OPTIONS, SUITE, str(tar)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CloudError(f"mmdebstrap failed:\n{done.stderr[-2000:]}")
    content = tar.read_bytes()
    (folder / "diff_id").write_text(f"sha256:{hashlib.sha256(content).hexdigest()}")
    (folder / "layer.tar.gz").write_bytes(gzip.compress(content, 6, mtime=0))
    tar.unlink()
