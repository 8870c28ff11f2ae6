"""Where the time of a small prediction goes, and so how far the targets are that are ratios of it.

Of the server and of the same HTTP server with a constant for an answer: the processor's time a request under load, in
the kernel and outside of it. And of the server's own path, without a network, by module.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.serving import cores, models, process
from bench.serving.load import Wrk
from bench.serving.models import TINY
from bench.serving.peers import CONSTANT, OURS, PEERS, ROOT

_CONNECTIONS, _SECONDS, _ROUNDS = 32, 4, 3
_TICK = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cost:
    """Microseconds of a processor a request: the lowest of a few runs."""

    user: float
    kernel: float

    @property
    def all(self) -> float:
        """Both."""
        return self.user + self.kernel


@dataclass(frozen=True)
class Profile:
    """What was found."""

    ours: Cost
    constant: Cost
    hot: dict[str, Any]
    """hot.py's answer."""


def measure() -> Profile:
    """Takes half a minute."""
    allowed = os.sched_getaffinity(0)
    chosen = cores.choose(allowed)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, process.adopting():
        os.sched_setaffinity(0, {chosen.load})
        try:
            work = Path(folder)
            model = models.make(work / "models")[TINY]
            wrk = Wrk(chosen.load, work)
            costs: dict[str, list[Cost]] = {OURS: [], CONSTANT: []}
            for peer in [peer for peer in PEERS if peer.name in costs] * _ROUNDS:
                with process.running(peer, model, chosen.server, work) as server:
                    post = process.prediction(peer, model.rows[0])
                    wrk(server.port, post, connections=_CONNECTIONS, seconds=1)
                    start = _spent()
                    load = wrk(server.port, post, connections=_CONNECTIONS, seconds=_SECONDS)
                    used = [
                        (end - begin) / (load.per_second * _SECONDS) * 1e6
                        for begin, end in zip(start, _spent(), strict=True)
                    ]
                    costs[peer.name].append(Cost(*used))
            hot = _hot(model.folder, json.dumps({"input": model.rows[0].tolist()}), chosen.server)
        finally:
            os.sched_setaffinity(0, allowed)
    best = {name: min(found, key=lambda cost: cost.all) for name, found in costs.items()}
    return Profile(best[OURS], best[CONSTANT], hot)


def _spent() -> tuple[float, float]:
    """Seconds of the server's processes so far: outside the kernel, and in it."""
    user = kernel = 0
    for pid in process.descendants():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        user, kernel = user + int(fields[11]), kernel + int(fields[12])
    return user * _TICK, kernel * _TICK


def _hot(folder: Path, body: str, core: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "bench.serving.hot", str(folder), body, str(_CONNECTIONS)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": "app"},
        stdout=subprocess.PIPE,
        check=True,
        preexec_fn=cores.on(core),
    )
    return json.loads(done.stdout)


def text(profile: Profile) -> str:
    """The section of docs/benchmarks.md."""
    ours, constant = profile.ours, profile.constant
    allowed = constant.all / 0.75 - constant.all
    parts = ", ".join(f"{name} {own:.1f}" for name, own in profile.hot["parts"].items() if own >= 0.05)
    rows = {"the same HTTP server with a constant for an answer": constant, "the server": ours}
    lines = [f"| {name} | {cost.kernel:.1f} | {cost.user:.1f} | {cost.all:.1f} |" for name, cost in rows.items()]
    return "\n".join(
        [
            f"Microseconds of the one server core a request, tiny model, {_CONNECTIONS} connections",
            "([`bench/serving/profile.py`](../bench/serving/profile.py)):",
            "",
            "| | kernel | outside | together |",
            "|---|---|---|---|",
            *lines,
            "",
            f"75 % of the constant's rate leaves {allowed:.1f} µs for decoding, batching, running the model, encoding",
            f"and counting; they take {ours.all - constant.all:.1f}. Without a network the server's path takes",
            f"{profile.hot['microseconds']:.1f} µs, by module: {parts}.",
        ]
    )


def as_json(profile: Profile) -> dict[str, Any]:
    """All of it, for the kept file."""
    return {"ours": vars(profile.ours), "constant": vars(profile.constant), "hot": profile.hot}
