"""Servers for the tests: one that serves the shipped model, and a factory for others. None outlives its test."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.app.harness import Server, slow_model

StartServer = Callable[..., Server]


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine on an event loop of its own, for as long as its mark `within` allows."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    given = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}
    within = pyfuncitem.get_closest_marker("within")
    asyncio.run(asyncio.wait_for(pyfuncitem.obj(**given), within.args[0] if within else None))
    return True


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    """`start_server(VARIABLE="value", ...)`; every one is stopped when the test ends."""
    started: list[Server] = []

    def start(pass_fds: tuple[int, ...] = (), **environment: str) -> Server:
        started.append(Server(environment, pass_fds))
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def start_slow_server(start_server: StartServer, tmp_path: Path) -> StartServer:
    """`start_slow_server(steps, VARIABLE="value", ...)` serves `slow_model`."""
    return lambda steps, **environment: start_server(MODEL_DIR=str(slow_model(tmp_path, steps)), **environment)


@pytest.fixture(scope="module")
def iris() -> Iterator[Server]:
    server = Server({"MAX_BODY_BYTES": "150000", "MAX_ROWS": "1000"})
    yield server
    server.stop()
