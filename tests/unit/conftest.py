"""The tests of the program's modules: no engine, no network, nothing from the caller's own cloud or cluster."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def _no_ambient_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("AWS_", "PULUMI_")) or name == "KUBECONFIG":
            monkeypatch.delenv(name)
