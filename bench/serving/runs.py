"""What is measured, in rounds: each server in turn, one alive at a time, so that a slow moment falls on all alike."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench.serving import cores, models, process
from bench.serving.cores import Cores
from bench.serving.load import Wrk
from bench.serving.models import HEAVY, TINY, WIDE, Model
from bench.serving.peers import CONSTANT, OURS, PEERS, ROOT, Peer
from bench.serving.process import JSON, DidNotRunError, Post, Running

BARE = "bare"
"""The loop without a server, beside the peers' names."""
START, MEMORY, ERRORS = "start", "memory", "errors"
"""Seconds from a server's start to its first answer; MB at rest; answers that were none, of all runs."""
_CALM_SECONDS = 0.5
_BATCHES = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Case:
    """A kind of run under load."""

    name: str
    connections: int
    length: float = 1.0
    """In times of what the plan has."""

    @property
    def rate(self) -> str:
        """Good answers a second."""
        return f"{self.name}: per second"

    @property
    def p50(self) -> str:
        """Milliseconds."""
        return f"{self.name}: p50"

    @property
    def p99(self) -> str:
        """Milliseconds."""
        return f"{self.name}: p99"


TINY_MANY, TINY_ONE = Case("tiny, 32 connections", 32), Case("tiny, 1 connection", 1, 0.5)
HEAVY_MANY = Case("heavy, 32 connections", 32, 2)
"""Longer: when it ends up to 32 rows are under way and not counted, about a percent of all."""
WIDE_JSON, WIDE_BINARY = Case("wide, JSON", 4), Case("wide, binary", 4)

Round = dict[str, dict[str, float]]
"""Server -> what was measured -> its value."""


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    rounds: int
    seconds: int
    """Of a run under load."""
    servers: tuple[Peer, ...] = PEERS
    rest_seconds: float = 1.0
    """After the first answers, before the memory is taken."""


FULL = Plan(rounds=5, seconds=4)
QUICK = Plan(rounds=1, seconds=1)


@dataclass
class Measured:
    """All values of all rounds."""

    cores: Cores
    batch: int = 0
    """The bare loop's best."""
    rounds: list[Round] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    """Servers that did not run, and why."""

    def values(self, server: str, what: str) -> list[float]:
        """A value for each round that has one."""
        return [each[server][what] for each in self.rounds if what in each.get(server, {})]

    def ran(self, server: str) -> bool:
        """Whether there is anything of it."""
        return any(each.get(server) for each in self.rounds)


def measure(plan: Plan) -> Measured:
    """All rounds; says on standard error how far it is."""
    before = os.sched_getaffinity(0)
    measured = Measured(cores.choose(before))
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder, process.adopting():
        os.sched_setaffinity(0, {measured.cores.load})
        try:
            bench = _Bench(plan, measured, Path(folder))
            bench.prepare()
            for number in range(plan.rounds):
                bench.round(number)
        finally:
            os.sched_setaffinity(0, before)
    return measured


class _Bench:
    def __init__(self, plan: Plan, measured: Measured, work: Path) -> None:
        self._plan = plan
        self._measured = measured
        self._work = work
        self._core = measured.cores.server
        self._wrk = Wrk(measured.cores.load, work)
        self._models = models.make(work / "models")

    def prepare(self) -> None:
        """Start each server once, so that packages and byte code are in place; find the bare loop's best batch."""
        for peer in self._plan.servers:
            _say(f"{peer.name}: {', '.join(f'{name} {version}' for name, version in peer.versions().items())}")
            try:
                with process.running(peer, self._models[TINY], self._core, self._work):
                    pass
            except DidNotRunError as error:
                self._failed(peer, error)
        passes = [self._bare(0.3, *_BATCHES) for _ in range(3)]
        self._measured.batch = max(_BATCHES, key=lambda batch: statistics.median(each[batch] for each in passes))
        _say(f"bare loop: best at {self._measured.batch} rows a batch")

    def round(self, number: int) -> None:
        """Everything once."""
        results: Round = {}
        self._measured.rounds.append(results)
        shift = number % len(self._plan.servers)
        for peer in self._plan.servers[shift:] + self._plan.servers[:shift]:
            if peer.name in self._measured.failures:
                continue
            values = results[peer.name] = {ERRORS: 0.0}
            try:
                self._small(peer, values)
                if peer.name != CONSTANT:
                    self._heavy(peer, values)
                if peer.name == OURS:
                    self._wide(peer, values)
            except DidNotRunError as error:
                self._failed(peer, error)
            shown = ", ".join(f"{what}: {value:.4g}" for what, value in values.items())
            _say(f"round {number + 1} of {self._plan.rounds}, {peer.name}: {shown}")
        rows = self._bare(self._plan.seconds, self._measured.batch)[self._measured.batch]
        results[BARE] = {HEAVY_MANY.rate: rows}

    def _small(self, peer: Peer, values: dict[str, float]) -> None:
        with process.running(peer, self._models[TINY], self._core, self._work) as server:
            time.sleep(self._plan.rest_seconds)
            values |= {START: server.seconds, MEMORY: process.memory()}
            for case in (TINY_MANY, TINY_ONE):
                self._predictions(case, server, self._models[TINY], values)

    def _heavy(self, peer: Peer, values: dict[str, float]) -> None:
        with process.running(peer, self._models[HEAVY], self._core, self._work) as server:
            self._predictions(HEAVY_MANY, server, self._models[HEAVY], values)

    def _wide(self, peer: Peer, values: dict[str, float]) -> None:
        """The v2 protocol's two ways to carry a tensor, on our server."""
        model = self._models[WIDE]
        row, path = model.rows[0], f"/v2/models/{model.name}/infer"
        tensor = {"name": "input", "datatype": "FP32", "shape": [1, row.size]}
        head = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": row.nbytes}}]}).encode()
        binary = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
        posts = {
            WIDE_JSON: Post(path, json.dumps({"inputs": [tensor | {"data": row.tolist()}]}).encode(), JSON),
            WIDE_BINARY: Post(path, head + row.tobytes(), binary),
        }
        with process.running(peer, model, self._core, self._work) as server:
            for case, post in posts.items():
                answer = json.loads(server.post(post))["outputs"][0]["data"]
                if not np.allclose(answer, model.expected[0], rtol=1e-4, atol=1e-6):
                    raise DidNotRunError(f"{case.name}: answers {answer} where ONNX Runtime has {model.expected[0]}")
                self._load(case, server, post, values)

    def _predictions(self, case: Case, server: Running, model: Model, values: dict[str, float]) -> None:
        self._load(case, server, process.prediction(server.peer, model.rows[0]), values)

    def _load(self, case: Case, server: Running, post: Post, values: dict[str, float]) -> None:
        """A second that does not count, what that left, and the run; sets the case's values, and adds its errors."""
        self._wrk(server.port, post, connections=case.connections, seconds=1)
        time.sleep(_CALM_SECONDS)
        seconds = max(1, round(case.length * self._plan.seconds))
        load = self._wrk(server.port, post, connections=case.connections, seconds=seconds)
        values |= {case.rate: load.per_second, case.p50: load.p50, case.p99: load.p99}
        for kind, count in load.errors.items():
            for what in (ERRORS, f"{ERRORS}: {kind}"):
                values[what] = values.get(what, 0.0) + count

    def _bare(self, seconds: float, *batches: int) -> dict[int, float]:
        model = self._models[HEAVY]
        arguments = [str(model.file), str(model.rows.shape[1]), str(seconds), *map(str, batches)]
        done = subprocess.run(
            [sys.executable, "-m", "bench.serving.bare", *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            check=True,
            preexec_fn=cores.on(self._core),
        )
        return {int(batch): rate for batch, rate in json.loads(done.stdout).items()}

    def _failed(self, peer: Peer, error: DidNotRunError) -> None:
        self._measured.failures[peer.name] = str(error)
        _say(f"did not run: {error}")


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)
