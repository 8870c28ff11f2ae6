"""What the engine tests share.

They always use the stand-ins, also on a machine that has the official plugins: those would need an AWS account, a
Docker daemon and a cluster. The copy of the project has a Pulumi home of its own, so that the plugins of the user's
cache are out of sight and the stand-ins on PATH are all that the CLI finds.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.engine_project import NO_CLUSTER, Project, find_cli

MakeProject = Callable[[str], Project]


@pytest.fixture(scope="session")
def cli() -> Path:
    return find_cli()


@pytest.fixture(scope="module")
def make_project(cli: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeProject:
    """Makes a copy of the project with an empty stack of the given name."""

    def make(stack: str) -> Project:
        project = Project.make(tmp_path_factory.mktemp(stack), cli, stack)
        project.environment |= NO_CLUSTER
        return project

    return make
