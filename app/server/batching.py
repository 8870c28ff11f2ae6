"""Requests -> batches: at once when the model is idle, gathered while it is busy, bounded in rows.

All of it runs on the event loop; only a run that would hold the loop up goes to the one inference thread.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from .codec import Array
from .problem import Problem

Predict = Callable[[Array], list[Any]]


class _Waiting:
    """A request's rows and where its answer goes."""

    __slots__ = ("answer", "rows")

    def __init__(self, rows: Array, answer: asyncio.Future[list[Any]]) -> None:
        self.rows = rows
        self.answer = answer


class Batcher:
    """Feeds `predict`, one batch at a time."""

    def __init__(
        self, predict: Predict, *, inline_rows: int, max_rows: int, on_batch: Callable[[int, float], None]
    ) -> None:
        """`max_rows` bounds the rows that wait, and so a batch, which is all of them.

        `on_batch` hears of each batch's rows and seconds.
        """
        self._predict = predict
        self._inline_rows = inline_rows
        self._max_rows = max_rows
        self._on_batch = on_batch
        self._queue: list[_Waiting] = []
        self._busy = False
        self._seconds_per_row = 0.0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="inference")
        self.waiting_rows = 0

    async def predict(self, rows: Array) -> list[Any]:
        """The answers to `rows`, in order; a Problem with status 429 when too many rows wait already."""
        if self.waiting_rows and self.waiting_rows + len(rows) > self._max_rows:
            seconds = max(1, math.ceil(self.waiting_rows * self._seconds_per_row))
            raise Problem(
                429, "overloaded", f"{self.waiting_rows} rows are waiting", headers=(("retry-after", str(seconds)),)
            )
        loop = asyncio.get_running_loop()
        waiting = _Waiting(rows, loop.create_future())
        self._queue.append(waiting)
        self.waiting_rows += len(rows)
        if not self._busy:
            self._busy = True
            # Not right away: what else this turn of the loop brings joins the batch; a lone request waits for nothing.
            loop.call_soon(self._run_next, loop)
        return await waiting.answer

    def _take(self) -> list[_Waiting]:
        batch = [waiting for waiting in self._queue if not waiting.answer.cancelled()]
        self._queue = []
        self.waiting_rows = 0
        return batch

    def _run_next(self, loop: asyncio.AbstractEventLoop) -> None:
        batch = self._take()
        if not batch:
            self._busy = False
        elif sum(len(waiting.rows) for waiting in batch) <= self._inline_rows:
            self._finish(loop, batch, self._run(batch))
        else:
            run = loop.run_in_executor(self._thread, self._run, batch)
            run.add_done_callback(lambda done: self._finish(loop, batch, done.result()))

    def _run(self, batch: list[_Waiting]) -> list[list[Any] | Exception]:
        """The answers to each request of the batch, or its error. Never raises."""
        start = time.perf_counter()
        outcomes = self._attempt(batch)
        seconds = time.perf_counter() - start
        rows = sum(len(waiting.rows) for waiting in batch)
        self._seconds_per_row += 0.1 * (seconds / rows - self._seconds_per_row)
        self._on_batch(rows, seconds)
        return outcomes

    def _attempt(self, batch: list[_Waiting]) -> list[list[Any] | Exception]:
        try:
            if len(batch) == 1:
                return [self._predict(batch[0].rows)]
            answers = self._predict(np.concatenate([waiting.rows for waiting in batch]))
        except Exception as error:
            if len(batch) == 1:
                return [error]
            return [outcome for waiting in batch for outcome in self._attempt([waiting])]  # only the culprit fails
        outcomes: list[list[Any] | Exception] = []
        first = 0
        for waiting in batch:
            outcomes.append(answers[first : first + len(waiting.rows)])
            first += len(waiting.rows)
        return outcomes

    def _finish(
        self, loop: asyncio.AbstractEventLoop, batch: list[_Waiting], outcomes: list[list[Any] | Exception]
    ) -> None:
        for waiting, outcome in zip(batch, outcomes, strict=True):
            if waiting.answer.cancelled():
                continue
            if isinstance(outcome, Exception):
                waiting.answer.set_exception(outcome)
            else:
                waiting.answer.set_result(outcome)
        if self._queue:
            loop.call_soon(self._run_next, loop)
        else:
            self._busy = False
