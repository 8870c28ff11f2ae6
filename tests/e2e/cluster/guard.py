"""The process that holds a node and outlives the tests: `python -m tests.e2e.cluster.guard NUMBER PARENT`.

It starts the node in its own namespaces and waits until its standard input ends, which it does when the tests are done
or dead, or until the node ends. Then it kills the node's process 1, and with it all its processes, and cleans up.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

from tests.e2e.cluster import slots

_NODE = Path(__file__).with_name("node.py")


def main(number: str, parent: str) -> None:
    """Hold the node until standard input ends."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)  # meant for the tests, with which this ends
    slot = slots.Slot(int(number), Path(parent))
    try:
        with _node(slot, slots.make_cgroups(slot)) as node:
            select.select([sys.stdin, os.pidfd_open(node.pid)], [], [])
            node.kill()
    finally:
        slots.clear(slot)


def _node(slot: slots.Slot, cgroups: list[Path]) -> subprocess.Popen[str]:
    host_network = os.open("/proc/self/ns/net", os.O_RDONLY)
    namespaces = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--net", "--propagation", "private"]
    # A kill of this process is passed on: to unshare, then to the node's process 1, then to all its processes.
    chained = ["setpriv", "--pdeathsig", "KILL", *namespaces]
    node = subprocess.Popen(
        [*chained, sys.executable, str(_NODE), str(slot.folder), str(host_network)],
        stdin=subprocess.PIPE,
        text=True,
        pass_fds=[host_network],
    )
    os.close(host_network)
    first = _first_process(node)
    for group in cgroups:
        (group / "cgroup.procs").write_text(str(first))
    _ip("link", "add", slot.interface, "type", "veth", "peer", "name", "eth0", "netns", str(first))
    _ip("address", "add", f"{slot.host_ip}/30", "dev", slot.interface)
    _ip("link", "set", slot.interface, "up")
    _ip("route", "add", slot.pool, "via", slot.node_ip, "dev", slot.interface)
    (slot.folder / "first").write_text(str(first))
    assert node.stdin
    node.stdin.close()  # the node waits for it
    return node


def _first_process(unshare: subprocess.Popen[str]) -> int:
    """Wait for the node's process 1; its process id on this machine."""
    children = Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children")
    while unshare.poll() is None:
        if pids := children.read_text().split():
            return int(pids[0])
    raise SystemExit(f"there are no namespaces to be had: unshare ended with {unshare.returncode}")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
