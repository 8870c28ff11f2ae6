"""The user's cache, shared by all clones: what is costly to get is made once, and appears there whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

from tools.console import say


def default_cache() -> Path:
    """`$XDG_CACHE_HOME/model-endpoint`, which is `~/.cache/model-endpoint` when the variable is unset."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "model-endpoint"


def machine() -> str:
    """Name this machine as a release's file does, such as linux-x64."""
    processor = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64"}
    name = platform.machine().lower()
    return f"{platform.system().lower()}-{processor.get(name, name)}"


def digest(files: Iterable[Path]) -> str:
    """Twelve hexadecimal digits of the sha256 of the files' content."""
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:12]


@contextmanager
def lock(path: Path) -> Generator[None]:
    """Hold the lock on a folder, or on a file that is made with its folder if need be; another process waits.

    The system frees it when its holder dies. Two locks on one path exclude each other within a process as well.
    """
    if not path.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    handle = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"Waiting for another process that holds {path}")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def appearing(target: Path) -> Generator[Path]:
    """Give an empty folder that becomes `target` when the block ends well. The caller holds the lock."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # what an interrupted run left
    partial.mkdir()
    try:
        yield partial
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def once(target: Path, make: Callable[[Path], object]) -> Path:
    """Return the folder `target`, filled by `make` if it is not there yet: by one process, all or nothing."""
    if not target.is_dir():
        with lock(target.with_name(f".{target.name}.lock")):
            if not target.is_dir():
                with appearing(target) as partial:
                    make(partial)
    return target
