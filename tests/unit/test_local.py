"""Target `local`: the process's inputs, its drift, its environment, and the provider's address in the state."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

import dill
import pytest
from pulumi.dynamic.dynamic import serialize_provider

from infra.build_context import Release
from infra.config.load import parse_settings
from infra.config.schema import broken_rule
from infra.local import provider, supervisor
from infra.local.component import LocalService, LocalServiceArgs, _not_installed
from infra.local.provider import Drift, LocalServiceError, ProcessProvider
from infra.server_contract import RESERVED_VARIABLES
from tests.unit import mocked

ROOT = Path(__file__).parents[2]
RELEASE = Release(path=Path(".build"), content_hash="c0ffee", model_name="iris", model_version="1", example="{}")


def inputs(environment: dict[str, Any]) -> dict[str, Any]:
    raw = {"environment": json.dumps(environment)}
    settings = parse_settings(raw, set(), project="model-endpoint", stack="dev", region=None, root=ROOT)
    run = mocked.run(lambda: LocalService("model", LocalServiceArgs.from_settings(settings, RELEASE)))
    return run.named("model-process").inputs


def test_the_environment_of_the_config_is_an_input_of_the_process() -> None:
    assert inputs({})["environment"] == {}
    assert inputs({"MAX_ROWS": 1, "LOG_LEVEL": "debug"})["environment"] == {"LOG_LEVEL": "debug", "MAX_ROWS": "1"}


@pytest.fixture
def serving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run whose supervisor says that it serves."""
    monkeypatch.setattr(supervisor, "current", lambda _: tmp_path)
    monkeypatch.setattr(supervisor, "query_status", lambda _: supervisor.Status(1, 8080, serving=True))
    return tmp_path


def test_another_environment_is_another_process(serving: Path) -> None:
    wanted = inputs({"MAX_ROWS": 1})
    (serving / "spec.json").write_text(json.dumps(provider._spec(wanted)))
    assert provider._drift(inputs({"MAX_ROWS": "1"})) is None
    assert provider._drift(inputs({"MAX_ROWS": 2})) == Drift("runs with another environment", serving=True)
    assert provider._drift(inputs({})) == Drift("runs with another environment", serving=True)


def test_a_run_from_before_there_was_an_environment_is_replaced(serving: Path) -> None:
    wanted = inputs({})
    spec = provider._spec(wanted)
    del spec["environment"]
    (serving / "spec.json").write_text(json.dumps(spec))
    assert provider._drift(wanted) == Drift("runs with another environment", serving=True)


def test_a_run_whose_environment_is_gone_is_replaced(serving: Path, tmp_path: Path) -> None:
    spec = provider._spec(inputs({}))
    (serving / "spec.json").write_text(json.dumps({**spec, "server_python": str(tmp_path / "bin/python")}))
    assert provider._drift(inputs({})) == Drift("runs in an environment that is no longer there", serving=True)


def test_a_plain_release_runs_with_the_programs_own_python(tmp_path: Path) -> None:
    assert provider._server_python(tmp_path) == sys.executable
    (tmp_path / "dependencies").mkdir()
    (tmp_path / "dependencies/requirements.lock").touch()  # Debian packages alone
    assert provider._server_python(tmp_path) == sys.executable


def dpkg(folder: Path, *installed: str) -> None:
    """A stand-in that knows these packages, and one that was removed."""
    lines = "".join(f"echo '{name} {name}:amd64 installed'\n" for name in installed)
    (folder / "dpkg-query").write_text(f"#!/bin/sh\n{lines}echo 'gone gone:amd64 config-files'\nexit 1\n")
    (folder / "dpkg-query").chmod(0o755)


def test_debian_packages_that_are_not_installed_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    wanted = ["ffmpeg", "libsndfile1=1.2", "gone", "libgomp1:amd64"]
    assert _not_installed(wanted) == wanted, "a system without dpkg has none of them"
    dpkg(tmp_path, "libsndfile1", "libgomp1")
    assert _not_installed(wanted) == ["ffmpeg", "gone"]
    assert _not_installed([]) == []


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
    given = {name: broken_rule(name, "x") for name in told if not name.startswith("PYTHON")}
    assert given == {name: RESERVED_VARIABLES[name] for name in given}
    assert all(str(rule).startswith("is set by the program itself") for rule in given.values())


def test_a_renamed_stack_is_updated_and_takes_no_folder_that_holds_something(tmp_path: Path) -> None:
    old, new = tmp_path / "dev", tmp_path / "renamed"
    for folder in (old, new):
        folder.mkdir()
        (folder / supervisor.LOG).touch()
    before, wanted = {"state_dir": str(old)}, {"state_dir": str(new)}
    assert ProcessProvider().diff("", before, wanted).replaces is None
    with pytest.raises(LocalServiceError, match=r"cannot be moved to .*renamed: Directory not empty"):
        ProcessProvider().update("", before, wanted)
    assert (old / supervisor.LOG).exists()


BEFORE_IT_HAD_A_MODULE = "gASVIAAAAAAAAACMC2luZnJhLmxvY2FslIwJX1Byb3ZpZGVylJOUKYGULg=="
"""The provider as states hold it that were written when it was `infra.local:_Provider`."""


def test_a_provider_in_an_old_state_still_loads() -> None:
    old = base64.b64decode(BEFORE_IT_HAD_A_MODULE)
    assert b"infra.local" in old
    assert b"_Provider" in old
    assert isinstance(dill.loads(old), ProcessProvider)  # noqa: S301  # what Pulumi's host of dynamic providers does


def test_the_state_names_the_provider_by_its_address_and_holds_no_code() -> None:
    pickled = base64.b64decode(serialize_provider(ProcessProvider()))
    assert b"infra.local.provider" in pickled
    assert b"ProcessProvider" in pickled
    assert len(pickled) < 100, "pickled by value it would run as it was when the stack was made"
