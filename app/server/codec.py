"""JSON of /predict <-> arrays, as the model's manifest says. Pure: no model, no HTTP."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Annotated, Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from .manifest import Input, Output
from .problem import Problem

Array: TypeAlias = npt.NDArray[Any]

_FP32_MAX = float(np.finfo(np.float32).max)
_FP64_MAX = sys.float_info.max

# What a datatype's values are in JSON, with bounds so that none overflows on its way into the array; and the array's.
_TYPES: dict[str, tuple[Any, Any]] = {
    "BOOL": (bool, np.bool_),
    "INT32": (Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)], np.int32),
    "INT64": (Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)], np.int64),
    "FP32": (Annotated[float, msgspec.Meta(ge=-_FP32_MAX, le=_FP32_MAX)], np.float32),
    "FP64": (Annotated[float, msgspec.Meta(ge=-_FP64_MAX, le=_FP64_MAX)], np.float64),
    "BYTES": (str, np.object_),
}
_MANY_ROWS = re.compile(rb"\[\s*\[")


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    input: msgspec.Raw


class Rows(msgspec.Struct, frozen=True):
    """A decoded request: the rows, and whether it was one row that stood alone."""

    values: Array
    alone: bool


class Decoder:
    """`{"input": [...]}` or `{"input": [[...], ...]}` -> Rows. Every mistake is a Problem with the field's path."""

    def __init__(self, tensor: Input, max_rows: int) -> None:
        value, self._dtype = _TYPES[tensor.datatype]
        self._width = tensor.width
        self._row_text = f"{tensor.width} values" + (f" ({', '.join(tensor.features)})" if tensor.features else "")
        self._max_rows = max_rows
        self._body = msgspec.json.Decoder(_Body)
        self._one: msgspec.json.Decoder[list[Any]] = msgspec.json.Decoder(list[value])
        self._many: msgspec.json.Decoder[list[list[Any]]] = msgspec.json.Decoder(list[list[value]])

    def decode(self, body: bytes) -> Rows:
        """The rows of a request body."""
        if not body:
            raise Problem(400, "empty_body", 'the body is empty; send {"input": [...]}')
        raw = bytes(_checked(lambda: self._body.decode(body).input, "$"))
        # msgspec keeps the last of duplicate keys. The only key there may be is "input", so outside its value there
        # must be exactly its own two quotation marks.
        if body.count(b'"') - raw.count(b'"') != 2:
            raise Problem(400, "malformed_json", "the key `input` appears more than once", path="$.input")
        alone = _MANY_ROWS.match(raw) is None
        rows = (
            [_checked(lambda: self._one.decode(raw), "$.input")]
            if alone
            else _checked(lambda: self._many.decode(raw), "$.input")
        )
        if len(rows) > self._max_rows:
            message = f"{len(rows)} rows; one request may have {self._max_rows}"
            raise Problem(413, "too_many_rows", message, path="$.input")
        for index, row in enumerate(rows):
            if len(row) != self._width:
                path = "$.input" if alone else f"$.input[{index}]"
                raise Problem(422, "wrong_shape", f"a row is {self._row_text}, got {len(row)}", path=path)
        return Rows(np.array(rows, dtype=self._dtype), alone)


def _checked(decode: Callable[[], Any], root: str) -> Any:
    try:
        return decode()
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        raise Problem(422, "wrong_type", message, path=root + path.rstrip("`")) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Problem(400, "malformed_json", f"the body is not valid JSON: {error}", path=root) from None
    except RecursionError:
        raise Problem(400, "too_deep", "the body is nested too deeply", path=root) from None


class Encoder:
    """The model's output arrays -> one plain value a row, as the manifest's labels say."""

    def __init__(self, outputs: list[Output]) -> None:
        self._outputs = outputs
        self._columns = [_column(output) for output in outputs]

    def rows(self, arrays: list[Array]) -> list[Any]:
        """A row's value, or the Problem that stands in its place.

        One output is its bare value, several are an object by name.
        """
        rows: list[Any]
        values = [column(array) for column, array in zip(self._columns, arrays, strict=True)]
        if len(values) == 1:
            rows = values[0]
        else:
            names = [output.name for output in self._outputs]
            rows = [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]
        for output, array in zip(self._outputs, arrays, strict=True):
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                finite = np.isfinite(array).reshape(len(array), -1).all(axis=1)
                for index in np.flatnonzero(~finite):
                    rows[index] = Problem(
                        422,
                        "non_finite_output",
                        f"for this input the model's output {output.name!r} is not a finite number",
                    )
        return rows


def _column(output: Output) -> Callable[[Array], list[Any]]:
    labels = output.labels
    if labels and output.shape == [-1]:
        return lambda array: [_label(labels, index, output.name) for index in array.tolist()]
    if labels:
        return lambda array: [dict(zip(labels, row, strict=True)) for row in array.tolist()]
    if output.shape == [-1, 1]:
        return lambda array: array[:, 0].tolist()
    return lambda array: array.tolist()


def _label(labels: list[str], index: int, name: str) -> Any:
    if 0 <= index < len(labels):
        return labels[index]
    return Problem(500, "unknown_label", f"the model's output {name!r} is {index}, which has no label")
