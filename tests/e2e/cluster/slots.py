"""What a cluster of our own takes of the machine: a number, and by it a folder, cgroups, an interface and addresses.

The number is held by a socket name, which the system frees when its holders die. So whoever gets a number may clear
away all that bears it: it is of a run that could not do it itself, such as one of a machine that crashed.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.cluster.api import ClusterError

_NUMBERS = range(16)
_KILL_SECONDS = 10


@dataclass(frozen=True)
class Slot:
    """One number's share of the machine."""

    number: int
    parent: Path
    """The folder that the state's folder stands in."""

    @property
    def name(self) -> str:
        """Of the folder and of the cgroups."""
        return f"model-endpoint-e2e-{self.number}"

    @property
    def folder(self) -> Path:
        """The cluster's state, all of it."""
        return self.parent / self.name

    @property
    def interface(self) -> str:
        """The host's end of the cable to the node."""
        return f"me-e2e-{self.number}"

    @property
    def host_ip(self) -> str:
        """The host, as the node sees it. 198.18.0.0/15 is set aside for tests between two machines (RFC 2544)."""
        return f"198.18.{self.number}.1"

    @property
    def node_ip(self) -> str:
        """The node, also for this machine."""
        return f"198.18.{self.number}.2"

    @property
    def pool(self) -> str:
        """The load balancers' addresses."""
        return f"198.19.{self.number}.0/24"

    @property
    def load_balancer_ip(self) -> str:
        """The first of them."""
        return f"198.19.{self.number}.1"


def claim(parent: Path) -> tuple[Slot, socket.socket]:
    """The lowest free number, cleared, and what holds it; everything that dead runs have left is cleared as well."""
    mine: tuple[Slot, socket.socket] | None = None
    for number in _NUMBERS:
        slot, holder = Slot(number, parent), socket.socket(socket.AF_UNIX)
        try:
            holder.bind(f"\0{slot.name}")
        except OSError:
            holder.close()
            continue
        clear(slot)
        if mine:
            holder.close()
        else:
            mine = slot, holder
    if not mine:
        raise ClusterError(f"{len(_NUMBERS)} clusters run on this machine already: end one")
    return mine


def clear(slot: Slot) -> None:
    """Remove all that bears the number."""
    groups = [group for group in cgroups(slot) if group.is_dir()]
    deadline = time.monotonic() + _KILL_SECONDS
    while (pids := _processes(groups)) and time.monotonic() < deadline:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    for group in groups:
        _remove(group, deadline)
    if Path("/sys/class/net", slot.interface).exists():
        subprocess.run(["ip", "link", "delete", slot.interface], check=False)
    shutil.rmtree(slot.folder, ignore_errors=True)


def cgroups(slot: Slot) -> list[Path]:
    """The slot's cgroup in every hierarchy: one in version 2, one a controller in version 1."""
    mounts = [line.split(" - ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [Path(left.split()[4], slot.name) for left, right in mounts if right.split()[0] in {"cgroup", "cgroup2"}]


def make_cgroups(slot: Slot) -> list[Path]:
    """Make them; the result is where the node's own processes go, beside its pods."""
    own: list[Path] = []
    for group in cgroups(slot):
        _delegate(group.parent)
        group.mkdir()
        _delegate(group)
        (group / "parts").mkdir()
        own.append(group / "parts")
        for place in (group, group / "parts"):
            _fill_cpuset(place)
    return own


def _delegate(group: Path) -> None:
    """Hand version 2's controllers to the groups below; in version 1 there is nothing to do."""
    available, handed = group / "cgroup.controllers", group / "cgroup.subtree_control"
    if available.exists():
        for controller in available.read_text().split():
            with suppress(OSError):  # one that this group was not given, or cannot give
                handed.write_text(f"+{controller}")


def _fill_cpuset(group: Path) -> None:
    """In version 1 a new cpuset is empty, which takes no process; in version 2 empty means the parent's."""
    if (group / "cgroup.controllers").exists():
        return
    for name in ("cpuset.cpus", "cpuset.mems"):
        if (group / name).exists() and not (group / name).read_text().strip():
            (group / name).write_text((group.parent / name).read_text())


def _processes(groups: list[Path]) -> set[int]:
    found: set[int] = set()
    for group in groups:
        for folder, _, _ in os.walk(group):
            with suppress(OSError):
                found |= {int(pid) for pid in Path(folder, "cgroup.procs").read_text().split()}
    return found


def _remove(group: Path, deadline: float) -> None:
    """Remove a cgroup and those below it. One whose last process is just dying is busy for a moment."""
    for folder, _, _ in os.walk(group, topdown=False):
        while True:
            try:
                Path(folder).rmdir()
                break
            except OSError:
                if time.monotonic() > deadline or not Path(folder).exists():
                    break
                time.sleep(0.02)
