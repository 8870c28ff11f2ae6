"""A folder with the author's own code: what of it is part of the model, and its digest."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from infra.git_lfs import is_pointer
from tools.model.errors import ModelError

_WRITTEN = frozenset({"model.json", "requirements.lock"})
"""What packaging itself writes into such a folder."""


def files(folder: Path) -> dict[str, Path]:
    """The files of the model by their path in the folder: not hidden ones, caches and virtual environments.

    ModelError names what cannot be part of a model.
    """
    found = {file.relative_to(folder).as_posix(): file for file in _walk(folder)}
    outside = [name for name, file in found.items() if not file.resolve().is_relative_to(folder.resolve())]
    if outside:
        raise ModelError(f"{folder}/{outside[0]} is a link to a file outside the folder: copy the file there instead")
    missing = [name for name, file in found.items() if not file.is_file()]
    if missing:
        raise ModelError(f"{folder}/{missing[0]} is neither a file nor a folder: remove it, or mend the link")
    pointers = [name for name, file in found.items() if is_pointer(file)]
    if pointers:
        raise ModelError(
            f"{folder}/{pointers[0]} is a Git LFS pointer, not the file itself; run `git lfs pull`, which fetches it"
        )
    return {name: file for name, file in found.items() if name not in _WRITTEN}


def _walk(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if _is_left_out(entry):
            continue
        if entry.is_dir():
            yield from _walk(entry)
        else:
            yield entry


def _is_left_out(entry: Path) -> bool:
    return entry.name.startswith(".") or entry.name == "__pycache__" or (entry / "pyvenv.cfg").is_file()


def check_complete(folder: Path) -> None:
    """Raise a ModelError when a folder that is to be served where it stands holds code that is not part of the model.

    The caches of Python's compiler are removed.
    """
    for cache in list(folder.rglob("__pycache__")):
        shutil.rmtree(cache, ignore_errors=True)
    for entry in sorted(folder.rglob("*.py")):
        if any(_is_left_out(parent) for parent in (entry, *entry.parents) if parent.is_relative_to(folder)):
            raise ModelError(
                f"{folder}/{entry.relative_to(folder)} is code, but hidden or in a virtual environment, so it is not"
                f" part of the model:\n  move it away, or have a copy written without it: --to models/{folder.name}"
            )


def digest(contents: dict[str, Path]) -> str:
    """SHA-256 (hex) over the paths and the contents."""
    whole = hashlib.sha256()
    for name, file in contents.items():
        whole.update(f"{name}\0{file_digest(file)}\n".encode())
    return whole.hexdigest()


def file_digest(file: Path) -> str:
    """SHA-256 (hex) of a file of any size."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
