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
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

import msgspec

from . import log
from .errors import Problem, problem_of
from .model.calibration import Calibration
from .model.inputs import Inputs
from .model.tensors import Tensors

_Result = TypeVar("_Result")

_EWMA_WEIGHT = 0.2
"""Weight of the newest batch in the moving average of seconds per cost."""


class Cancellable(Protocol):
    """`abandoned` is set when the client disconnects."""

    abandoned: bool


class _Uncancelled:
    abandoned = False


_UNCANCELLED = _Uncancelled()


class Engine(Protocol):
    """The model to run. `prepare`, `join` and `run` are called from one thread at a time."""

    prepares: bool
    """Whether `prepare` does anything."""
    sizes_vary: bool
    """Whether two requests may have rows of different shapes, or texts of different lengths."""

    def row_cost(self, inputs: Tensors) -> int:
        """Tell what the largest row costs, where sizes vary; a batch's cost is that of its largest row, for each."""
        ...

    def prepare(self, inputs: Inputs) -> Inputs:
        """Turn what one request sent into what `join` takes. Raises a Problem for what is wrong with it."""
        ...

    def join(self, inputs: list[Inputs]) -> Tensors:
        """Concatenate the rows of several requests, in order."""
        ...

    def run(self, inputs: Tensors, max_rows: int) -> Tensors:
        """Return as many rows as `inputs` has, run in parts of `max_rows`. Raises a Problem when it has no answer."""
        ...


class Batch(msgspec.Struct, eq=False):
    """The outcome of one run, for all requests that were in it."""

    outputs: Tensors
    rows: int
    started: float
    """Start of the run, as time.perf_counter()."""
    seconds: float
    encoded: Any = None
    """The encoded answers of all requests, made by the first to be answered."""


class BatchSlice(msgspec.Struct, frozen=True, gc=False):
    """One request's rows within a batch: from `first` to before `end`."""

    batch: Batch
    first: int
    end: int

    @property
    def outputs(self) -> Tensors:
        """Its tensors."""
        return {name: array[self.first : self.end] for name, array in self.batch.outputs.items()}


Outcome: TypeAlias = "BatchSlice | Problem"


class Job(msgspec.Struct, eq=False):
    """A request on its way through the model."""

    inputs: Inputs
    rows: int
    done: Callable[[Outcome], None]
    """Called once on the event loop, unless `caller` is abandoned."""
    caller: Cancellable = _UNCANCELLED
    deadline: float = math.inf
    """Deadline as time.perf_counter(); a job is not run after it."""
    size: int = 0
    """Bytes that it holds while it waits."""
    shape: object = None
    """Set where sizes vary: only jobs of equal shape share a run."""
    row_cost: int = 1
    """Cost of its largest row; set where sizes vary."""


@dataclass(frozen=True, kw_only=True)
class QueueLimits:
    """Bounds of the queue; more is shed."""

    rows: int
    bytes: int
    seconds: float
    """Longest wait that a new request may expect."""


class Observer(Protocol):
    """Counts what the batcher does."""

    def ran(self, rows: int, inputs: Tensors, outputs: Tensors) -> None:
        """Count a run; `inputs` are its rows as they were sent."""
        ...

    def shed(self) -> None:
        """Count a request turned away."""
        ...

    def expired(self) -> None:
        """Count a request past its deadline before its run."""
        ...

    def abandoned(self) -> None:
        """Count a request whose client disconnected before its run."""
        ...


class Batcher:
    """Feeds an Engine, one batch at a time."""

    def __init__(self, engine: Engine, calibration: Calibration, limits: QueueLimits, observer: Observer) -> None:
        self._engine = engine
        self._inline_rows = calibration.inline_rows
        self._best_rows = calibration.best_rows
        self._inline_cost = calibration.inline_rows * calibration.row_cost
        self._best_cost = calibration.best_rows * calibration.row_cost
        self._limits = limits
        self._observer = observer
        self._sizes_vary = engine.sizes_vary
        self._queue: deque[Job] = deque()
        self._busy = False
        self._running_rows = 0
        self._running_cost = 0
        self._waiting_cost = 0
        """Kept where sizes vary; else it is `waiting_rows`."""
        self._taken_cost = 0
        self._taken_at = 0.0
        self._backlogged = False
        """The latest batch left jobs waiting, so that its time tells what a row takes when there are many."""
        self._bytes = 0
        self._seconds_per_cost = calibration.seconds_per_row / calibration.row_cost
        self._next_batch_rows = min(calibration.best_rows, limits.rows)
        """Up to so many rows wait for the next run only, and are admitted unseen."""
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="inference")
        self.waiting_rows = 0

    @property
    def wait_seconds(self) -> float:
        """Expected wait of a request that comes now."""
        waiting_cost = self._waiting_cost if self._sizes_vary else self.waiting_rows
        return (waiting_cost + self._running_cost) * self._seconds_per_cost

    @property
    def idle(self) -> bool:
        """Whether no job is running or waiting."""
        return not self._busy

    def submit(self, job: Job) -> None:
        """Queue a job; a Problem with status 429 when it would wait too long or too much waits already."""
        if self.waiting_rows + job.rows > self._next_batch_rows or self._bytes + job.size > self._limits.bytes:
            self._admit(job)
        if self._sizes_vary and isinstance(job.inputs, dict):
            job.shape = {name: array.shape[1:] for name, array in job.inputs.items()}
            job.row_cost = self._engine.row_cost(job.inputs)
            self._waiting_cost += job.rows * job.row_cost
        self._queue.append(job)
        self.waiting_rows += job.rows
        self._bytes += job.size
        if not self._busy:
            self._busy = True
            # Later in this turn of the loop: what else it brings joins the batch, and a lone request waits for nothing.
            self._loop.call_soon(self._run_next)

    def _admit(self, job: Job) -> None:
        limits, wait = self._limits, self.wait_seconds
        fits = self.waiting_rows + job.rows <= limits.rows and self._bytes + job.size <= limits.bytes
        if self._queue and not (fits and wait <= min(limits.seconds, job.deadline - time.perf_counter())):
            self._observer.shed()
            message = f"{self.waiting_rows} rows wait for the model, for about {wait:.1f} seconds"
            raise Problem(429, "overloaded", message, headers=(("retry-after", str(max(1, math.ceil(wait)))),))

    def expire_queued(self) -> None:
        """Remove queued jobs past their deadline or abandoned. Call it a few times a second."""
        now = time.perf_counter()
        kept: deque[Job] = deque()
        expired: list[Job] = []
        for job in self._queue:
            (expired if job.caller.abandoned or now > job.deadline else kept).append(job)
        self._queue = kept
        self.waiting_rows -= sum(job.rows for job in expired)
        if self._sizes_vary:
            self._waiting_cost -= sum(job.rows * job.row_cost for job in expired)
        self._bytes -= sum(job.size for job in expired)
        for job in expired:  # only now: its reply may submit the client's next job at once
            self._expire(job)

    def _expire(self, job: Job) -> None:
        if job.caller.abandoned:
            self._observer.abandoned()
        else:
            self._observer.expired()
            message = "the request's time was up before the model was free"
            self._deliver(job, Problem(504, "deadline_exceeded", message))

    def _next_batch(self) -> list[Job]:
        """Take the oldest job, and those that fit it in shape, in number and in cost."""
        batch: list[Job] = []
        others: list[Job] = []
        rows, row_cost, max_rows = 0, 1, self._best_rows
        now = time.perf_counter()
        if self._backlogged:
            self._update_seconds_per_cost(now)  # from batch to batch: what is done between runs takes its time, too
        while self._queue and rows < max_rows:
            job = self._queue.popleft()
            if batch and job.shape != batch[0].shape:
                others.append(job)
                continue
            limit = self._max_rows(job.row_cost) if job.row_cost > row_cost else max_rows
            if batch and rows + job.rows > limit:
                others.append(job)
                break
            self.waiting_rows -= job.rows
            if self._sizes_vary:
                self._waiting_cost -= job.rows * job.row_cost
            self._bytes -= job.size
            if job.caller.abandoned or now > job.deadline:
                self._expire(job)
            else:
                batch.append(job)
                rows += job.rows
                if job.row_cost > row_cost:
                    row_cost, max_rows = job.row_cost, limit
        self._queue.extendleft(reversed(others))
        self._running_rows = rows
        self._running_cost = self._taken_cost = rows * row_cost
        self._taken_at = now
        self._backlogged = bool(self._queue)
        return batch

    def _max_rows(self, row_cost: int) -> int:
        """Rows of this cost in a batch, at most: as many as were best, of as much as those held."""
        return max(1, min(self._best_rows, self._best_cost // row_cost))

    def _run_next(self) -> None:
        batch = self._next_batch()
        if not batch:
            self._busy = False
        elif self._running_rows <= self._inline_rows and self._running_cost <= self._inline_cost:
            self._finish(self._attempt(batch))
        else:
            run = self._loop.run_in_executor(self._thread, self._attempt, batch)
            run.add_done_callback(lambda done: self._finish(done.result()))

    def _attempt(self, jobs: list[Job]) -> list[_Run]:
        """Prepare and run all jobs, in one run if that goes well. Never raises."""
        runs: list[_Run] = []
        if self._engine.prepares:
            ready: list[Job] = []
            for job in jobs:
                try:
                    job.inputs = self._engine.prepare(job.inputs)
                    ready.append(job)
                except Exception as error:
                    runs.append(_Run([job], {}, problem_of(error, "run_failed")))
            jobs = ready
        return runs + self._run(jobs) if jobs else runs

    def _run(self, jobs: list[Job]) -> list[_Run]:
        try:
            return [self._run_together(jobs)]
        except Exception as error:
            if len(jobs) == 1:
                return [_Run(jobs, {}, problem_of(error, "run_failed"))]
        # Out of the handler, because the error holds the arrays of the run that failed, perhaps for lack of memory.
        half = len(jobs) // 2  # only the culprit fails, and one among many costs few runs
        return self._run(jobs[:half]) + self._run(jobs[half:])

    def _run_together(self, jobs: list[Job]) -> _Run:
        started = time.perf_counter()
        inputs = self._engine.join([job.inputs for job in jobs])
        max_rows = self._best_rows
        if self._sizes_vary:
            max_rows = self._max_rows(max([job.row_cost for job in jobs]))
        outputs = self._engine.run(inputs, max_rows)
        rows = sum([job.rows for job in jobs])
        return _Run(jobs, inputs, Batch(outputs, rows, started, time.perf_counter() - started))

    def _finish(self, runs: list[_Run]) -> None:
        if not self._backlogged:
            self._update_seconds_per_cost(time.perf_counter())
        for jobs, inputs, outcome in runs:
            first = 0
            if isinstance(outcome, Batch):
                self._count(inputs, outcome)
            for job in jobs:
                end = first + job.rows
                if not job.caller.abandoned:
                    self._deliver(job, BatchSlice(outcome, first, end) if isinstance(outcome, Batch) else outcome)
                first = end
        self._running_rows = self._running_cost = 0
        if self._queue:
            self._loop.call_soon(self._run_next)
        else:
            self._busy = self._backlogged = False

    def _update_seconds_per_cost(self, now: float) -> None:
        """Average over batches of a backlog, and over small ones only where they are faster than the average."""
        change = (now - self._taken_at) / self._taken_cost - self._seconds_per_cost
        if self._backlogged or change < 0:
            self._seconds_per_cost += _EWMA_WEIGHT * change

    def _count(self, inputs: Tensors, batch: Batch) -> None:
        try:
            self._observer.ran(batch.rows, inputs, batch.outputs)
        except Exception as error:
            log.logger.error("run_not_counted", exc_info=error)

    def _deliver(self, job: Job, outcome: Outcome) -> None:
        """Tell the job its outcome; if that raises, that it failed. Never raises."""
        try:
            job.done(outcome)
        except Exception as error:
            with contextlib.suppress(Exception):
                job.done(problem_of(error, "run_failed"))


class StreamBatcher(Batcher):
    """A Batcher that also runs the steps of streams, in turn with batches.

    A class of its own, so that a server whose model does not stream does nothing for it.
    """

    def __init__(self, engine: Engine, calibration: Calibration, limits: QueueLimits, observer: Observer) -> None:
        super().__init__(engine, calibration, limits, observer)
        self._steps: deque[tuple[Callable[[], Any], Callable[[Any], None]]] = deque()
        self._batch_is_next = False
        """Whether the latest run was a step."""

    def submit_step(self, step: Callable[[], _Result], done: Callable[[_Result], None]) -> None:
        """Run `step`, which never raises, on the inference thread; `done` gets its result on the event loop.

        Steps are run in the order in which they are submitted: one at a time of each stream, so that all advance alike.
        """
        self._steps.append((step, done))
        self._wake()

    def _wake(self) -> None:
        if self._steps and not self._busy:
            self._busy = True
            self._loop.call_soon(self._run_next)

    def _run_next(self) -> None:
        if self._steps and not (self._batch_is_next and self._queue):
            self._batch_is_next = True
            step, done = self._steps.popleft()
            self._loop.run_in_executor(self._thread, step).add_done_callback(partial(self._finish_step, done))
        else:
            self._batch_is_next = False
            super()._run_next()
            self._wake()

    def _finish(self, runs: list[_Run]) -> None:
        super()._finish(runs)
        self._wake()

    def _finish_step(self, done: Callable[[Any], None], run: asyncio.Future[Any]) -> None:
        try:
            done(run.result())
        finally:
            if self._steps or self._queue:
                self._loop.call_soon(self._run_next)
            else:
                self._busy = False


class _Run(NamedTuple):
    jobs: list[Job]
    inputs: Tensors
    outcome: Batch | Problem
