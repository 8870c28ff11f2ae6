"""Calibration: the batch sizes at which a model runs best, measured at the start."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import Problem, StartError

if TYPE_CHECKING:
    from .loaded_model import Model
    from .tensors import Tensors

_INLINE_SECONDS = 0.0005
"""A longer run is worth handing to the inference thread."""
_MAX_INLINE_ROWS = 256
_MAX_RUN_SECONDS = 0.1
"""Longest run of a gathered batch: the next request must not wait longer for the sake of throughput."""
_BATCH_COST_TOLERANCE = 1.05
"""A larger batch may take so much more time per row, because it saves what a run costs besides."""
_SEARCH_SECONDS = 0.3
"""Budget of the whole calibration, apart from one run of each size."""
_RUNS = 20


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A model's run times, as far as they decide how requests are batched."""

    best_rows: int
    """Rows at which a run takes the least time per row; a batch has no more, unless one request does."""
    inline_rows: int
    """Up to so many rows, a run takes less time than handing it to a thread; 0: it always takes more."""
    seconds_per_row: float
    """Seconds per row in a run of `best_rows`."""


def calibrate(model: Model, row: Tensors) -> Calibration:
    """Time runs on copies of `row`, doubling their number. A StartError if the model cannot run several at once."""
    search_ends = time.perf_counter() + _SEARCH_SECONDS
    size = model.manifest.fixed_rows or 1
    seconds: dict[int, float] = {}
    while size <= model.max_rows:
        seconds[size] = latest = _fastest_run(model, row, size)
        if latest * 2 > _MAX_RUN_SECONDS or time.perf_counter() + latest * 4 > search_ends:
            break
        size *= 2
    for size, before in seconds.items():  # once more, in case another process was in the way
        if time.perf_counter() + before < search_ends:
            seconds[size] = min(before, _fastest_run(model, row, size))
    inline = [rows for rows, taken in seconds.items() if taken <= _INLINE_SECONDS and rows <= _MAX_INLINE_ROWS]
    per_row = {rows: taken / rows for rows, taken in seconds.items()}
    fastest = min(per_row.values())
    best_rows = max(rows for rows, taken in per_row.items() if taken <= fastest * _BATCH_COST_TOLERANCE)
    return Calibration(
        best_rows=best_rows,
        inline_rows=0 if model.prepares else max(inline, default=0),
        seconds_per_row=per_row[best_rows],
    )


def _fastest_run(model: Model, row: Tensors, size: int) -> float:
    """Best of up to 20 timed runs on `size` copies of `row`, in seconds."""
    rows = {name: array.repeat(size, axis=0) for name, array in row.items()}
    fastest = math.inf
    start = end = time.perf_counter()
    for _ in range(_RUNS):
        try:
            model.run(rows, size)
        except Problem as problem:
            message = f"the model cannot run {size} rows at once, as its batching says: {problem.message}"
            raise StartError(message) from None
        begun, end = end, time.perf_counter()
        fastest = min(fastest, end - begun)
        if end - start > _RUNS * _INLINE_SECONDS:
            break
    return fastest
