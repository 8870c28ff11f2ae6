"""Which core the server has to itself, and which the load."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

SYSTEM = Path("/sys/devices/system/cpu")


@dataclass(frozen=True)
class Cores:
    """Their numbers."""

    server: int
    load: int
    siblings: bool
    """Whether the two are threads of one core, which happens only where there is no other."""


def choose(allowed: Iterable[int], system: Path = SYSTEM) -> Cores:
    """The first that is allowed, and the next that is not a thread of the same core."""
    server, *others = sorted(allowed)
    if not others:
        raise SystemExit("the server and its load need a core each: here is only one")
    shared = _siblings(server, system)
    apart = [core for core in others if core not in shared]
    return Cores(server, (apart or others)[0], not apart)


def on(core: int) -> Callable[[], None]:
    """For subprocess's `preexec_fn`: the program and all that it starts stay on the core."""
    return lambda: os.sched_setaffinity(0, {core})


def _siblings(core: int, system: Path) -> set[int]:
    """The threads of a core, from the kernel's list such as `0,4` or `0-1`."""
    file = system / f"cpu{core}/topology/thread_siblings_list"
    parts = file.read_text().strip().split(",") if file.is_file() else []
    bounds = [(int(low), int(high or low)) for low, _, high in (part.partition("-") for part in parts)]
    return {each for low, high in bounds for each in range(low, high + 1)}
