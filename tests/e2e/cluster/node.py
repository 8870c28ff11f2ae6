"""Process 1 of the node's namespaces: sets up mounts and addresses, starts the plan's parts and restarts them.

It runs as a program, `node.py STATE HOST_NETWORK`, and imports nothing of ours.
"""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

_RESTART_SECONDS = 0.5
_POLL_SECONDS = 0.1
_SPAWN_FD = 9
_IGNORED = [signal.SIGHUP, signal.SIGINT, signal.SIGPIPE, signal.SIGTERM]
"""Ignored by Python or the guard; children would inherit that, down to the ones in containers."""


def main(state: Path, host_network: int) -> None:
    """Set up and supervise until killed."""
    os.set_inheritable(host_network, False)  # only the parts meant to be in it get it
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    sys.stdin.read()  # ends when the guard has made the network interface
    plan = json.loads((state / "plan.json").read_text())
    os.environ.clear()
    os.environ.update(plan["environment"])
    for source, target in plan["mounts"]:
        Path(source).mkdir(exist_ok=True)
        _run("mount", "--bind", source, target)
    _run("mount", "--make-rshared", "/")
    for command in plan["network"]:
        _run(*command)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    supervisor = Supervisor(state, host_network)
    for stage in plan["stages"]:
        for part in stage["parts"]:
            supervisor.start(part)
        while stage["until"] and not _answers(stage["until"]):
            supervisor.watch(_POLL_SECONDS)
    while True:
        supervisor.watch(60)


class Supervisor:
    """Runs parts, each with its log in log/NAME and its process id in pid/NAME."""

    def __init__(self, state: Path, host_network: int) -> None:
        self._state, self._host_network = state, host_network
        self._running: dict[int, dict[str, Any]] = {}
        self._due: list[tuple[float, dict[str, Any]]] = []
        for folder in ("log", "pid"):
            (state / folder).mkdir(exist_ok=True)

    def start(self, part: dict[str, Any]) -> None:
        log = str(self._state / "log" / part["name"])
        to_log = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        command = part["command"]
        if part["on_host_network"]:
            command = ["nsenter", f"--net=/proc/self/fd/{_SPAWN_FD}", *command]
            to_log.append((os.POSIX_SPAWN_DUP2, self._host_network, _SPAWN_FD))
        pid = os.posix_spawnp(
            *(command[0], command, os.environ),
            file_actions=to_log,
            setsid=True,
            setsigmask=[],
            setsigdef=_IGNORED,
        )
        self._running[pid] = part
        (self._state / "pid" / part["name"]).write_text(str(pid))

    def watch(self, seconds: float) -> None:
        """Wait up to `seconds` for processes that ended; reap them, orphans as well, and restart parts."""
        if self._due:
            seconds = min(seconds, max(self._due[0][0] - time.monotonic(), 0))
        signal.sigtimedwait([signal.SIGCHLD], seconds)
        while self._running:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            if part := self._running.pop(pid, None):
                self._due.append((time.monotonic() + _RESTART_SECONDS, part))
        while self._due and self._due[0][0] <= time.monotonic():
            self.start(self._due.pop(0)[1])


def _answers(url: str) -> bool:
    unverified = ssl.create_default_context()
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    try:
        with urllib.request.urlopen(url, timeout=1, context=unverified) as answer:
            return answer.status == 200
    except OSError:
        return False


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
