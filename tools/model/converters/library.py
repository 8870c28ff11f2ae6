"""What the converters share that keep a model's own library: columns by name, and the folder's files."""

from __future__ import annotations

import json
from collections.abc import Collection
from inspect import getsource
from types import ModuleType
from typing import Any

import numpy as np

from tools.model import training_data
from tools.model.conversion import COMPARED_ROWS, Conversion
from tools.model.errors import ModelError
from tools.model.settings import PLACEHOLDERS
from tools.model.tensors import Array, Tensor, Tensors
from tools.model.training_data import Table


def columns(table: Table | None, names: list[str], categories: Collection[str]) -> list[Tensor]:
    """Describe an input for each feature, of which the categories may be missing and are texts."""
    if table is None:
        raise ModelError(
            f"the model takes columns of different types ({', '.join(names)}): --data train.csv says what they hold",
            needs={"data": PLACEHOLDERS["data"]},
        )
    table.check_columns(names)
    return [
        Tensor(name=name, datatype="BYTES", row_shape=(), nullable=True)
        if name in categories
        else Tensor(name=name, datatype="FP64", row_shape=(), nullable=True)
        for name in names
    ]


def feed(table: Table | None, inputs: list[Tensor]) -> Tensors:
    """Take the rows of the table; an empty text of an input that may be missing is None."""
    found = training_data.feed(table, inputs)
    return {tensor.name: with_none(found[tensor.name]) if tensor.nullable else found[tensor.name] for tensor in inputs}


def with_none(array: Array) -> Array:
    """Replace empty texts by None; other arrays stay as they are."""
    return np.where(array == "", np.array(None), array.astype(object)) if array.dtype.kind == "U" else array


def first_rows(rows: Tensors) -> Tensors:
    """Choose the rows that the original answers."""
    return {name: array[:COMPARED_ROWS] for name, array in rows.items()}


def plain(answers: Tensors) -> Tensors:
    """Make numpy's own texts of a predictor's."""
    return {name: array.astype(np.str_) if array.dtype.kind == "O" else array for name, array in answers.items()}


def kept(
    predictor: ModuleType, members: dict[str, Any], files: dict[str, bytes], pins: dict[str, str], **more: Any
) -> Conversion:
    """Package the model's own files with the predictor and its predictor.json; `pins` are versions by package.

    A package's name may have a marker, as in `name; sys_platform == "darwin"`.
    """
    requirements = [(*name.partition(";"), version) for name, version in pins.items()]
    return Conversion(
        model=b"",
        format="python",
        call="tensors",
        files={
            "predictor.py": getsource(predictor).encode(),
            "predictor.json": (json.dumps(members, indent=2) + "\n").encode(),
            **files,
        },
        requirements="".join(f"{name}=={version}{colon}{marker}\n" for name, colon, marker, version in requirements),
        versions={name.partition(";")[0]: version for name, version in pins.items()},
        **more,
    )
