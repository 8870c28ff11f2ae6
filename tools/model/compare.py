"""Compares the converted model's answers with the original's, and a row's with those it gets in other company."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tools.model.errors import ModelError
from tools.model.tensors import Array, Tensors, row_count

_MIN_RELATIVE = 1e-3
"""Relative differences of values below this say little."""
_ALONE_ROWS = 4
"""Rows that are also asked for by themselves."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The largest differences between two models' answers."""

    rows: int = 0
    absolute: float = 0.0
    relative: float = 0.0
    """Measured on values of at least 0.001."""

    def merge(self, other: Difference) -> Difference:
        """Join two comparisons."""
        return Difference(
            rows=self.rows + other.rows,
            absolute=max(self.absolute, other.absolute),
            relative=max(self.relative, other.relative),
        )


def difference(expected: Tensors, actual: Tensors, tolerance: float) -> Difference:
    """Measure it; ModelError when a value differs by more than `tolerance`, abs + relative, or a class at all."""
    found = Difference(rows=row_count(expected))
    for name, wanted in expected.items():
        if name not in actual:
            raise ModelError(f"the converted model has no output {name}; it has {', '.join(actual)}")
        given = actual[name][: found.rows]
        if given.shape != wanted.shape:
            if given.size != wanted.size:
                raise ModelError(f"output {name}: the original gives {wanted.shape}, the converted model {given.shape}")
            given = given.reshape(wanted.shape)
        if wanted.dtype.kind != "f":
            _check_equal(name, wanted, given)
        else:
            found = found.merge(_measure(name, wanted, given, tolerance))
    return found


def _check_equal(name: str, wanted: Array, given: Array) -> None:
    different = int((wanted != given.astype(wanted.dtype)).reshape(len(wanted), -1).any(axis=1).sum())
    if different:
        raise ModelError(
            f"output {name}: the converted model says something else than the original in {different} of {len(wanted)}"
            " rows"
        )


def _measure(name: str, wanted: Array, given: Array, tolerance: float) -> Difference:
    wanted, given = wanted.astype(np.float64), given.astype(np.float64)
    same = (wanted == given) | (np.isnan(wanted) & np.isnan(given))
    with np.errstate(invalid="ignore"):
        distance = np.where(same, 0.0, np.abs(wanted - given))
    distance = np.where(np.isnan(distance), np.inf, distance)
    size = np.abs(wanted)
    large = np.isfinite(size) & (size >= _MIN_RELATIVE)
    beyond = distance > tolerance * (1 + np.where(np.isfinite(size), size, 0.0))
    if beyond.any():
        rows = int(beyond.reshape(len(wanted), -1).any(axis=1).sum())
        raise ModelError(
            f"output {name}: the converted model differs from the original by up to {float(distance.max()):.3g}"
            f" in {rows} of {len(wanted)} rows, more than --tolerance {tolerance:g} allows"
        )
    relative = (distance[large] / size[large]).max(initial=0.0)
    return Difference(absolute=float(distance.max(initial=0.0)), relative=float(relative))


def check_independence(
    run: Callable[[Tensors], Tensors], feed: Tensors, together: Tensors, tolerance: float, repeat: int
) -> None:
    """ModelError when a row's answer depends on the rows beside it: the server runs different clients' rows together.

    Some rows are asked for again, each `repeat` times over.
    """
    for index in range(min(_ALONE_ROWS, row_count(feed))):
        alone = run({name: np.repeat(array[index : index + 1], repeat, axis=0) for name, array in feed.items()})
        try:
            difference(
                {name: array[index : index + 1] for name, array in together.items()},
                {name: array[:1] for name, array in alone.items()},
                tolerance,
            )
        except ModelError:
            raise ModelError(
                "a row's answer depends on the other rows in its batch, so rows must not be run together: --batch 1"
                if repeat == 1
                else "a row's answer depends on the other rows in its batch: this model cannot serve several clients"
            ) from None
