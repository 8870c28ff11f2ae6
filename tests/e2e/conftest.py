"""What the tests on the cluster share: one cluster, one builder, one stack that is up, and the figures.

The files test_stack_*.py run in their order on one stack; each leaves it serving the project's own model or another
good one, and `served` heals what a failed test has left.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import providers, timeline
from tests.e2e.cluster import Cluster, cluster, unavailable
from tests.e2e.providers import base, builder
from tests.e2e.providers.builder import Builder
from tests.e2e.stack import Stack, configured
from tests.support.engine_project import find_cli
from tests.support.figures import Figures

_FIGURES = pytest.StashKey[Figures]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--keep-figures", type=Path, help="write the figures of a whole run into this file")


@pytest.fixture(scope="session")
def live() -> Iterator[Cluster]:
    if reason := unavailable() or providers.unavailable():
        pytest.skip(reason)
    with cluster() as started:
        yield started


@pytest.fixture(scope="session")
def daemon(live: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    with builder.builder(tmp_path_factory.mktemp("builder"), [live.registry]) as started:
        yield started


@pytest.fixture(scope="session")
def base_image(live: Cluster) -> str:
    return base.base_image(live.registry)


@pytest.fixture(scope="session")
def stack(live: Cluster, daemon: Builder, base_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    made = Stack.start(tmp_path_factory.mktemp("stack"), find_cli(), "e2e", live, daemon)
    try:
        made.configure(configured(live, base_image))
        with timeline.Timeline(made) as line:
            made.up()
        made.first = line.moments
        yield made
    finally:
        made.pulumi("cancel", "--yes")
        made.pulumi("destroy", "--yes", "--skip-preview")


@pytest.fixture
def served(stack: Stack) -> Stack:
    stack.heal()
    return stack


@pytest.fixture(scope="session")
def figures(pytestconfig: pytest.Config) -> Figures:
    return pytestconfig.stash.setdefault(_FIGURES, Figures())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    found = config.stash.get(_FIGURES, Figures())
    if found.results():
        terminalreporter.section("figures")
        terminalreporter.write_line(found.table())
        file: Path | None = config.getoption("--keep-figures")
        if file and found.complete():
            found.keep(file)
    terminalreporter.write_line(f"tests on the cluster: {len(terminalreporter.stats.get('skipped', []))} skipped")
