"""`python -m server`: see settings.py for what it reads from the environment."""

from __future__ import annotations

import os
import signal
import sys
import time
from types import FrameType


def _leave(_number: int, _frame: FrameType | None) -> None:
    os._exit(0)


def main() -> int:
    """Serve until a signal, and return the exit status: 1 if the server could not start."""
    # Until the event loop takes them over: a container's first process is not sent signals without a handler.
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, _leave)
    started = time.perf_counter()
    from . import log
    from .errors import StartError
    from .http.listener import open_listener
    from .settings import read_settings

    log.configure("info")
    try:
        settings = read_settings(os.environ)
        log.configure(settings.log_level)
        listener = open_listener(settings.host, settings.port, settings.listen_fd)
        from . import lifecycle

        lifecycle.run(settings, listener, started)
    except StartError as reason:
        log.error("cannot_start", reason=str(reason))
        return 1
    return 0


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)  # not sys.exit: that would wait for a run of the model that the grace period has given up on
