"""tools/environment.py and tools/python: when the virtual environment is made, renewed and left alone."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tools import environment

ROOT = Path(__file__).parents[2]
LOCKS = (environment.UV_LOCK, *environment.PROGRAM_LOCKS, environment.TEST_LOCK)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for lock in LOCKS:
        (tmp_path / lock).parent.mkdir(exist_ok=True)
        (tmp_path / lock).write_text(f"{lock}\n")
    return tmp_path


@pytest.fixture
def installs(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What would have been installed, lock files by call."""
    calls: list[list[str]] = []

    def create(home: Path) -> None:
        shutil.rmtree(home, ignore_errors=True)
        (home / "bin").mkdir(parents=True)
        (home / "bin/python").touch()

    monkeypatch.setattr(environment, "create", create)
    monkeypatch.setattr(environment, "install", lambda _root, locks: calls.append(locks))
    return calls


def test_installs_once(clone: Path, installs: list[list[str]]) -> None:
    assert environment.ensure(clone) == clone / ".venv/bin"
    environment.ensure(clone)
    assert installs == [list(environment.PROGRAM_LOCKS)]


@pytest.mark.parametrize("lock", [environment.UV_LOCK, *environment.PROGRAM_LOCKS])
def test_installs_again_when_a_lock_has_changed(clone: Path, installs: list[list[str]], lock: str) -> None:
    environment.ensure(clone)
    (clone / lock).write_text("changed\n")
    environment.ensure(clone)
    environment.ensure(clone)
    assert len(installs) == 2


def test_another_minor_version_of_python_gets_a_new_environment(clone: Path, installs: list[list[str]]) -> None:
    environment.ensure(clone)
    (clone / ".venv/of the old one").touch()
    stamp = clone / ".venv/locks"
    stamp.write_text("Python 3.10\n" + stamp.read_text().partition("\n")[2])
    environment.ensure(clone)
    assert not (clone / ".venv/of the old one").exists()
    assert len(installs) == 2


def test_an_environment_whose_python_is_gone_is_made_again(clone: Path, installs: list[list[str]]) -> None:
    environment.ensure(clone, tests=True)
    (clone / ".venv/bin/python").unlink()
    environment.ensure(clone)
    assert installs == [[*environment.PROGRAM_LOCKS, environment.TEST_LOCK]] * 2


def test_what_the_tests_need_stays(clone: Path, installs: list[list[str]]) -> None:
    environment.ensure(clone)
    environment.ensure(clone, tests=True)
    environment.ensure(clone)
    (clone / "requirements.lock").write_text("changed\n")
    environment.ensure(clone)
    with_tests = [*environment.PROGRAM_LOCKS, environment.TEST_LOCK]
    assert installs == [list(environment.PROGRAM_LOCKS), with_tests, with_tests]


def test_another_python_hands_over_to_the_environments_own(
    clone: Path, installs: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr(environment.os, "execv", lambda _program, command: calls.append(command))
    environment.enter(clone, "tools.run", "up")
    assert calls == [[str(clone / ".venv/bin/python"), "-m", "tools.run", "up"]]
    assert len(installs) == 1
    monkeypatch.setattr(sys, "prefix", str(clone / ".venv"))
    environment.enter(clone, "tools.run", "up")
    assert len(calls) == 1


def test_an_installation_that_failed_is_repeated(
    clone: Path, installs: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_root: Path, _locks: list[str]) -> None:
        raise environment.EnvironmentMissingError

    with monkeypatch.context() as broken:
        broken.setattr(environment, "install", fail)
        with pytest.raises(environment.EnvironmentMissingError):
            environment.ensure(clone)
    environment.ensure(clone)
    assert len(installs) == 1


def test_a_python_without_venv_is_named_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise subprocess.CalledProcessError(1, "ensurepip")

    monkeypatch.setattr(venv, "create", fail)
    with pytest.raises(environment.EnvironmentMissingError, match="python3-venv"):
        environment.create(tmp_path / ".venv")
    assert not (tmp_path / ".venv").exists()


def test_a_clone_whose_path_has_a_colon_is_named(tmp_path: Path) -> None:
    clone = tmp_path / "model:endpoint"
    clone.mkdir()
    with pytest.raises(environment.EnvironmentMissingError, match=f"{clone}, .*whose path has a `:`"):
        environment.create(clone / ".venv")


@pytest.mark.parametrize("uv_status", [0, 1], ids=["uv", "pip, since uv failed"])
def test_the_shells_settings_of_pip_and_uv_change_nothing(
    clone: Path, monkeypatch: pytest.MonkeyPatch, uv_status: int
) -> None:
    programs = clone / ".venv/bin"
    programs.mkdir(parents=True)
    for name, status in (("python", 0), ("uv", uv_status)):
        python(programs, name, f"env >> seen; exit {status}")
    wrong = {"PIP_USER": "1", "PIP_TARGET": "/elsewhere", "UV_SYSTEM_PYTHON": "1", "PYTHONPATH": "/elsewhere"}
    for variable, value in {**wrong, "PIP_INDEX_URL": "https://index.example.com"}.items():
        monkeypatch.setenv(variable, value)
    environment.install(clone, list(environment.PROGRAM_LOCKS))
    seen = (clone / "seen").read_text().splitlines()
    assert not {line.partition("=")[0] for line in seen} & wrong.keys()
    assert "PIP_INDEX_URL=https://index.example.com" in seen


def python(folder: Path, name: str, text: str) -> None:
    """A stand-in for an interpreter: `text` is what it does."""
    file = folder / name
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)


def launch(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    (folder / "clone").mkdir()
    return subprocess.run(
        [ROOT / "tools/python", "-m", "x"],
        cwd=folder / "clone",
        env={"PATH": f"{folder}:/usr/bin:/bin", **variables},
        capture_output=True,
        text=True,
        check=False,
    )


OLD = 'case $1 in --version) echo "Python 3.9.2" ;; -c) exit 1 ;; *) echo old ;; esac'
NEW = 'case $1 in -c) exit 0 ;; *) echo new "$@" ;; esac'


def test_takes_the_first_python_that_is_new_enough(tmp_path: Path) -> None:
    for name in ("python3", "python3.14", "python3.13"):
        python(tmp_path, name, OLD)
    python(tmp_path, "python3.12", NEW)
    assert launch(tmp_path).stdout == "new -m x\n"


def test_says_that_python_is_too_old(tmp_path: Path) -> None:
    for name in ("python3", "python3.14", "python3.13", "python3.12", "python3.11"):
        python(tmp_path, name, OLD)
    answer = launch(tmp_path)
    assert answer.returncode == 1
    assert "Python 3.11 or newer is needed; python3 on PATH says: Python 3.9.2" in answer.stderr


def test_the_home_of_another_python_is_not_passed_on(tmp_path: Path) -> None:
    python(tmp_path, "python3", 'case $1 in -c) exit 0 ;; *) echo "home: $PYTHONHOME" ;; esac')
    assert launch(tmp_path, PYTHONHOME="/elsewhere").stdout == "home: \n"
