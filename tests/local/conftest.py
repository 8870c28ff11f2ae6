"""Stacks for these tests; nothing of them outlives their module, however it ends."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.local.driver import Project, Stack
from tools import pulumi_cli


@pytest.fixture(scope="session")
def cli() -> Path:
    return pulumi_cli.ensure(pulumi_cli.Source())


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, cli: Path) -> Iterator[Project]:
    folder = tmp_path_factory.mktemp("local")
    project = Project(folder, cli)
    yield project
    project.end()
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def _stack(project: Project) -> Stack:
    return Stack(project, "first")


@pytest.fixture
def stack(_stack: Stack) -> Stack:
    """A stack that is up with the app as it is, on a port of its own choice."""
    _stack.project.reset()
    _stack.up()
    return _stack
