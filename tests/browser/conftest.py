"""One browser for all tests, and a server of its own for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.app.conftest import StartServer, start_server
from tests.browser import driver
from tools.debian import PackagesError

__all__ = ["StartServer", "start_server"]


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[driver.Browser]:
    try:
        environment = driver.find()
    except PackagesError as error:
        pytest.skip(f"no Chromium: {error}")
    with driver.browser(environment, tmp_path_factory.mktemp("browser")) as started:
        yield started


@pytest.fixture
def browser(chromium: driver.Browser) -> driver.Browser:
    chromium.open("about:blank")
    chromium.console()
    chromium.requested()
    return chromium
