"""`python -m tools.model MODEL --class net.py:Net ...`: package one model; `--help` lists the options."""

from __future__ import annotations

import sys
from pathlib import Path

from tools import environment
from tools.console import say

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: list[str]) -> int:
    """Run the command with the clone's own Python; the exit status."""
    try:
        environment.enter(ROOT, "tools.model", *arguments)
        from tools.model import command  # needs what has just been installed

        return command.run(arguments)
    except (environment.EnvironmentMissingError, OSError) as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
