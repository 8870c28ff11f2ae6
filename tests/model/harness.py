"""Runs the packaging command as its user does, and scripts in the environments that it uses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools import environment

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Outcome:
    status: int
    output: str
    errors: str
    folder: Path

    @property
    def description(self) -> dict[str, Any]:
        """model.json, of a command that must have succeeded."""
        assert self.status == 0, self.errors
        return json.loads((self.folder / "model.json").read_text())


def package(here: Path, *arguments: str, to: str = "made") -> Outcome:
    """Run the command with these arguments in a folder of the test's, and have it write to `to` there."""
    done = subprocess.run(
        [sys.executable, "-m", "tools.model", *arguments, f"--to={to}"],
        cwd=here,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Outcome(done.returncode, done.stdout, done.stderr, here / to)


def run_in(lock: str, script: str, here: Path) -> str:
    """Run a Python script in the environment of a lock file; returns what it prints."""
    python = environment.separate(ROOT, f"tools/model/requirements-{lock}.lock") / "python"
    command = [python, "-W", "ignore", "-c", script]
    variables = os.environ | {"TMPDIR": str(here), "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'app'}"}
    done = subprocess.run(command, cwd=here, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
