"""Training inputs: read from a CSV or an .npz file, kept as plain arrays, and made into what a model takes."""

from __future__ import annotations

import csv
import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tools.model import npz
from tools.model.errors import ModelError, first_line
from tools.model.tensors import Array, Tensor, Tensors

MAX_ROWS = 10_000
"""Rows drawn from a larger file: enough for a profile, and the model has to run on each."""
_RANDOM_ROWS = 256
_MIN_RANDOM_ROWS = 8
_RANDOM_VALUES = 2**22
"""Values of all made-up rows of an input together, unless that leaves fewer than 8 rows."""
ANY_SIZE = 8
"""Stands for -1 in the shape of made-up rows."""
_SEED = 7
_BOOLEANS = {"true": True, "false": False}


@dataclass(frozen=True, kw_only=True)
class Table:
    """Arrays with the same number of rows; a CSV's columns have one value a row, in the file's order."""

    file: str
    """Its name, for messages."""
    columns: Tensors
    is_csv: bool
    rows: int
    all_rows: int
    """Rows in the file, of which `rows` were drawn."""

    def check_columns(self, wanted: list[str]) -> None:
        """Raise a ModelError when the model's features are not all there."""
        missing = [name for name in wanted if name not in self.columns]
        if missing:
            raise ModelError(f"{self.file} lacks columns that the model was trained with: {', '.join(missing)}")

    def save(self, folder: Path) -> None:
        """Write it for the process that converts."""
        (folder / "data.json").write_text(json.dumps(vars(self) | {"columns": None}))
        npz.save(folder / "data.npz", self.columns)

    @staticmethod
    def load(folder: Path) -> Table | None:
        """Read what `save` wrote; None when nothing was."""
        if not (folder / "data.json").is_file():
            return None
        description = json.loads((folder / "data.json").read_text())
        return Table(**(description | {"columns": npz.load(folder / "data.npz")}))


def read(path: Path, *, features: list[str], target: list[str]) -> Table:
    """Read the columns in `features`, or all but those in `target`; ModelError when that cannot be had."""
    is_csv = not zipfile.is_zipfile(path)
    columns = _read_csv(path) if is_csv else _read_npz(path)
    chosen = features if is_csv else []  # the features of arrays are inside them
    unknown = [name for name in (*chosen, *target) if name not in columns]
    if unknown:
        kind = "column" if is_csv else "array"
        raise ModelError(f"{path.name} has no {kind} {', '.join(unknown)}; it has {', '.join(columns)}")
    columns = {name: columns[name] for name in chosen or columns if name in chosen or name not in target}
    if not columns:
        raise ModelError(f"{path.name} has no inputs")
    sizes = {name: len(array) for name, array in columns.items()}
    if len(set(sizes.values())) > 1:
        raise ModelError(f"the arrays in {path.name} have different numbers of rows: {sizes}")
    rows = next(iter(sizes.values()))
    if not rows:
        raise ModelError(f"{path.name} has no rows")
    if rows > MAX_ROWS:
        drawn = np.sort(np.random.default_rng(_SEED).choice(rows, MAX_ROWS, replace=False))
        columns = {name: array[drawn] for name, array in columns.items()}
    return Table(file=path.name, columns=columns, is_csv=is_csv, rows=min(rows, MAX_ROWS), all_rows=rows)


def _read_npz(path: Path) -> Tensors:
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: np.asarray(file[name]) for name in file.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, NotImplementedError) as error:
        raise ModelError(f"{path.name} is not read: {first_line(error)}") from None
    for name, array in found.items():
        if array.ndim == 0 or array.dtype.kind not in "biufU":
            raise ModelError(
                f"array {name} in {path.name} must be rows of numbers, truths or strings, not {array.dtype}"
            )
    return found


def _read_csv(path: Path) -> Tensors:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = [line for line in csv.reader(file, strict=True) if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ModelError(f"{path.name} is neither an .npz file nor a CSV in UTF-8: {first_line(error)}") from None
    header = [name.strip() for name in lines[0]] if lines else []
    if not header or "" in header or len(set(header)) < len(header):
        raise ModelError(
            f"the first row of {path.name} must name each column once, not be {', '.join(header) or 'empty'}"
        )
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != len(header):
            raise ModelError(f"row {number} of {path.name} has {len(line)} values, the header has {len(header)}")
    if all(_is_number(name) for name in header):
        raise ModelError(f"{path.name} has no header: its first row must name the columns")
    return {name: _column([line[index] for line in lines[1:]]) for index, name in enumerate(header)}


def _column(texts: list[str]) -> Array:
    """Read numbers when all are, empty ones as NaN; else booleans when all are; else keep the strings."""
    stripped = [text.strip() for text in texts]
    try:
        return np.array([float(text) if text else np.nan for text in stripped], dtype=np.float64)
    except ValueError:
        booleans = [_BOOLEANS.get(text.lower()) for text in stripped]
        return np.array(texts if None in booleans else booleans)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def feed(table: Table | None, inputs: list[Tensor], sizes: Mapping[str, tuple[int, ...]] | None = None) -> Tensors:
    """Take the model's inputs from the table, or make them up without one; ModelError when the two do not fit.

    `sizes` are the made-up rows' shapes by input, where the model does not take just any size.
    """
    if table is None:
        shapes = {tensor.name: (sizes or {}).get(tensor.name) or _any_size(tensor) for tensor in inputs}
        largest = max(math.prod(shape) for shape in shapes.values())
        return made_up(inputs, shapes, min(_RANDOM_ROWS, max(_MIN_RANDOM_ROWS, _RANDOM_VALUES // largest)))
    return {tensor.name: _array(table, tensor, alone=len(inputs) == 1) for tensor in inputs}


def with_features(table: Table | None, inputs: list[Tensor]) -> list[Tensor]:
    """Name an only input's features by the CSV's columns, when it has no names and they are as many."""
    if len(inputs) != 1 or not table or not table.is_csv or inputs[0].features:
        return inputs
    tensor = inputs[0]
    if len(tensor.row_shape) != 1 or tensor.row_shape[0] != len(table.columns):
        return inputs
    return [replace(tensor, features=list(table.columns))]


def _array(table: Table, tensor: Tensor, *, alone: bool) -> Array:
    if tensor.features and table.is_csv:
        table.check_columns(tensor.features)
        values = [_cast(table, tensor, name, table.columns[name]) for name in tensor.features]
        return np.stack(values, axis=1)
    if tensor.name in table.columns:
        array = table.columns[tensor.name]
    elif alone and not table.is_csv and len(table.columns) == 1:
        array = next(iter(table.columns.values()))
    else:
        raise ModelError(_explain_misfit(table, tensor, alone=alone))
    if array.ndim == 1 and tensor.row_shape == (1,):
        array = array.reshape(-1, 1)
    if len(array.shape) != len(tensor.row_shape) + 1 or any(
        size not in (-1, actual) for size, actual in zip(tensor.row_shape, array.shape[1:], strict=True)
    ):
        raise ModelError(f"{table.file} has rows of shape {list(array.shape[1:])} for {tensor}")
    return _cast(table, tensor, tensor.name, array)


def _explain_misfit(table: Table, tensor: Tensor, *, alone: bool) -> str:
    kind = "columns" if table.is_csv else "arrays"
    has = f"{table.file} has the {kind} {', '.join(table.columns)}"
    if not alone:
        return f"{has}, and none of them is called {tensor.name}, which the model takes"
    if not table.is_csv:
        return f"{has}; the model takes one, {tensor}: call it {tensor.name}, or leave the others out with --target"
    if len(table.columns) > 1 and tensor.row_shape == (len(table.columns) - 1,):
        return (
            f"{has}, one more than {tensor} has: if it is what the model predicts, --target {list(table.columns)[-1]}"
        )
    return (
        f"{has}, {len(table.columns)} of them; the model takes {tensor}:"
        " leave columns out with --target a,b or choose them with --features a,b,c"
    )


def _cast(table: Table, tensor: Tensor, name: str, array: Array) -> Array:
    where = f"{name} in {table.file}"
    dtype = tensor.dtype
    if (array.dtype.kind == "U") != (dtype.kind == "U"):
        if dtype.kind == "U":
            return array.astype(np.str_)
        sample = next(str(value) for value in array.ravel() if not _is_number(str(value)))
        raise ModelError(f"{where} has the text {sample!r}, but the model takes {tensor.datatype}")
    if dtype.kind == "b" and array.dtype.kind != "b" and not np.isin(array, (0, 1)).all():
        raise ModelError(f"{where} has values other than true and false, but the model takes BOOL")
    if dtype.kind in "iu" and array.dtype.kind == "f":
        if np.isnan(array).any():
            raise ModelError(f"{where} has missing values, but the model takes {tensor.datatype}")
        if (array != np.rint(array)).any():
            raise ModelError(f"{where} has fractions, but the model takes {tensor.datatype}")
    if dtype.kind in "iu" and array.size:
        limits = np.iinfo(dtype)
        if array.min() < limits.min or array.max() > limits.max:
            raise ModelError(f"{where} has values beyond what {tensor.datatype} can hold")
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    if dtype.kind == "f" and np.isinf(cast).any():
        raise ModelError(f"{where} has values that are infinite as {tensor.datatype}")
    return cast


def made_up(inputs: list[Tensor], shapes: Mapping[str, tuple[int, ...]], rows: int) -> Tensors:
    """Make up rows of these shapes; the first one is zeros, the example where there is no better one."""
    generator = np.random.default_rng(_SEED)
    found = {tensor.name: _random(generator, tensor, (rows, *shapes[tensor.name])) for tensor in inputs}
    for array in found.values():
        array[0] = "" if array.dtype.kind == "U" else 0
    return found


def _any_size(tensor: Tensor) -> tuple[int, ...]:
    return tuple(ANY_SIZE if size == -1 else size for size in tensor.row_shape)


def _random(generator: np.random.Generator, tensor: Tensor, shape: tuple[int, ...]) -> Array:
    if tensor.dtype.kind == "U":
        return generator.choice(np.array(["a", "b", "c"]), shape)
    if tensor.dtype.kind == "f":
        return generator.standard_normal(shape).astype(tensor.dtype)
    return generator.integers(0, 2, shape).astype(tensor.dtype)
