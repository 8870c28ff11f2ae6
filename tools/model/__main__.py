"""`python -m tools.model MODEL --class net.py:Net ...`: package one model; `--help` lists the options."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tools import environment
from tools.console import say
from tools.pulumi_cli import CliError

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: list[str]) -> int:
    """Run the command with the clone's own Python; the exit status."""
    try:
        programs = environment.ensure(ROOT)
        if Path(sys.prefix) != programs.parent:
            os.execv(programs / "python", [str(programs / "python"), "-m", "tools.model", *arguments])  # noqa: S606  # in place of this process
        from tools.model import command  # needs what has just been installed

        return command.run(arguments)
    except (CliError, environment.EnvironmentMissingError, OSError) as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
