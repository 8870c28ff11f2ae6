"""Servers for packaged models, each with the Python that has its packages; none outlives its test."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra import model_environment
from tests.app.harness import Server
from tests.model.harness import ROOT

Serve = Callable[[Path], Server]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """`serve(folder)`: the real server with that model."""
    servers: list[Server] = []

    def start(folder: Path) -> Server:
        lock = folder / "requirements.lock"
        python = model_environment.ensure(ROOT / "app/requirements.lock", lock) if lock.is_file() else sys.executable
        servers.append(Server({"MODEL_DIR": str(folder)}, python=str(python)))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
