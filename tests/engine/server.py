"""The real app, served where the stand-in's load balancers point, so that the endpoint check has a real answer."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.support.engine_project import ROOT


@contextlib.contextmanager
def served(folder: Path, key: str = "", port: int = 0) -> Iterator[int]:
    """Serve app/ on a loopback port (0: a free one) until the block ends; the port."""
    with socket.create_server(("127.0.0.1", port)) as listener:
        port = listener.getsockname()[1]
        environment = {
            "PATH": os.environ["PATH"],
            "LISTEN_FD": str(listener.fileno()),
            "DRAIN_SECONDS": "0",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        if key:
            (folder / "api-key").write_text(key)
            environment["API_KEY_FILE"] = str(folder / "api-key")
        with (folder / "server.log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "server"],
                cwd=ROOT / "app",
                env=environment,
                pass_fds=[listener.fileno()],
                stdout=log,
                stderr=log,
            )
    try:
        _wait_ready(port, process, folder / "server.log")
        yield port
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait_ready(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5).close()
        except OSError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the app does not get ready:\n{log.read_text()}") from error
            time.sleep(0.1)
        else:
            return
