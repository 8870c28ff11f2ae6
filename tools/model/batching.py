"""Batching: the rows that a model takes in one run, and the loop that runs any number of rows by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tools.model.errors import ModelError
from tools.model.tensors import Tensors


@dataclass(frozen=True)
class Batching:
    """`dynamic`: any number of rows; `fixed`: always `rows`; `none`: one row, without a batch's axis."""

    mode: Literal["dynamic", "fixed", "none"] = "dynamic"
    rows: int = 0

    def run_rows(self, dynamic: int) -> int:
        """The rows of one run: `dynamic` where the model takes any number."""
        return {"dynamic": dynamic, "fixed": self.rows, "none": 1}[self.mode]

    def shape(self, row_shape: tuple[int, ...]) -> list[int]:
        """A tensor's shape as model.json has it."""
        return [*{"dynamic": [-1], "fixed": [self.rows], "none": []}[self.mode], *row_shape]

    def row_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """A row's shape, of the tensor's own."""
        return shape if self.mode == "none" else shape[1:]


Run = Callable[[Tensors, range], Tensors]
"""One run on these arrays; the range has the rows' places in the whole, for messages."""


def run_in_batches(run: Run, feed: Tensors, rows: int, batching: Batching, dynamic: int) -> Tensors:
    """Run the first `rows` rows, `dynamic` at once where the model takes any number, and join the outputs.

    The last batch of a fixed size is filled up with copies of the last row.
    """
    size = batching.run_rows(dynamic)
    runs = [_run(run, feed, range(start, min(start + size, rows)), batching) for start in range(0, rows, size)]
    return {name: np.concatenate([outputs[name] for outputs in runs]) for name in runs[0]}


def _run(run: Run, feed: Tensors, rows: range, batching: Batching) -> Tensors:
    if batching.mode == "none":
        outputs = run({name: np.asarray(array[rows.start]) for name, array in feed.items()}, rows)
        return {name: output[np.newaxis] for name, output in outputs.items()}
    indices = np.minimum(np.arange(rows.start, rows.start + (batching.rows or len(rows))), rows[-1])
    outputs = run({name: array[indices] for name, array in feed.items()}, rows)
    for name, output in outputs.items():
        if output.shape[:1] != (len(indices),):
            raise ModelError(
                f"output {name} has shape {list(output.shape)} for {len(indices)} rows, not an answer a row:"
                " if the model takes one row without a batch, --batch none"
            )
    return {name: output[: len(rows)] for name, output in outputs.items()}
