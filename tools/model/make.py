"""`make model FROM=model.pth CLASS=net.py:Net`: the command with its options as make's variables.

The Makefile names the variables of make's command line; make has exported their values. FROM is MODEL, and any other is
the option of its name: CLASS is --class, MAX_SIZE is --max-size.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from tools.console import say
from tools.model.__main__ import main

_OTHERS = frozenset({"PYTHON", "STACK", "YES"})
"""The Makefile's other variables."""


def arguments(variables: Mapping[str, str]) -> list[str]:
    """Translate the variables; ValueError when a name is not in capitals."""
    small = [name for name in variables if not name.isupper()]
    if small:
        raise ValueError(f"{small[0]} is no setting, because those are in capitals: {small[0].upper()}=")
    given = {name: value for name, value in variables.items() if name not in _OTHERS}
    model = [given.pop("FROM")] if "FROM" in given else []
    return model + [f"--{name.lower().replace('_', '-')}={value}" for name, value in given.items()]


if __name__ == "__main__":
    try:
        translated = arguments({name: os.environ.get(name, "") for name in sys.argv[1:]})
    except ValueError as error:
        say(f"error: {error}")
        sys.exit(1)
    sys.exit(main(translated))
