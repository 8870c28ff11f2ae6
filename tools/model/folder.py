"""The model folder: written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from tools.model.errors import ModelError

_FILES = frozenset({"model.json", "model.onnx", "model.pt2", "hooks.py", "requirements.txt", "requirements.lock"})
_AUTHORS = {"hooks.py": "--hooks", "requirements.txt": "--requirements"}
"""Files that the user may have written, and the option that names them."""


def check_replaceable(folder: Path, *, replace: bool, given: frozenset[str]) -> None:
    """Raise a ModelError when writing the folder would lose something that this command did not write.

    `given` are the files of _AUTHORS that the command has anew.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ModelError(f"--to {folder} is a file; name a folder")
    description = _description(folder / "model.json")
    source = description.get("source")
    ours = _FILES | set(source.get("files", ()) if isinstance(source, dict) else ())
    files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if not file.is_dir()}
    lost = sorted(name for name in files if name not in ours and "__pycache__" not in name)
    if lost:
        raise ModelError(
            f"--to {folder} holds more than a model: {', '.join(lost[:10])}; move it, or name another folder"
        )
    if replace:
        return
    for name, option in _AUTHORS.items():
        if name in files and name not in given:
            raise ModelError(f"{folder}/{name} would be lost: {option} {folder}/{name} keeps it, --replace drops it")
    code: dict[str, str] = description["predictor"]["sha256"] if "predictor" in description else {}
    edited = [name for name in code if name in files and _digest(files[name]) != code[name]]
    if edited:
        raise ModelError(f"{folder}/{edited[0]} was changed there, which would be lost: move it, or --replace drops it")
    if any(folder.iterdir()) and source is None:
        raise ModelError(f"{folder} holds a model that this command did not write: name another by --to, or --replace")


def _description(path: Path) -> dict[str, Any]:
    try:
        members = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return cast(dict[str, Any], members) if isinstance(members, dict) else {}


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@contextmanager
def written(folder: Path) -> Generator[Path]:
    """Give a new folder beside it to be filled, and put that in its place when nothing was raised."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        new, old = Path(scratch, "new"), Path(scratch, "old")
        new.mkdir()
        yield new
        if folder.exists():
            folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def completed(folder: Path) -> Generator[Path]:
    """Give a new folder to be filled, and put what `folder` lacks or has in an older state into it, file by file.

    For a folder that its author works in: nothing of it is removed.
    """
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        new = Path(scratch, "new")
        new.mkdir()
        yield new
        for name in ("requirements.lock", "model.json"):  # the description last: it declares the rest
            if (new / name).exists():
                os.replace(new / name, folder / name)
            else:
                (folder / name).unlink(missing_ok=True)


def fill(folder: Path, files: Mapping[str, bytes | Path]) -> None:
    """Write the files, each from its content or from where it lies."""
    for name, content in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            target.write_bytes(content)
        else:
            shutil.copyfile(content, target)
