"""What is promised of the server, judged by what was measured, and all of it as tables."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.serving import runs
from bench.serving.peers import CONSTANT, OURS, PEERS, Peer
from bench.serving.runs import BARE, Measured, Round
from tools.figures import Result, machine, table

_PEERS = tuple(peer for peer in PEERS if peer.name not in (OURS, CONSTANT))
_TITLES = {peer.name: peer.title for peer in PEERS} | {BARE: "ONNX Runtime in a loop, no server"}


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A figure of our server, or its ratio to another's, both of the same round."""

    name: str
    what: str
    """One of the measurements in runs.py."""
    over: Callable[[Round], float | None] | None = None
    """What it is divided by; None, or a result of None: a round without it."""
    unit: str = "times"
    most: float | None = None
    least: float | None = None

    def result(self, measured: Measured) -> Result | None:
        """Judged by the median of the rounds; None when no round has what it takes."""
        values = [value for each in measured.rounds if (value := self._value(each)) is not None]
        return Result(self.name, values, self.unit, most=self.most, least=self.least) if values else None

    def _value(self, values: Round) -> float | None:
        ours = values.get(OURS, {}).get(self.what)
        if ours is None or self.over is None:
            return ours
        over = self.over(values)
        return ours / over if over else None


def _of(server: str, what: str) -> Callable[[Round], float | None]:
    return lambda values: values.get(server, {}).get(what)


def _best(what: str, choose: Callable[[list[float]], float]) -> Callable[[Round], float | None]:
    """Of all peers in the round, the one that is ahead."""

    def best(values: Round) -> float | None:
        found = [values[peer.name][what] for peer in _PEERS if what in values.get(peer.name, {})]
        return choose(found) if found else None

    return best


_AT_32 = {"fastapi": 5.0, "mosec": 2.5}
_AT_32_OTHERS = 8.0

CLAIMS = (
    *(
        Claim(
            name=f"tiny model, 32 connections: requests/s, ours to {peer.title}'s",
            what=runs.TINY_MANY.rate,
            over=_of(peer.name, runs.TINY_MANY.rate),
            least=_AT_32.get(peer.name, _AT_32_OTHERS),
        )
        for peer in _PEERS
    ),
    Claim(
        name="tiny model, 32 connections: requests/s, ours to our HTTP server's with a constant for an answer",
        what=runs.TINY_MANY.rate,
        over=_of(CONSTANT, runs.TINY_MANY.rate),
        least=0.75,
    ),
    Claim(
        name="tiny model, 1 connection: p50, ours to FastAPI's",
        what=runs.TINY_ONE.p50,
        over=_of("fastapi", runs.TINY_ONE.p50),
        most=1,
    ),
    Claim(
        name="heavy model, 32 connections: rows/s, ours to the bare loop's",
        what=runs.HEAVY_MANY.rate,
        over=_of(BARE, runs.HEAVY_MANY.rate),
        least=0.95,
    ),
    Claim(
        name="heavy model, 32 connections: rows/s, ours to the best peer's",
        what=runs.HEAVY_MANY.rate,
        over=_best(runs.HEAVY_MANY.rate, max),
        least=1,
    ),
    Claim(name="start to first answer", what=runs.START, unit="s", most=1),
    Claim(
        name="start to first answer, ours to the quickest peer's", what=runs.START, over=_best(runs.START, min), most=1
    ),
    Claim(name="memory at rest", what=runs.MEMORY, unit="MB", most=150),
    Claim(name="memory at rest, ours to the smallest peer's", what=runs.MEMORY, over=_best(runs.MEMORY, min), most=1),
    Claim(
        name="v2, a tensor of 1 MiB: requests/s, binary to JSON",
        what=runs.WIDE_BINARY.rate,
        over=_of(OURS, runs.WIDE_JSON.rate),
        least=5,
    ),
)


def results(measured: Measured) -> list[Result]:
    """All claims that can be judged."""
    return [result for claim in CLAIMS if (result := claim.result(measured))]


def text(measured: Measured, judged: Sequence[Result]) -> str:
    """The section of docs/benchmarks.md."""
    cores = measured.cores
    apart = "two threads of one core" if cores.siblings else "each its own core"
    rounds = len(measured.rounds)
    where = f"on {machine()}; server and load have {apart}; medians of {rounds} interleaved rounds"
    failures = "".join(
        f"\n**{_TITLES[name]} did not run:**\n\n```\n{reason}\n```\n" for name, reason in measured.failures.items()
    )
    return (
        f"Measured by [`bench/serving`](../bench/serving) {where}.\n"
        f"Versions, settings, every round: [`bench/results/serving.json`](../bench/results/serving.json).\n\n"
        f"![requests a second, rows a second, start and memory of each server](../bench/results/serving.svg)\n\n"
        f"{_servers(measured)}\n{table(judged)}{failures}"
    )


def _servers(measured: Measured) -> str:
    head = (
        "| | tiny, 32 connections: requests/s | p50, p99 ms | 1 connection: p50, p99 ms | heavy: rows/s "
        "| first answer s | memory MB | errors |\n|---|---|---|---|---|---|---|---|\n"
    )
    columns = (
        lambda get: get(runs.TINY_MANY.rate, ",.0f"),
        lambda get: f"{get(runs.TINY_MANY.p50, '.2f')}, {get(runs.TINY_MANY.p99, '.2f')}",
        lambda get: f"{get(runs.TINY_ONE.p50, '.2f')}, {get(runs.TINY_ONE.p99, '.2f')}",
        lambda get: get(runs.HEAVY_MANY.rate, ",.0f"),
        lambda get: get(runs.START, ".2f"),
        lambda get: get(runs.MEMORY, ".0f"),
        lambda get: get(runs.ERRORS, ".0f", sum),
    )
    rows = [_row(measured, peer.name, _label(peer), columns) for peer in PEERS if measured.ran(peer.name)]
    return head + "".join([*rows, _row(measured, BARE, _TITLES[BARE], columns)])


def _row(measured: Measured, server: str, label: str, columns: Sequence[Callable[[Callable[..., str]], str]]) -> str:
    def get(what: str, form: str, summary: Callable[[list[float]], float] = statistics.median) -> str:
        values = measured.values(server, what)
        return format(summary(values), form) if values else ""

    return f"| {label} | {' | '.join(column(get).strip(' ,') for column in columns)} |\n"


def _label(peer: Peer) -> str:
    if peer not in _PEERS:
        return peer.title
    package = peer.packages[0]
    return f"{peer.title} {peer.versions()[package]}"


def details(measured: Measured) -> dict[str, Any]:
    """For comparing: what stands behind the claims."""
    return {
        "cores": asdict(measured.cores),
        "bare loop's batch": measured.batch,
        "servers": {
            peer.name: {
                "versions": peer.versions(),
                "settings": peer.settings,
                "failure": measured.failures.get(peer.name),
            }
            for peer in PEERS
        },
        "rounds": [
            {server: {what: round(value, 4) for what, value in values.items()} for server, values in each.items()}
            for each in measured.rounds
        ],
    }
