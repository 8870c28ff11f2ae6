"""The names that a pickle would import if it were loaded, read from its opcodes."""

from __future__ import annotations

import io
import pickletools
import zipfile
from pathlib import Path
from typing import IO

_LEGACY_PICKLES = 5
"""Magic number, protocol, system, the object, its storages' keys."""


def imports(content: bytes) -> list[str]:
    """List the dotted names in order; ValueError when the content is not a pickle (bytes may follow its end)."""
    return imports_from(io.BytesIO(content))


def imports_from(file: IO[bytes]) -> list[str]:
    """List those of the pickle at the file's position, which moves behind it."""
    found: list[str] = []
    strings: list[str] = []  # protocol 4 takes a name from the two on top of its stack
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in ("GLOBAL", "INST"):
            found.append(str(argument).replace(" ", "."))
        elif opcode.name == "STACK_GLOBAL":
            found.append(".".join(strings[-2:]))
        elif isinstance(argument, str):
            strings.append(argument)
    return list(dict.fromkeys(found))


def imports_of_torch(path: Path) -> list[str]:
    """List those of a torch.save file: its data.pkl or, before PyTorch 1.6, its pickles one after another."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return [
                    each
                    for name in archive.namelist()
                    if name.endswith("data.pkl")
                    for each in imports(archive.read(name))
                ]
        found: list[str] = []
        with path.open("rb") as file:
            for _ in range(_LEGACY_PICKLES):
                found += imports_from(file)
    except (ValueError, OSError, zipfile.BadZipFile):
        return []
    return found
