"""The tests of the program's modules: no engine, no network, nothing from the caller's own cloud or cluster."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pulumi.runtime import sync_await


@pytest.fixture(autouse=True)
def _event_loop() -> None:
    """Outputs need a current event loop, and whatever ran in this process before may have left none."""
    sync_await._ensure_event_loop()


@pytest.fixture(autouse=True)
def _no_ambient_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("AWS_", "PULUMI_")) or name == "KUBECONFIG":
            monkeypatch.delenv(name)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's home folder, empty."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path
