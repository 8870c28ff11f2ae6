"""Tensors in memory: one numpy array each, rows along axis 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from .datatypes import NUMPY_NAMES, Datatype

if TYPE_CHECKING:
    from .manifest import Tensor

Array: TypeAlias = npt.NDArray[Any]
Tensors: TypeAlias = dict[str, Array]
"""By name; the same number of rows in each."""


class PlainRow(msgspec.Struct, gc=False):
    """One row of a model whose only input is a list of numbers, as its JSON was decoded.

    It stays a list until its batch is joined: one array a batch costs a fraction of one array a request.
    """

    values: list[Any]


Inputs: TypeAlias = "Tensors | PlainRow"
"""The rows of one request."""

DTYPES: dict[Datatype, np.dtype[Any]] = {datatype: np.dtype(name) for datatype, name in NUMPY_NAMES.items()}
"""Of each datatype of the Open Inference Protocol; the elements of BYTES are str."""


def stack(rows: list[list[Any]], tensor: Tensor) -> Tensors:
    """Make the model's only input, `[rows, values]`, from the values of plain rows."""
    return {tensor.name: np.array(rows, dtype=DTYPES[tensor.datatype])}


def fits(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    """Tell whether a shape is the wanted one, in which -1 is any size."""
    return len(shape) == len(wanted) and all(allowed in (-1, size) for size, allowed in zip(shape, wanted, strict=True))
