"""The rows of one request, before they are joined with those of others."""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec
import numpy as np

from .manifest import Tensor
from .tensors import DTYPES, Tensors


class PlainRow(msgspec.Struct, gc=False):
    """One row of a model whose only input is a list of numbers, as its JSON was decoded.

    It stays a list until its batch is joined: one array a batch costs a fraction of one array a request.
    """

    values: list[Any]


Inputs: TypeAlias = "Tensors | PlainRow"


NUMBER_BYTES = 32
"""A float of a PlainRow, with the list's reference to it."""
_TEXT_BYTES = 64
"""A text of a list, without its characters."""
_JSON_BYTES = 24
"""A character of JSON, decoded: an empty list has two, and a comma."""
_TEXTS = frozenset((str, bytes))


def held_bytes(tensors: Tensors) -> int:
    """Bytes that rows hold until they are run."""
    held = 0
    for array in tensors.values():
        held += array.nbytes
        if array.dtype.hasobject:
            held += array.size * _TEXT_BYTES
            if _TEXTS.issuperset(map(type, array.flat)):
                held += sum(map(len, array.flat))
            else:
                held += sum(text_length(value) * (1 if type(value) in _TEXTS else _JSON_BYTES) for value in array.flat)
    return held


def text_length(value: Any) -> int:
    """Length of a text, or of what is neither text nor missing as JSON."""
    if value is None:
        return 0
    return len(value if type(value) in _TEXTS else msgspec.json.encode(value))


def stack(rows: list[list[Any]], tensor: Tensor) -> Tensors:
    """Make the model's only input, `[rows, values]`, from the values of plain rows."""
    return {tensor.name: np.array(rows, dtype=DTYPES[tensor.datatype])}
