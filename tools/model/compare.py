"""Compares the converted model's answers with the original's, and a row's with those it gets in other company."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from tools.model.errors import ModelError
from tools.model.tensors import Array, Tensors, row_count

_MIN_RELATIVE = 1e-3
"""Relative differences of values below this say little."""
_MIXED_ROWS = 4
_SAME = 1e-5
"""Largest difference, as a part of the output's largest value, between two runs of the same kernels."""
_ROUNDED = 0.02
"""The same between runs of different numbers of rows, by other kernels, in half precision or quantized."""


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


Dependence: TypeAlias = Literal["rows", "chance"]
"""What a row's answer depends on besides the row itself: the rows beside it, or chance."""


def dependence(
    run: Callable[[Tensors], Tensors], feed: Tensors, rows: int, tolerance: float = _SAME
) -> Dependence | None:
    """Find out what answers depend on besides their rows, of which so many are run at once.

    A row among others is compared with itself among its own copies: as many rows take the same way through the same
    kernels, so that they do not differ by rounding, and any difference is the others' doing.
    """
    drawn = np.linspace(0, row_count(feed) - 1, rows).astype(int)
    mixed = {name: array[drawn] for name, array in feed.items()}
    answers = run(mixed)
    if _apart(answers, answers, run(mixed), tolerance):
        return "chance"
    for index in sorted({0, rows // 2, rows - 1}):
        row = slice(index, index + 1)
        copies = run({name: np.repeat(array[row], rows, axis=0) for name, array in mixed.items()})
        if _apart(answers, _part(answers, row), _part(copies, row), tolerance):
            return "rows"
    return None


def _part(tensors: Tensors, rows: slice) -> Tensors:
    return {name: array[rows] for name, array in tensors.items()}


def _apart(outputs: Tensors, some: Tensors, others: Tensors, tolerance: float) -> bool:
    """Tell whether answers differ by more than `tolerance` of the largest value in the output."""
    return any(_values_apart(array, some[name], others[name], tolerance) for name, array in outputs.items())


def _values_apart(output: Array, some: Array, others: Array, tolerance: float) -> bool:
    if some.shape != others.shape:
        return True
    if output.dtype.kind != "f":
        return bool(np.any(some != others))
    finite = np.isfinite(some)
    if np.any(finite != np.isfinite(others)):
        return True
    apart = np.abs(some[finite].astype(np.float64) - others[finite]).max(initial=0)
    scale = np.abs(output[np.isfinite(output)].astype(np.float64)).max(initial=0)
    return bool(apart > max(tolerance, 4 * float(np.finfo(output.dtype).eps)) * scale)


def check_independence(
    run: Callable[[Tensors], Tensors], feed: Tensors, together: Tensors, tolerance: float, repeat: int
) -> None:
    """ModelError when a row's answer depends on the rows beside it: the server runs different clients' rows together.

    `repeat` is the number of rows of every run, 1 where the model takes any; `together` are the answers to many rows.
    """
    found = dependence(run, feed, max(repeat, _MIXED_ROWS), tolerance)
    numbers = {name: array for name, array in together.items() if array.dtype.kind == "f"}  # a class may round over
    row = slice(0, 1)
    if found == "rows" or (
        found is None and repeat == 1 and _apart(numbers, _part(numbers, row), run(_part(feed, row)), _ROUNDED)
    ):
        others = "the other rows" if found else "the number of rows"
        raise ModelError(
            f"a row's answer depends on {others} in its batch, so rows must not be run together: --batch 1 runs each by"
            " itself; where the rows together are one input, --batch none"
        )
