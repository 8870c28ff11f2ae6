"""tools/go.py: pinned modules, with the user's way to reach them and no other setting of theirs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tools import go

PROGRAM = 'package main\n\nvar said = "nothing"\n\nfunc main() { println(said) }\n'


@pytest.fixture
def module(tmp_path: Path) -> Path:
    if reason := go.unavailable():
        pytest.skip(reason)
    folder = tmp_path / "module"
    folder.mkdir()
    (folder / "go.mod").write_text("module greeting\n\ngo 1.24\n")
    (folder / "main.go").write_text(PROGRAM)
    return folder


def test_builds_the_same_program_whatever_the_users_settings(
    module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go.build(module, ".", tmp_path / "one", name="one", linker_flags="-X main.said=hello")
    monkeypatch.setenv("GOFLAGS", "-tags=other -race")
    monkeypatch.setenv("GOWORK", str(tmp_path / "none.work"))
    monkeypatch.setenv("CGO_ENABLED", "1")
    go.build(module, ".", tmp_path / "other", name="other", linker_flags="-X main.said=hello")
    assert (tmp_path / "one/greeting").read_bytes() == (tmp_path / "other/greeting").read_bytes()
    assert subprocess.run([tmp_path / "one/greeting"], capture_output=True, text=True, check=True).stderr == "hello\n"


def test_a_program_that_does_not_compile_shows_what_go_says(module: Path, tmp_path: Path) -> None:
    (module / "main.go").write_text("package main\n\nfunc main() { missing() }\n")
    with pytest.raises(go.GoError, match="undefined: missing"):
        go.build(module, ".", tmp_path, name="none")


def test_says_what_to_install_where_there_is_no_go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "https://go.dev/dl/" in (go.unavailable() or "")
