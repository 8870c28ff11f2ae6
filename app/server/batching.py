"""Requests -> batches: at once when the model is idle, gathered while it is busy, bounded in rows, bytes and time.

All of it runs on the event loop; only a run that would hold the loop up goes to the one inference thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

import msgspec

from . import log
from .errors import Problem
from .model.tensors import Inputs, Tensors

_NEWEST_SHARE = 0.2
"""Of the latest run in the running mean of seconds a row."""


class Caller(Protocol):
    """Who waits for an answer."""

    abandoned: bool


class _Someone:
    abandoned = False


_SOMEONE = _Someone()


class Engine(Protocol):
    """What is run. `prepare`, `join` and `run` are called from one thread at a time."""

    best_rows: int
    """The rows at which a run is most efficient; a batch has no more, unless one request does."""
    inline_rows: int
    """Up to so many rows, a run takes less time than handing it to a thread."""
    seconds_per_row: float
    """In a run of `best_rows`, as first measured."""

    prepares: bool
    """Whether `prepare` does anything."""

    def prepare(self, inputs: Inputs) -> Inputs:
        """What one request sent -> what `join` takes. Raises a Problem for what is wrong with it."""
        ...

    def join(self, inputs: list[Inputs]) -> Tensors:
        """The rows of several requests, one after the other."""
        ...

    def run(self, inputs: Tensors) -> Tensors:
        """Rows in, as many rows out. Raises a Problem when it has no answer."""
        ...

    def values(self, outputs: Tensors) -> list[Any]:
        """One JSON value a row, or the Problem that stands in its place."""
        ...


class Batch:
    """What a run gave, for all requests that were in it."""

    def __init__(self, engine: Engine, outputs: Tensors, rows: int, started: float, seconds: float) -> None:
        self._engine = engine
        self._values: list[Any] | None = None
        self.faulty = False
        """Whether there is a Problem among the values; known with them."""
        self.outputs = outputs
        self.rows = rows
        self.started = started
        """As time.perf_counter()."""
        self.seconds = seconds

    @property
    def values(self) -> list[Any]:
        """One JSON value a row, or a Problem; made when first asked for."""
        if self._values is None:
            self._values = self._engine.values(self.outputs)
            self.faulty = Problem in map(type, self._values)
        return self._values


class Share(msgspec.Struct, frozen=True, gc=False):
    """A request's part of a batch: its rows from `first` to before `end`."""

    batch: Batch
    first: int
    end: int

    @property
    def values(self) -> list[Any]:
        """Its JSON values."""
        return self.batch.values[self.first : self.end]

    @property
    def outputs(self) -> Tensors:
        """Its tensors."""
        return {name: array[self.first : self.end] for name, array in self.batch.outputs.items()}


Outcome: TypeAlias = "Share | Problem"


class Job(msgspec.Struct, eq=False):
    """A request on its way through the model."""

    inputs: Inputs
    rows: int
    done: Callable[[Outcome], None]
    """Called once on the event loop, unless the caller has left."""
    caller: Caller = _SOMEONE
    deadline: float = math.inf
    """As time.perf_counter(): not run any more after it."""
    size: int = 0
    """Bytes that it holds while it waits."""
    shape: object = None
    """Only jobs of equal shape share a run; set where shapes vary."""


@dataclass(frozen=True, kw_only=True)
class QueueLimits:
    """What may wait for the model; more is shed."""

    rows: int
    bytes: int
    seconds: float
    """The longest wait that a new request may expect."""


class Observer(Protocol):
    """Who counts."""

    def ran(self, inputs: Tensors, batch: Batch) -> None:
        """A run has ended; `inputs` are its rows as they were sent."""
        ...

    def shed(self) -> None:
        """A request was turned away."""
        ...

    def expired(self) -> None:
        """A request's time was up before its run."""
        ...

    def abandoned(self) -> None:
        """A request's client left before its run."""
        ...


class Batcher:
    """Feeds an Engine, one batch at a time."""

    def __init__(self, engine: Engine, limits: QueueLimits, observer: Observer, *, shapes_vary: bool) -> None:
        self._engine = engine
        self._limits = limits
        self._observer = observer
        self._shapes_vary = shapes_vary
        self._queue: deque[Job] = deque()
        self._busy = False
        self._running_rows = 0
        self._taken_rows = 0
        self._taken_at = 0.0
        self._loaded = False
        """Whether the latest batch left some waiting, so that it says what rows take when there are many."""
        self._bytes = 0
        self._seconds_per_row = engine.seconds_per_row
        self._plenty_rows = min(engine.best_rows, limits.rows)
        """Up to so many wait for one run only, and need no judgement."""
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="inference")
        self.waiting_rows = 0

    @property
    def wait_seconds(self) -> float:
        """How long a request that came now would wait for its run, as far as can be told."""
        return (self.waiting_rows + self._running_rows) * self._seconds_per_row

    def submit(self, job: Job) -> None:
        """Take a job; a Problem with status 429 when it would wait too long or too much waits already."""
        if self.waiting_rows + job.rows > self._plenty_rows or self._bytes + job.size > self._limits.bytes:
            self._admit(job)
        if self._shapes_vary and not isinstance(job.inputs, list):
            job.shape = {name: array.shape[1:] for name, array in job.inputs.items()}
        self._queue.append(job)
        self.waiting_rows += job.rows
        self._bytes += job.size
        if not self._busy:
            self._busy = True
            # Not right away: what else this turn of the loop brings joins the batch; a lone request waits for nothing.
            self._loop.call_soon(self._run_next)

    def _admit(self, job: Job) -> None:
        limits, wait = self._limits, self.wait_seconds
        fits = self.waiting_rows + job.rows <= limits.rows and self._bytes + job.size <= limits.bytes
        if self._queue and not (fits and wait <= min(limits.seconds, job.deadline - time.perf_counter())):
            self._observer.shed()
            message = f"{self.waiting_rows} rows wait for the model, for about {wait:.1f} seconds"
            raise Problem(429, "overloaded", message, headers=(("retry-after", str(max(1, math.ceil(wait)))),))

    def drop(self) -> None:
        """Let go of what waits in vain: its time is up, or its client has left. To be called now and then."""
        now = time.perf_counter()
        kept: deque[Job] = deque()
        vain: list[Job] = []
        for job in self._queue:
            (vain if job.caller.abandoned or now > job.deadline else kept).append(job)
        self._queue = kept
        self.waiting_rows -= sum(job.rows for job in vain)
        self._bytes -= sum(job.size for job in vain)
        for job in vain:  # only now: who is told may submit the next job at once
            self._let_go(job)

    def _let_go(self, job: Job) -> None:
        if job.caller.abandoned:
            self._observer.abandoned()
        else:
            self._observer.expired()
            message = "the request's time was up before the model was free"
            self._deliver(job, Problem(504, "deadline_exceeded", message))

    def _take(self) -> list[Job]:
        """The next batch: the oldest job, and what fits to it in shape and in number."""
        batch: list[Job] = []
        others: list[Job] = []
        rows = 0
        now = time.perf_counter()
        if self._loaded:
            self._learn(now)  # from batch to batch: what is done between runs takes its time, too
        while self._queue and rows < self._engine.best_rows:
            job = self._queue.popleft()
            if batch and job.shape != batch[0].shape:
                others.append(job)
                continue
            if batch and rows + job.rows > self._engine.best_rows:
                others.append(job)
                break
            self.waiting_rows -= job.rows
            self._bytes -= job.size
            if job.caller.abandoned or now > job.deadline:
                self._let_go(job)
            else:
                batch.append(job)
                rows += job.rows
        self._queue.extendleft(reversed(others))
        self._running_rows = self._taken_rows = rows
        self._taken_at = now
        self._loaded = bool(self._queue)
        return batch

    def _run_next(self) -> None:
        batch = self._take()
        if not batch:
            self._busy = False
        elif self._running_rows <= self._engine.inline_rows:
            self._finish(self._attempt(batch))
        else:
            run = self._loop.run_in_executor(self._thread, self._attempt, batch)
            run.add_done_callback(lambda done: self._finish(done.result()))

    def _attempt(self, jobs: list[Job]) -> list[_Run]:
        """All jobs, in one run if that goes well. Never raises."""
        runs: list[_Run] = []
        if self._engine.prepares:
            ready: list[Job] = []
            for job in jobs:
                try:
                    job.inputs = self._engine.prepare(job.inputs)
                    ready.append(job)
                except Exception as error:
                    runs.append(_Run([job], {}, _problem(error)))
            jobs = ready
        return runs + self._run(jobs) if jobs else runs

    def _run(self, jobs: list[Job]) -> list[_Run]:
        started = time.perf_counter()
        try:
            inputs = self._engine.join([job.inputs for job in jobs])
            outputs = self._engine.run(inputs)
        except Exception as error:
            if len(jobs) == 1:
                return [_Run(jobs, {}, _problem(error))]
            half = len(jobs) // 2  # only the culprit fails, and one among many costs few runs
            return self._run(jobs[:half]) + self._run(jobs[half:])
        rows = sum([job.rows for job in jobs])
        return [_Run(jobs, inputs, Batch(self._engine, outputs, rows, started, time.perf_counter() - started))]

    def _finish(self, runs: list[_Run]) -> None:
        if not self._loaded:
            self._learn(time.perf_counter())
        for jobs, inputs, outcome in runs:
            first = 0
            if isinstance(outcome, Batch):
                self._note(inputs, outcome)
            for job in jobs:
                end = first + job.rows
                if not job.caller.abandoned:
                    self._deliver(job, Share(outcome, first, end) if isinstance(outcome, Batch) else outcome)
                first = end
        self._running_rows = 0
        if self._queue:
            self._loop.call_soon(self._run_next)
        else:
            self._busy = self._loaded = False

    def _learn(self, now: float) -> None:
        """What a row takes: from many, or from few that are faster than many were thought to be."""
        more = (now - self._taken_at) / self._taken_rows - self._seconds_per_row
        if self._loaded or more < 0:
            self._seconds_per_row += _NEWEST_SHARE * more

    def _note(self, inputs: Tensors, batch: Batch) -> None:
        try:
            self._observer.ran(inputs, batch)
        except Exception as error:
            log.logger.error("a run could not be counted", exc_info=error)

    def _deliver(self, job: Job, outcome: Outcome) -> None:
        """Never raises."""
        try:
            job.done(outcome)
        except Exception as error:
            with contextlib.suppress(Exception):
                job.done(_problem(error))


class _Run(NamedTuple):
    jobs: list[Job]
    inputs: Tensors
    outcome: Batch | Problem


def _problem(error: Exception) -> Problem:
    if isinstance(error, Problem):
        return error
    log.logger.error("the model's run failed", exc_info=error)
    return Problem(500, "internal_error", "the server failed; its log says why")
