"""The model folder: written whole or not at all."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from tools.model.errors import ModelError

_FILES = frozenset({"model.json", "model.onnx", "model.pt2", "hooks.py"})


def check_replaceable(folder: Path, *, replace: bool, hooks: bool) -> None:
    """Raise a ModelError when writing the folder would lose something that this command did not write."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ModelError(f"--to {folder} is a file; name a folder")
    lost = sorted(entry.name for entry in folder.iterdir() if entry.name not in _FILES)
    if lost:
        raise ModelError(
            f"--to {folder} holds more than a model: {', '.join(lost[:10])}; move it, or name another folder"
        )
    if replace:
        return
    if (folder / "hooks.py").exists() and not hooks:
        raise ModelError(f"{folder}/hooks.py would be lost: --hooks {folder}/hooks.py keeps it, --replace drops it")
    if any(folder.iterdir()) and not _written_here(folder / "model.json"):
        raise ModelError(f"{folder} holds a model that this command did not write: name another by --to, or --replace")


def _written_here(description: Path) -> bool:
    try:
        members = json.loads(description.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(members, dict) and "source" in cast(dict[str, Any], members)


def write(folder: Path, files: dict[str, bytes], approve: Callable[[Path], None]) -> None:
    """Write the files to a folder beside it, have that approved, and only then put it in the old one's place."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        new, old = Path(scratch, "new"), Path(scratch, "old")
        new.mkdir()
        for name, content in files.items():
            (new / name).write_bytes(content)
        approve(new)
        if folder.exists():
            folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
