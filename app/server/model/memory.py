"""Memory of the process: bound it by the cgroup's, and give back what is freed."""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Callable
from pathlib import Path

from . import cpu

_STATM = Path("/proc/self/statm")
_RESIDENT, _SHARED, _DATA = 1, 2, 5
"""Fields of statm, in pages: the resident set, what of it is files, and what counts for RLIMIT_DATA."""
_RESERVED_BYTES = 32 * 2**20
"""For what else counts for a cgroup: sockets, page tables, and the pages of libraries that are in use."""
_NO_LIMIT_BYTES = 2**60
"""A cgroup of version 1 without a limit has a number above this."""
_WORTHWHILE_BYTES = 16 * 2**20
"""Growth since the latest trim at which the next is made."""


def cgroup_limit(root: Path | None = None) -> int | None:
    """Bytes that the cgroup (v2, then v1) may use; None when there is no limit."""
    root = root or cpu.CGROUP
    for file in (root / "memory.max", root / "memory" / "memory.limit_in_bytes"):
        try:
            limit = int(file.read_text())
        except (OSError, ValueError):  # "max" is none
            continue
        return limit if limit < _NO_LIMIT_BYTES else None
    return None


def bound_allocations(limit: int) -> None:
    """Let an allocation fail that a cgroup of `limit` bytes has no room for: else the kernel ends the whole process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    own = _statm(_RESIDENT) - _statm(_SHARED)
    bound = _statm(_DATA) + max(0, limit - _RESERVED_BYTES - own)
    bounds = [bound, *(each for each in (soft, hard) if each != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_DATA, (min(bounds), hard))


def resident_bytes() -> int:
    """Resident set size."""
    return _statm(_RESIDENT)


def _statm(field: int) -> int:
    return int(_STATM.read_text().split()[field]) * os.sysconf("SC_PAGE_SIZE")


class Trimmer:
    """Trims the heap once the model is idle after runs that made it grow: glibc keeps up to 64 MB for each thread."""

    def __init__(self, trim: Callable[[], object], resident: Callable[[], int] = resident_bytes) -> None:
        self._trim = trim
        self._resident = resident
        self._kept = 0
        """Resident bytes after the latest trim."""

    def tick(self, *, idle: bool) -> None:
        """Call it a few times a second."""
        if idle and self._resident() > self._kept + _WORTHWHILE_BYTES:
            self._trim()
            self._kept = self._resident()


def open_trimmer() -> Trimmer | None:
    """Return a Trimmer, or None where the system has no glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return Trimmer(lambda: trim(0)) if trim and _STATM.exists() else None
