"""Calibration: the batch sizes at which a model runs best, measured at the start."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import Problem, StartError
from .loaded_model import MAX_RUN_COST

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
_LONGEST_TO_TYPICAL = 16


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A model's run times, as far as they decide how requests are batched."""

    best_rows: int
    """Rows at which a run takes the least time per row; a batch has no more, unless one request does."""
    inline_rows: int
    """Up to so many rows, a run takes less time than handing it to a thread; 0: it always takes more."""
    seconds_per_row: float
    """Seconds per row in a run of `best_rows`."""
    row_cost: int = 1
    """Cost of each of these rows, see Model.row_cost; 1 where all rows are alike."""


def calibrate(model: Model, row: Tensors, example_seconds: float = 0.0) -> Calibration:
    """Time runs on copies of `row`, doubling their number. A StartError if the model cannot run several at once.

    `example_seconds` is what the example took; a model that takes long is run once more, and no more.
    """
    row = _typical_row(model, row, example_seconds)
    row_cost = model.row_cost(row)
    search_ends = time.perf_counter() + _SEARCH_SECONDS
    size = model.manifest.fixed_rows or 1
    max_size = max(size, min(model.max_rows, MAX_RUN_COST // row_cost))
    seconds: dict[int, float] = {}
    while size <= max_size:
        try:
            seconds[size] = latest = _fastest_run(model, row, size)
        except MemoryError as error:
            if not seconds:
                raise StartError(f"the memory does not suffice for {size} rows like the example: {error}") from None
            break
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
        inline_rows=max(inline, default=0) if model.may_run_inline else 0,
        seconds_per_row=per_row[best_rows],
        row_cost=row_cost if model.sizes_vary else 1,
    )


def _typical_row(model: Model, row: Tensors, seconds: float) -> Tensors:
    """Double the example's axes of any size while the model takes it: an example is short, what clients send is not.

    Up to a sixteenth of the maximum: to 128, unless model.json has another.
    """
    free = {
        tensor.name: [axis for axis, size in enumerate(model.manifest.row_shape(tensor), start=1) if size == -1]
        for tensor in model.manifest.inputs
    }
    maxima = {tensor.name: tensor.max_size for tensor in model.manifest.inputs}
    while any(free.values()) and seconds * 4 <= _MAX_RUN_SECONDS:  # as attention takes for twice the length
        longer: Tensors = {}
        for name, array in row.items():
            for axis in free[name]:
                array = np.concatenate([array, array], axis)
            if any(array.shape[axis] * _LONGEST_TO_TYPICAL > maxima[name] for axis in free[name]):
                return row
            longer[name] = array
        start = time.perf_counter()
        try:
            model.run(longer)
        except (Problem, MemoryError):
            return row
        row, seconds = longer, time.perf_counter() - start
    return row


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
