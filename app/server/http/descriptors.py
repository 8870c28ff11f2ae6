"""Open files: as many as the process may have, shared out between its clients and itself.

Without a limit of connections below that of open files, `accept` would fail for clients and probes alike.
"""

from __future__ import annotations

import contextlib
import resource
import sys

from ..errors import StartError
from .listener import BACKLOG

_OWN_DESCRIPTORS = 64
"""Set aside for the server itself: event loop, model, logs, collector."""
_MAX_CONNECTIONS = 16_384
_MIN_SPARE = 8


def raise_limit() -> int:
    """Raise the soft limit of open files to the hard one; return the limit that holds.

    A StartError if it does not suffice for the server itself.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS has a hard limit that it does not grant
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    limit = sys.maxsize if soft == resource.RLIM_INFINITY else soft
    if limit < _OWN_DESCRIPTORS:
        raise StartError(
            f"the hard limit of open files (ulimit -Hn) is {limit}, and the server needs {_OWN_DESCRIPTORS} at least"
        )
    return limit


def share_out(descriptors: int) -> tuple[int, int]:
    """Split a limit of open files: clients at a time, and spare connections beyond them.

    As many again as are spare are left for spare ones that are being closed to make room.
    """
    left = descriptors - _OWN_DESCRIPTORS
    spare = min(BACKLOG, max(_MIN_SPARE, left // 16))
    return min(_MAX_CONNECTIONS, max(1, left - 2 * spare)), spare
