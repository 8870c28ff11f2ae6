"""Slots: a number for each of our own clusters, which names its folder, cgroups, interface and addresses.

A slot is held by an abstract socket name, which the kernel frees when its holders die. So the next holder may remove
all that bears the number: it is left over from a run that was killed.
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
    """A cluster's number, and the names that follow from it."""

    number: int
    parent: Path
    """Folder that holds the state folder."""

    @property
    def name(self) -> str:
        return f"model-endpoint-e2e-{self.number}"

    @property
    def folder(self) -> Path:
        return self.parent / self.name

    @property
    def interface(self) -> str:
        return f"me-e2e-{self.number}"

    @property
    def host_ip(self) -> str:
        """The host's address for the node, of the range for tests between two machines [RFC 2544]."""
        return f"198.18.{self.number}.1"

    @property
    def node_ip(self) -> str:
        return f"198.18.{self.number}.2"

    @property
    def pool(self) -> str:
        return f"198.19.{self.number}.0/24"

    @property
    def load_balancer_ip(self) -> str:
        return f"198.19.{self.number}.1"


def claim(parent: Path) -> tuple[Slot, socket.socket]:
    """Claim the lowest free slot; returns it with the socket that holds it. Clears what dead runs have left."""
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
    """Kill the slot's processes and remove its cgroups, interface and folder."""
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
    """List the slot's cgroups: one in cgroup v2, one per controller in v1."""
    mounts = [line.split(" - ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [Path(left.split()[4], slot.name) for left, right in mounts if right.split()[0] in {"cgroup", "cgroup2"}]


def make_cgroups(slot: Slot) -> list[Path]:
    """Make the slot's cgroups; returns those for the node's own processes, beside its pods."""
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
    available, handed = group / "cgroup.controllers", group / "cgroup.subtree_control"
    if available.exists():
        for controller in available.read_text().split():
            with suppress(OSError):  # one that this group was not given, or cannot give
                handed.write_text(f"+{controller}")


def _fill_cpuset(group: Path) -> None:
    """Copy the parent's cpuset in cgroup v1, where a new one is empty and takes no process."""
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
    """Remove a cgroup and its children; one is busy for a moment after its last process."""
    for folder, _, _ in os.walk(group, topdown=False):
        while True:
            try:
                Path(folder).rmdir()
                break
            except OSError:
                if time.monotonic() > deadline or not Path(folder).exists():
                    break
                time.sleep(0.02)
