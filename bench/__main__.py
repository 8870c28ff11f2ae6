"""Runs the measurements, keeps them in bench/results/ and writes docs/benchmarks.md from them.

`python -m bench [stack] [serving] [profile]`: what to measure, all by default. `--quick` and `--only fastapi,mosec` are
for work on the serving benchmark: they measure less, and keep nothing.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from bench import stack
from bench.serving import plot, profile, runs
from bench.serving import report as serving
from bench.serving.peers import OURS, PEERS
from tools.figures import Result, keep, machine, table, write_section

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench/results"
PAGE = ROOT / "docs/benchmarks.md"


def measure_stack() -> bool:
    """What the program costs; whether all targets are met."""
    results = stack.measure()
    text = f"Measured by [`bench/stack.py`](../bench/stack.py) on {machine()}.\n\n{table(results)}"
    print(text)
    keep(RESULTS / "stack.json", results)
    write_section(PAGE, "figures", text)
    return all(map(Result.met, results))


def measure_serving(plan: runs.Plan, *, kept: bool) -> bool:
    """The server against its peers; whether all targets are met and all servers ran."""
    measured = runs.measure(plan)
    results = serving.results(measured)
    text = serving.text(measured, results)
    print(text)
    if kept:
        keep(RESULTS / "serving.json", results, **serving.details(measured))
        (RESULTS / "serving.svg").write_text(plot.svg(measured))
        write_section(PAGE, "serving", text)
    return all(map(Result.met, results)) and not measured.failures


def measure_profile() -> bool:
    """Where the server's time goes."""
    measured = profile.measure()
    text = profile.text(measured)
    print(text)
    keep(RESULTS / "profile.json", [], **profile.as_json(measured))
    write_section(PAGE, "profile", text)
    return True


def main(arguments: list[str]) -> int:
    """Measure, print, keep; 1 when a target is missed or a server did not run."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Take the README's figures.")
    parser.add_argument("what", nargs="*", choices=["stack", "serving", "profile", []], help="all by default")
    parser.add_argument("--quick", action="store_true", help="serving: one short round")
    parser.add_argument("--only", metavar="NAME,...", help=f"serving: {OURS} and these")
    chosen = parser.parse_args(arguments)
    plan = runs.QUICK if chosen.quick else runs.FULL
    if chosen.only:
        names = {OURS, *chosen.only.split(",")}
        if unknown := names - {peer.name for peer in PEERS}:
            parser.error(
                f"there is no {', '.join(sorted(unknown))}; there are {', '.join(peer.name for peer in PEERS)}"
            )
        plan = replace(plan, servers=tuple(peer for peer in PEERS if peer.name in names))
    measures = {
        "stack": measure_stack,
        "serving": lambda: measure_serving(plan, kept=plan == runs.FULL),
        "profile": measure_profile,
    }
    if chosen.quick or chosen.only:
        measures.pop("profile")
    outcomes = [measure() for name, measure in measures.items() if name in (chosen.what or measures)]
    return 0 if all(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
