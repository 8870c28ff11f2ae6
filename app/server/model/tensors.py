"""Tensors in memory: one numpy array each, rows along axis 0.

Imports numpy alone: the converters of `make model` use it in environments that have no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from .manifest import Datatype

Array: TypeAlias = npt.NDArray[Any]
Tensors: TypeAlias = dict[str, Array]
"""By name; the same number of rows in each."""

DTYPES: dict[Datatype, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.object_),
}
"""By datatype of the Open Inference Protocol; the elements of BYTES are str."""


def fits(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    """Tell whether a shape is the wanted one, in which -1 is any size."""
    return len(shape) == len(wanted) and all(allowed in (-1, size) for size, allowed in zip(shape, wanted, strict=True))
