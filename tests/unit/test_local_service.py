"""LocalService on the wire, and what makes one process differ from another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from infra.build_context import Release
from infra.config.load import read
from infra.config.schema import variable_problem
from infra.local import component as local
from infra.local import supervisor
from infra.local.component import LocalService, LocalServiceArgs
from tests.unit import mocked

ROOT = Path(__file__).parents[2]
RELEASE = Release(path=Path(".build"), content_hash="c0ffee", model_name="iris", model_version="1", example="{}")


def inputs(environment: dict[str, Any]) -> dict[str, Any]:
    """What the process is asked to be, by the config."""
    raw = {"environment": json.dumps(environment)}
    settings = read(raw, set(), project="model-endpoint", stack="dev", region=None, root=ROOT)
    run = mocked.run(lambda: LocalService("model", LocalServiceArgs.of(settings, RELEASE)))
    return run.named("model-process").inputs


def test_the_environment_of_the_config_is_an_input_of_the_process() -> None:
    assert inputs({})["environment"] == {}
    assert inputs({"MAX_ROWS": 1, "LOG_LEVEL": "debug"})["environment"] == {"LOG_LEVEL": "debug", "MAX_ROWS": "1"}


@pytest.fixture
def serving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run whose supervisor says that it serves."""
    monkeypatch.setattr(supervisor, "current", lambda _: tmp_path)
    monkeypatch.setattr(supervisor, "ask", lambda _: supervisor.Status(1, 8080, serving=True))
    return tmp_path


def test_another_environment_is_another_process(serving: Path) -> None:
    wanted = inputs({"MAX_ROWS": 1})
    (serving / "spec.json").write_text(json.dumps(local._wanted(wanted)))
    assert local._deviation(inputs({"MAX_ROWS": "1"})) == ""
    assert local._deviation(inputs({"MAX_ROWS": 2})) == "runs with another environment"
    assert local._deviation(inputs({})) == "runs with another environment"


def test_a_run_from_before_there_was_an_environment_is_replaced(serving: Path) -> None:
    wanted = inputs({})
    spec = local._wanted(wanted)
    del spec["environment"]
    (serving / "spec.json").write_text(json.dumps(spec))
    assert local._deviation(wanted) == "runs with another environment"


def test_what_is_given_goes_before_what_is_inherited_and_the_contract_before_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "UTC")
    given = {"TZ": "Europe/Paris", "MAX_ROWS": "1", "LISTEN_FD": "9"}
    told = supervisor.server_environment(given, 3, 4, tmp_path / "none")
    assert (told["TZ"], told["MAX_ROWS"], told["LISTEN_FD"], told["READY_FD"]) == ("Europe/Paris", "1", "3", "4")
    assert "API_KEY_FILE" not in told


def test_every_variable_that_the_supervisor_sets_is_refused_in_the_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor.os, "environ", {})
    (tmp_path / "api-key").touch()
    told = supervisor.server_environment({}, 3, 4, tmp_path / "api-key")
    assert "API_KEY_FILE" in told
    assert {variable_problem(name, "x") for name in told} == {"is set by the program itself"}
