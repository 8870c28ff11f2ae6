"""Progress of a command: on stderr, because stdout belongs to the command's answer."""

from __future__ import annotations

import sys
import time

_TERMINAL_INTERVAL_SECONDS = 0.2
_LOG_INTERVAL_SECONDS = 15


def say(message: str, *, end: str = "\n") -> None:
    """Print a line to stderr."""
    clear = "\033[K" if sys.stderr.isatty() else ""  # the rest of a progress line that stood here
    print(message + clear, end=end, file=sys.stderr, flush=True)


class Progress:
    """Reports how far a long step is: on one line of a terminal, or every fifteen seconds in a log."""

    def __init__(self, subject: str) -> None:
        self._subject = subject
        self._start = self._last = time.monotonic()
        self._on_terminal = sys.stderr.isatty()

    def __call__(self, message: str, *, now: bool = False) -> None:
        """Report, unless the last report was a moment ago; `now` reports in any case."""
        time_now = time.monotonic()
        interval = _TERMINAL_INTERVAL_SECONDS if self._on_terminal else _LOG_INTERVAL_SECONDS
        if not now and time_now - self._last < interval:
            return
        self._last = time_now
        seconds = time_now - self._start
        say(f"{self._subject}: {message} ({seconds:.0f} s)", end="\r" if self._on_terminal and not now else "\n")
