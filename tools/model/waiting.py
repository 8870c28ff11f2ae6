"""Says what a long step does and how far it is, from its third second on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

from tools.console import Progress

_SILENT_SECONDS = 3
_REFRESH_SECONDS = 0.5


@contextmanager
def waiting(subject: str) -> Generator[Callable[[str], None]]:
    """Report while the block runs; it may tell how far it is by what this gives."""
    reached, done, progress = [""], threading.Event(), Progress(subject)

    def tell(message: str) -> None:
        reached[0] = message

    def report() -> None:
        now = not done.wait(_SILENT_SECONDS)
        while not done.is_set():
            progress(reached[0] or "working", now=now)
            now = False
            done.wait(_REFRESH_SECONDS)

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield tell
    finally:
        done.set()
        thread.join()
