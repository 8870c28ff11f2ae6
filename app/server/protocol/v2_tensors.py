"""Data of one v2 tensor <-> array: JSON, flat or nested, and binary, which is little endian and row-major."""

from __future__ import annotations

import copy
import math
import re
from typing import Annotated, Any

import msgspec
import numpy as np

from ..errors import Problem
from ..model.datatypes import FLOATS, INTEGERS, WIRE_DATATYPES
from ..model.manifest import Input
from ..model.tensors import DTYPES, Array, fits, objects
from . import strict_json

_JSON_TYPES: dict[str, Any] = {"BOOL": bool, "BYTES": str} | dict.fromkeys(FLOATS, float) | dict.fromkeys(INTEGERS, int)
_any = msgspec.json.Decoder(Any)
_NESTED = re.compile(rb"\[\s*\[")
_LENGTH_BYTES = 4
"""Size of the length before each element of a binary BYTES tensor."""


class TensorReader:
    """Reader of one input's array, rows along axis 0. `path` is the JSON path of the input, for Problems."""

    def __init__(self, tensor: Input, rows: list[int], row_shape: list[int]) -> None:
        """Read `rows`, which is [-1], or [] for one row without a batch dimension; -1 in a row is up to `max_size`."""
        shape = rows + row_shape
        self._first_row_axis = len(rows)
        self._datatype = WIRE_DATATYPES[tensor.datatype]
        self._parses = tensor.datatype == "JSON"
        self._dtype = DTYPES[tensor.datatype]
        self._nullable = tensor.nullable
        self._shape = shape
        self._max_size = tensor.max_size
        self._max_characters = tensor.max_characters
        value = _JSON_TYPES[self._datatype]
        if tensor.datatype == "BYTES":
            value = Annotated[value, msgspec.Meta(max_length=tensor.max_characters)]
        flat = nested = list[value | None if tensor.nullable else value]
        for _ in shape[1:]:
            nested = list[nested]
        self._flat: msgspec.json.Decoder[list[Any]] = msgspec.json.Decoder(flat)
        self._nested: msgspec.json.Decoder[list[Any]] = msgspec.json.Decoder(nested)

    def check(self, datatype: str, shape: list[int], path: str) -> None:
        """Raise a Problem unless the announced datatype and shape are the model's."""
        if datatype != self._datatype:
            raise Problem(422, "wrong_type", f"the datatype is {self._datatype}", path=f"{path}.datatype")
        if not fits(shape, self._shape):
            got = str(shape) if len(shape) <= len(self._shape) else f"{len(shape)} sizes"
            message = f"the shape is {self._shape}, where -1 is any size; got {got}"
            raise Problem(422, "wrong_shape", message, path=f"{path}.shape")
        for axis in range(self._first_row_axis, len(shape)):
            if self._shape[axis] == -1 and shape[axis] > self._max_size:
                message = f"the size may be {self._max_size}, got {shape[axis]}"
                raise Problem(422, "wrong_shape", message, path=f"{path}.shape[{axis}]")

    def read_json(self, raw: bytes, shape: list[int], path: str) -> Array:
        """Read an array of a checked shape from the text of `data`, flat in row-major order or nested as the shape."""
        path = f"{path}.data"
        if len(shape) > 1 and _NESTED.match(raw):
            values = _flatten(strict_json.decode(self._nested, raw, path), shape, path)
            return self._array(values, shape, path).reshape(shape)
        values = strict_json.decode(self._flat, raw, path)
        if len(values) != math.prod(shape):
            message = f"the shape {shape} has {math.prod(shape)} values, got {len(values)}"
            raise Problem(422, "wrong_shape", message, path=path)
        return self._array(values, [len(values)], path).reshape(shape)

    def _array(self, values: list[Any], sizes: list[int], path: str) -> Array:
        if self._parses:
            return _parse(values, path)
        try:
            with np.errstate(over="ignore"):
                array = np.array(values, dtype=self._dtype)
        except OverflowError:
            limits = np.iinfo(self._dtype)
            index = next(index for index, value in enumerate(values) if not limits.min <= value <= limits.max)
            raise self._out_of_range(index, sizes, path) from None
        if self._dtype.kind == "f" and np.isinf(array).any():
            raise self._out_of_range(int(np.isinf(array).argmax()), sizes, path)
        return array

    def _out_of_range(self, index: int, sizes: list[int], path: str) -> Problem:
        return Problem(422, "wrong_type", f"{self._datatype} cannot hold this number", path=path + _at(index, sizes))

    def read_binary(self, content: memoryview, size: int, shape: list[int], path: str) -> Array:
        """Read an array of a checked shape from the tensor's bytes, `size` of which were announced.

        It is a read-only view of them where they are aligned. NaN is a missing value, for a nullable input.
        """
        if len(content) < size:
            message = f"{size} bytes announced, {len(content)} left in the body"
            if not content:
                message += "; is the header Inference-Header-Content-Length right?"
            raise Problem(400, "malformed_binary", message, path=f"{path}.parameters.binary_data_size")
        count = math.prod(shape)
        if self._datatype == "BYTES":
            texts = _unpack_strings(content, count, self._max_characters, path)
            return _parse(texts.tolist(), f"{path}.data") if self._parses else texts.reshape(shape)
        if size != count * self._dtype.itemsize:
            message = f"{shape} of {self._datatype} are {count * self._dtype.itemsize} bytes, not {size}"
            raise Problem(400, "malformed_binary", message, path=f"{path}.parameters.binary_data_size")
        if self._datatype == "BOOL":
            octets = np.frombuffer(content, np.uint8)
            _refuse(octets > 1, 400, "malformed_binary", "a BOOL is a byte of 0 or 1", path)
            return octets.view(np.bool_).reshape(shape)
        array = np.frombuffer(content, self._dtype.newbyteorder("<")).astype(self._dtype, copy=False)
        if not array.flags.aligned:
            array = array.copy()
        if self._dtype.kind == "f" and self._nullable:
            _refuse(np.isinf(array), 422, "wrong_type", "infinity is not a value; NaN stands for a missing one", path)
        elif self._dtype.kind == "f":
            _refuse(~np.isfinite(array), 422, "wrong_type", "NaN and infinity are not values", path)
        return array.reshape(shape)


def repeat(tensor: Input, rows: int) -> Array:
    """Make the array of an input that a request leaves out."""
    if tensor.datatype == "JSON":
        return objects([copy.deepcopy(tensor.default) for _ in range(rows)])
    return np.array([tensor.default] * rows, dtype=DTYPES[tensor.datatype])


def _parse(texts: list[str], path: str) -> Array:
    """Decode the texts of a tensor that is JSON."""
    values: list[Any] = []
    for index, text in enumerate(texts):
        content, at = text.encode(), f"{path}[{index}]"
        values.append(strict_json.decode(_any, content, at))
        if b"{" in content:
            strict_json.refuse_duplicates(content, at)
    return objects(values)


def pack(array: Array) -> bytes | memoryview:
    """Write a tensor's binary data; the elements of an object array are str."""
    if array.dtype.kind != "O":
        return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).ravel().data
    texts = [text.encode() for text in array.ravel().tolist()]
    return b"".join(part for text in texts for part in (len(text).to_bytes(_LENGTH_BYTES, "little"), text))


def _flatten(nested: list[Any], shape: list[int], path: str) -> list[Any]:
    """Flatten to row-major order; raises a Problem for a list that is not as long as the shape says."""
    level = [nested]
    for depth, size in enumerate(shape):
        for index, each in enumerate(level):
            if len(each) != size:
                message = f"{size} elements by the shape, got {len(each)}"
                raise Problem(422, "wrong_shape", message, path=path + _at(index, shape[:depth]))
        level = [element for each in level for element in each]
    return level


def _at(index: int, sizes: list[int]) -> str:
    """End of the path of the index-th value in nested lists of these sizes."""
    where: list[int] = []
    for size in reversed(sizes):
        index, position = divmod(index, size)
        where.insert(0, position)
    return "".join(f"[{position}]" for position in where)


def _unpack_strings(content: memoryview, count: int, max_characters: int, path: str) -> Array:
    if count * _LENGTH_BYTES > len(content):
        message = f"{count} strings need more than {len(content)} bytes"
        raise Problem(400, "malformed_binary", message, path=f"{path}.parameters.binary_data_size")
    values: list[str] = []
    start = 0
    for index in range(count):
        length = int.from_bytes(content[start : start + _LENGTH_BYTES], "little")
        start += _LENGTH_BYTES
        text = content[start : start + length]
        start += length
        if start > len(content):
            message = "the string reaches beyond the tensor's bytes"
            raise Problem(400, "malformed_binary", message, path=f"{path}.data[{index}]")
        try:
            values.append(str(text, "utf-8"))
        except UnicodeDecodeError as error:
            message = f"the string is not UTF-8: {error.reason}"
            raise Problem(400, "malformed_binary", message, path=f"{path}.data[{index}]") from None
        if len(values[-1]) > max_characters:
            message = f"Expected `str` of length <= {max_characters}"
            raise Problem(422, "wrong_type", message, path=f"{path}.data[{index}]")
    if start < len(content):
        message = f"{len(content) - start} bytes follow the last string"
        raise Problem(400, "malformed_binary", message, path=f"{path}.parameters.binary_data_size")
    return np.array(values, dtype=np.object_)


def _refuse(bad: Array, status: int, code: str, message: str, path: str) -> None:
    if bad.any():
        raise Problem(status, code, message, path=f"{path}.data[{int(bad.argmax())}]")
