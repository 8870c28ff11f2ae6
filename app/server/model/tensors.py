"""Tensors in memory: one numpy array each, rows along axis 0.

Imports numpy alone: the converters of `make model` use it in environments that have no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .datatypes import NUMPY_NAMES, Datatype

Array: TypeAlias = npt.NDArray[Any]
Tensors: TypeAlias = dict[str, Array]
"""By name; the same number of rows in each."""

DTYPES: dict[Datatype, np.dtype[Any]] = {datatype: np.dtype(name) for datatype, name in NUMPY_NAMES.items()}
"""By datatype of the Open Inference Protocol; the elements of BYTES are str, of JSON any."""


def objects(values: Sequence[Any]) -> Array:
    """Return an array of the values themselves: numpy would look into lists."""
    array = np.empty(len(values), dtype=object)
    for row, value in enumerate(values):
        array[row] = value
    return array


def fits(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    """Tell whether a shape is the wanted one, in which -1 is any size."""
    return len(shape) == len(wanted) and all(allowed in (-1, size) for size, allowed in zip(shape, wanted, strict=True))
