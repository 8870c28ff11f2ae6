"""tools/state.py: the user's own login is left alone; without one the clone keeps its own state."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from tools import state


@pytest.fixture
def empty(tmp_path: Path) -> dict[str, str]:
    return {"PULUMI_HOME": str(tmp_path / "home")}


def credentials(environment: dict[str, str], text: str) -> None:
    home = Path(environment["PULUMI_HOME"])
    home.mkdir()
    (home / "credentials.json").write_text(text)


def test_without_a_login_state_and_passphrase_stay_in_the_clone(tmp_path: Path, empty: dict[str, str]) -> None:
    found = state.variables(tmp_path, empty)
    assert found["PULUMI_BACKEND_URL"] == f"file://{tmp_path}/.pulumi-state"
    file = Path(found["PULUMI_CONFIG_PASSPHRASE_FILE"])
    assert file.parent == tmp_path / ".pulumi-state"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(file.read_text()) >= 32
    assert [other.name for other in file.parent.iterdir()] == ["passphrase"]


def test_the_passphrase_stays_and_differs_between_clones(tmp_path: Path, empty: dict[str, str]) -> None:
    def passphrase(clone: str) -> str:
        (tmp_path / clone).mkdir(exist_ok=True)
        return Path(state.variables(tmp_path / clone, empty)["PULUMI_CONFIG_PASSPHRASE_FILE"]).read_text()

    assert passphrase("a") == passphrase("a")
    assert passphrase("a") != passphrase("b")


@pytest.mark.parametrize("name", ["PULUMI_CONFIG_PASSPHRASE", "PULUMI_CONFIG_PASSPHRASE_FILE"])
@pytest.mark.parametrize("value", ["mine", ""])
def test_a_passphrase_of_the_users_own_is_kept(tmp_path: Path, empty: dict[str, str], name: str, value: str) -> None:
    assert "PULUMI_CONFIG_PASSPHRASE_FILE" not in state.variables(tmp_path, empty | {name: value})


@pytest.mark.parametrize("name", ["PULUMI_BACKEND_URL", "PULUMI_ACCESS_TOKEN"])
def test_a_login_in_the_environment_is_used_untouched(tmp_path: Path, empty: dict[str, str], name: str) -> None:
    assert state.variables(tmp_path, empty | {name: "x"}) == {}
    assert list(tmp_path.iterdir()) == []


def test_a_login_in_the_credentials_file_is_used_untouched(tmp_path: Path, empty: dict[str, str]) -> None:
    credentials(empty, json.dumps({"current": "https://api.pulumi.com"}))
    assert state.variables(tmp_path, empty) == {}


@pytest.mark.parametrize("text", ["{}", '{"current": ""}', "[]", "not json"])
def test_a_credentials_file_without_a_login_is_none(empty: dict[str, str], text: str) -> None:
    credentials(empty, text)
    assert not state.has_login(empty)
