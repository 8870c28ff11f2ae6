"""Servers for packaged models; none outlives its test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.app.harness import Server

Ask = Callable[[Path, str], Any]


@pytest.fixture
def ask() -> Iterator[Ask]:
    """`ask(folder, body)`: what the real server answers over HTTP, with that folder for its model."""
    servers: list[Server] = []

    def post(folder: Path, body: str) -> Any:
        servers.append(Server({"MODEL_DIR": str(folder)}))
        answer = servers[-1].post(body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    yield post
    for server in servers:
        server.stop()
