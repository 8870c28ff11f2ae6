"""What the folder of a service of the user's own says of itself: Dockerfile, Procfile, requirements."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any, cast

from infra import model_lock

DOCKERFILE = "Dockerfile"
EXAMPLE = "example.json"
"""JSON body of a prediction, where the config key `example` has none."""
PROCFILE = "Procfile"

_LOCKS = (model_lock.LOCK, model_lock.REQUIREMENTS)


def procfile_command(folder: Path) -> str | None:
    """Return the command of the line `web: ...` in the folder's Procfile, or None."""
    file = folder / PROCFILE
    found = re.search(r"^web:[ \t]*(\S.*)$", file.read_text(), re.MULTILINE) if file.is_file() else None
    return found[1].strip() if found else None


def suggested_command(folder: Path) -> str:
    """Write what the Dockerfile's own last CMD runs, as the value of `command`; a placeholder where it says none."""
    file = folder / DOCKERFILE
    for name, rest in reversed(instructions(file.read_text()) if file.is_file() else []):
        if name == "CMD":
            return shlex.join(_words(rest)) or rest
    return "<program> <arguments>"


def _words(text: str) -> list[str]:
    """Read the exec form of an instruction; none for the shell form."""
    try:
        words: Any = json.loads(text)
    except ValueError:
        return []
    return [str(word) for word in cast("list[Any]", words)] if isinstance(words, list) else []


def instructions(text: str) -> list[tuple[str, str]]:
    """List a Dockerfile's instructions, each with its name in capitals and what follows it."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\[ \t]*\n", " ", "\n".join(lines))
    split = [line.strip().partition(" ") for line in joined.splitlines() if line.strip()]
    return [(name.upper(), rest.strip()) for name, _, rest in split]


def locked_requirements(folder: Path) -> Path | None:
    """Find the folder's requirements with a hash for each package, from which an environment is made; None: no such."""
    for name in _LOCKS:
        file = folder / name
        try:
            if file.is_file() and model_lock.parse(file.read_text()).pins:
                return file
        except ValueError:
            continue
    return None


def uses_environment(command: str) -> bool:
    """Tell whether `command` names its program without a path, so that an environment of its folder's may have it."""
    return "/" not in command.split()[0]


def lacks_hashes(folder: Path, command: str) -> bool:
    """Tell whether `command` would be given an environment, had the folder's requirements their hashes."""
    asked = (folder / model_lock.REQUIREMENTS).is_file()
    return asked and uses_environment(command) and locked_requirements(folder) is None
