"""Pickles: which environment has what they import, and the way from one to a file that is data only."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from pathlib import Path

from tools.model import sandbox
from tools.model.errors import ModelError

_SCRIPT = Path(__file__).with_name("resave.py")
_SEARCHED_BYTES = 2**22
_LOCKS = {b"catboost": "catboost", b"xgboost": "trees", b"lightgbm": "trees"}
"""Lock of the environment that has a package, which a pickle names in full."""


def lock_for(path: Path) -> str:
    """Tell which environment the pickle needs by the packages that its beginning names; it is not loaded."""
    content = _beginning(path)
    return next((lock for package, lock in _LOCKS.items() if package in content), "sklearn")


def _beginning(path: Path) -> bytes:
    for opened in (gzip.open, bz2.open, lzma.open):
        try:
            with opened(path) as file:
                return file.read(_SEARCHED_BYTES)
        except (OSError, EOFError, lzma.LZMAError, zlib.error):
            continue
    with path.open("rb") as file:
        content = file.read(_SEARCHED_BYTES)
    try:
        return zlib.decompressobj().decompress(content, _SEARCHED_BYTES)
    except zlib.error:
        return content


def save_again(python: Path, pickle: Path, scratch: Path) -> Path:
    """Load the pickle in the sandbox and return the file that was saved there, below `scratch`; else a ModelError."""
    output = scratch / "output"
    sandbox.run(python, _SCRIPT, pickle, output)
    found = [file for file in output.iterdir() if file.name.startswith("model.") and not file.is_symlink()]
    if len(found) != 1 or not found[0].is_file():
        raise ModelError(f"{pickle.name} could not be saved again in the sandbox: it left no model")
    saved = scratch / f"{pickle.stem}{found[0].suffix}"
    saved.write_bytes(found[0].read_bytes())
    return saved
