"""The program's side of the contract against the server's own, and the image's."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra import server_contract
from server.settings import read_settings

APP = Path(__file__).parents[2] / "app"


def test_the_server_has_the_same_defaults() -> None:
    server = read_settings({})
    assert server.port == server_contract.CONTAINER_PORT
    assert server.drain_seconds == server_contract.DRAIN_SECONDS
    assert server.grace_seconds == server_contract.DEFAULT_GRACE_SECONDS


def test_the_server_takes_the_longest_time_out_and_no_longer_one() -> None:
    longest = server_contract.MAX_TIMEOUT_MS
    assert read_settings({"TIMEOUT_MS": str(longest)}).timeout_ms == longest
    with pytest.raises(Exception, match="TIMEOUT_MS"):
        read_settings({"TIMEOUT_MS": str(longest + 1)})


def test_the_image_runs_as_the_same_user() -> None:
    assert f"USER {server_contract.USER_ID}:{server_contract.USER_ID}" in (APP / "Dockerfile").read_text()


@pytest.mark.parametrize(
    ("timeout_ms", "seconds"),
    [
        (None, 25),
        ("1000", 25),
        ("25000", 25),
        ("25001", 26),
        ("90000", 90),
        ("3600000", 3600),
        ("3600001", 25),
        ("-1", 25),
        ("soon", 25),
        ("", 25),
    ],
)
def test_a_time_out_that_the_config_raises_is_waited_for(timeout_ms: str | None, seconds: int) -> None:
    environment = {} if timeout_ms is None else {"TIMEOUT_MS": timeout_ms}
    assert server_contract.grace_seconds(environment) == seconds


def test_a_pod_outlives_its_hook_its_drain_and_its_longest_request() -> None:
    assert server_contract.termination_grace_seconds(120, 25) == 156
