"""`python -m tools.model FROM=model.pth CLASS=net.py:Net ...`: the command behind `make model`.

An argument without `=` names an environment variable that has the value: so make hands over what it was given.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from tools import environment
from tools.console import say
from tools.pulumi_cli import CliError

ROOT = Path(__file__).resolve().parents[2]
_NOT_OURS = frozenset({"PYTHON", "STACK", "YES"})
"""Variables of the Makefile, which it hands over with the others."""


def given(arguments: list[str], environment: Mapping[str, str]) -> dict[str, str]:
    """The settings by name."""
    named = (argument.partition("=") for argument in arguments)
    return {
        name: value if equals else environment.get(name, "") for name, equals, value in named if name not in _NOT_OURS
    }


def main(arguments: list[str]) -> int:
    """Package one model; the exit status."""
    try:
        programs = environment.ensure(ROOT)
        if Path(sys.prefix) != programs.parent:
            os.execv(programs / "python", [str(programs / "python"), "-m", "tools.model", *arguments])  # noqa: S606
        from tools.model import command  # needs what has just been installed

        return command.run(given(arguments, os.environ))
    except (CliError, environment.EnvironmentMissingError, OSError) as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
