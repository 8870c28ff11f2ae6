"""`make example NAME=credit`: prepare one of the worked examples from what its packages ship, and package it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from tools import environment
from tools.console import say
from tools.model.__main__ import main as package

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
OUTPUT = ROOT / ".build/examples"


def names() -> list[str]:
    """The examples that can be packaged so."""
    return sorted(file.parent.name for file in EXAMPLES.glob("*/example.toml"))


def prepare(name: str, into: Path) -> None:
    """Run the example's prepare.py, in an environment of its lock file's packages, on an empty folder."""
    python = sys.executable
    if (EXAMPLES / name / "requirements.lock").is_file():
        python = str(environment.separate(ROOT, f"examples/{name}/requirements.lock") / "python")
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    variables = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([python, str(EXAMPLES / name / "prepare.py"), str(into)], env=variables, check=True)


def options(name: str, folder: Path) -> list[str]:
    """The arguments of `python -m tools.model` for what was prepared in `folder`."""
    said = tomllib.loads((EXAMPLES / name / "example.toml").read_text())
    paths = {option: folder / value for option, value in said.get("files", {}).items()}
    given = {**said.get("options", {}), **paths}
    return [str(folder / said["model"]), f"--name={name}", *(f"--{option}={value}" for option, value in given.items())]


def main(arguments: list[str]) -> int:
    """Prepare and package; the exit status."""
    name = arguments[0] if arguments else ""
    if name not in names():
        say(f"NAME={name} is none of the examples: {', '.join(names())}")
        return 2
    try:
        environment.enter(ROOT, "tools.example", name)
        prepare(name, OUTPUT / name)
    except (environment.EnvironmentMissingError, OSError, subprocess.CalledProcessError) as error:
        say(f"error: {error}")
        return 1
    return package(options(name, OUTPUT / name))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
