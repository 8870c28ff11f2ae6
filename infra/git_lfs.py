"""Pointers of Git LFS: what a clone without its files holds in place of a large file."""

from pathlib import Path

_BEGINNING = b"version https://git-lfs.github.com/spec/"


def is_pointer(file: Path) -> bool:
    """Tell by how a pointer begins [git-lfs docs/spec.md]; raises OSError."""
    with file.open("rb") as read:
        return read.read(len(_BEGINNING)) == _BEGINNING
