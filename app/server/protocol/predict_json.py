"""JSON of /predict <-> tensors, as the model's manifest says. Pure: it needs neither model nor HTTP."""

from __future__ import annotations

import copy
import json
import math
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, cast

import msgspec
import numpy as np

from ..errors import Problem, StartError
from ..model.datatypes import FLOATS, INTEGERS, Datatype
from ..model.inputs import Inputs, PlainRow
from ..model.manifest import ESCAPED, Input, Manifest, Output
from ..model.tensors import DTYPES, Array, Tensors, objects
from . import strict_json
from .images import decode_picture

_all = np.logical_and.reduce
_OPENING = re.compile(rb"[\s\[]*")
_OBJECTS = re.compile(rb"\s*(?:\[\s*)?\{")
MAX_TIMEOUT_MS = 3_600_000
"""Longest X-Request-Timeout-Ms that a client may send."""


class ModelId(msgspec.Struct, frozen=True):
    """Name and version of the model that answered."""

    name: str
    version: str


class Rows(msgspec.Struct, frozen=True, gc=False):
    """A decoded request."""

    tensors: Inputs
    count: int
    alone: bool
    """The body has one row instead of a list of rows, and so has the answer."""
    path: str
    """JSON path of the input, e.g. `$.input`."""
    named: bool = False
    """A row is an object with a member for each input."""

    def path_of(self, index: int) -> str:
        """Return the JSON path of one row."""
        return self.path if self.alone else f"{self.path}[{index}]"

    def locate(self, problem: Problem) -> Problem:
        """Return the problem with its path, where the model knows row and input at fault but not their path."""
        if problem.row is None:
            return problem.at(self.path)
        field = f".{problem.field}" if self.named and problem.field else ""
        return problem.at(self.path_of(problem.row) + field + problem.inner)


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    input: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    inputs: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


def scalar_type(datatype: Datatype) -> Any:
    """Return the type of a value in JSON, with bounds so that none overflows on its way into the array."""
    if datatype in FLOATS:
        limit = _max_float(datatype)
        return Annotated[float, msgspec.Meta(ge=-limit, le=limit)]
    if datatype in INTEGERS:
        return Annotated[int, _integer_bounds(datatype)]
    if datatype == "JSON":
        return Any
    return bool if datatype == "BOOL" else str


def value_type(tensor: Input) -> Any:
    """Return the type of one value of an input in the JSON of /predict."""
    return str if tensor.image else element_type(tensor)


def element_type(tensor: Input) -> Any:
    """Return the type of one element of an input's tensor in JSON."""
    value: Any = scalar_type(tensor.datatype)
    if tensor.datatype == "BYTES":
        value = Annotated[value, msgspec.Meta(max_length=tensor.max_characters)]
    return value | None if tensor.nullable else value


def _max_float(datatype: Datatype) -> float:
    """Return the largest number that does not become infinite when it is rounded to the datatype."""
    if datatype == "FP64":
        return sys.float_info.max
    info = np.finfo(DTYPES[datatype])
    last_gap = float(info.max) - float(np.nextafter(info.max, info.dtype.type(0)))
    return math.nextafter(float(info.max) + last_gap / 2, 0)


def _integer_bounds(datatype: Datatype) -> msgspec.Meta:
    info = np.iinfo(DTYPES[datatype])
    if datatype == "UINT64":  # msgspec's bounds are 64 bits with a sign: the array refuses what is too large
        return msgspec.Meta(ge=0, extra_json_schema={"maximum": int(info.max)})
    return msgspec.Meta(ge=int(info.min), le=int(info.max))


def array_type(value: Any, shape: list[int], *, sized: bool, max_size: int | None = None) -> Any:
    """Return nested lists of the shape; `sized` ones have its lengths, too, and at most `max_size` where it has -1."""
    for size in reversed(shape):
        value = list[value]
        if sized and size != -1:
            value = Annotated[value, msgspec.Meta(min_length=size, max_length=size)]
        elif sized and max_size is not None:
            value = Annotated[value, msgspec.Meta(max_length=max_size)]
    return value


def row_type(tensor: Input, row_shape: list[int], *, sized: bool = False) -> Any:
    """Return the type of one row among several. Its lengths are checked after decoding, for a better message."""
    if tensor.image:
        return str
    return array_type(value_type(tensor), row_shape, sized=sized, max_size=tensor.max_size)


def lone_type(tensor: Input, row_shape: list[int], *, sized: bool = False) -> Any:
    """Return the type of a row that stands alone or in an object: a single value may lack its brackets."""
    row = row_type(tensor, row_shape, sized=sized)
    return value_type(tensor) | row if row_shape == [1] else row


def _list_depth(schema: dict[str, Any]) -> int:
    """Count the lists that a value by the schema is nested in, as far as it is nothing else."""
    depth = 0
    while schema.get("type") == "array":
        depth += 1
        schema = schema.get("items") or {}
    return depth


class _Column:
    """Turns the JSON values of one input into its tensor."""

    def __init__(self, tensor: Input, row_shape: list[int]) -> None:
        self.name = tensor.name
        self.row_type = row_type(tensor, row_shape)
        self.lone_type = lone_type(tensor, row_shape)
        self.dimensions = 0 if tensor.image else len(row_shape) or _list_depth(tensor.json_schema)
        self._shape = row_shape
        self._scalars = row_shape == [1]
        self._dtype = DTYPES[tensor.datatype]
        self._max_size = tensor.max_size
        plain = len(row_shape) == 1 and row_shape[0] != -1 and tensor.datatype != "UINT64"
        self.plain_width = row_shape[0] if plain else 0
        """Values in a row that can be a PlainRow, each within its datatype's bounds; else 0."""
        self._strings = tensor.datatype == "BYTES"
        self.json = tensor.datatype == "JSON"
        self._image = tensor.image is not None
        self._what = f"{row_shape[0]} values" if len(row_shape) == 1 else f"values in the shape {row_shape}"
        if -1 in row_shape:
            self._what += ", where -1 is any size"
        if tensor.features:
            self._what += f" ({', '.join(tensor.features)})"

    def tensor(self, rows: Sequence[Any], path_of: Callable[[int], str]) -> Array:
        """Make the array of rows whose JSON types are right; a Problem where their shape is not."""
        if self._image:
            pictures = np.empty(len(rows), dtype=object)
            for index, text in enumerate(rows):
                pictures[index] = decode_picture(text, path_of(index))
            return pictures
        if self.json:
            return objects(rows)
        nested: Sequence[Any] = [row if isinstance(row, list) else [row] for row in rows] if self._scalars else rows
        if self._strings:
            self._check_shape(nested, path_of)
        try:
            array = np.array(nested, dtype=self._dtype)
        except ValueError:
            self._check_shape(nested, path_of)
            raise
        except OverflowError:
            raise self._out_of_range(rows, path_of) from None
        sizes = zip(array.shape[1:], self._shape, strict=False)  # an empty list hides the dimensions below it
        if any(size != wanted and (wanted != -1 or not 0 < size <= self._max_size) for size, wanted in sizes):
            self._check_shape(nested, path_of)
        return array

    def _out_of_range(self, rows: Sequence[Any], path_of: Callable[[int], str]) -> Problem:
        """Find the value above the one bound that the JSON types leave out: that of UINT64."""
        limit = int(np.iinfo(self._dtype).max)
        places = ((index, np.argwhere(np.array(row, dtype=object) > limit)) for index, row in enumerate(rows))
        index, where = next((index, found[0]) for index, found in places if len(found))
        path = path_of(index) + "".join(f"[{position}]" for position in where)
        return Problem(422, "wrong_type", f"Expected `int` <= {limit}", path=path)

    def _check_shape(self, rows: Sequence[Any], path_of: Callable[[int], str]) -> None:
        sizes = list(self._shape)
        for index, row in enumerate(rows):
            self._check_nested(row, sizes, 0, path_of(index))

    def _check_nested(self, value: Any, sizes: list[int], depth: int, path: str) -> None:
        """Raise the Problem of a wrong length. Where any size will do, `sizes` remembers the first: all must agree."""
        if depth == len(sizes):
            return
        size = sizes[depth]
        if size == -1:
            if not value:
                raise Problem(422, "wrong_shape", "there must be at least one value here", path=path)
            if len(value) > self._max_size:
                message = f"there may be {self._max_size} values here, got {len(value)}"
                raise Problem(422, "wrong_shape", message, path=path)
            sizes[depth] = len(value)
        elif len(value) != size:
            if self._shape[depth] == -1:
                what = f"{'lists at this depth' if depth else 'all rows of one request'} must have the same length: "
                what += f"the first has {size} values"
            else:
                what = f"here are {size} values" if depth else f"a row is {self._what}"
            raise Problem(422, "wrong_shape", f"{what}, got {len(value)}", path=path)
        for index, each in enumerate(value):
            if depth + 1 < len(sizes):
                self._check_nested(each, sizes, depth + 1, f"{path}[{index}]")


class Decoder:
    """Decodes the body of POST /predict. Every mistake is a Problem with the field's path."""

    def __init__(self, manifest: Manifest, max_rows: int) -> None:
        self._max_rows = max_rows
        self._columns = [_Column(tensor, manifest.row_shape(tensor)) for tensor in manifest.inputs]
        self._names = [column.name for column in self._columns]
        self._body = msgspec.json.Decoder(_Body)
        self._objects = _Objects(
            {column.name: column.lone_type for column in self._columns},
            {tensor.name: tensor.default for tensor in manifest.inputs if tensor.default is not msgspec.UNSET},
        )
        self._by_feature: _Objects | None = None
        first = manifest.inputs[0]
        if len(self._columns) == 1 and first.features and not any(map(ESCAPED.search, first.features)):
            self._by_feature = _Objects(dict.fromkeys(first.features, value_type(first)), {})
        self._checks_all = any(column.json for column in self._columns) or bool(self._objects.defaults)
        """Objects within the values, and members that may lack, need a closer look for duplicate keys."""
        self._single = self._columns[0] if len(self._columns) == 1 else None
        self._width = self._single.plain_width if self._single else 0
        if self._single:
            self._one: msgspec.json.Decoder[Any] = msgspec.json.Decoder(self._single.lone_type)
            self._many: msgspec.json.Decoder[list[Any]] = msgspec.json.Decoder(list[self._single.row_type])
            plain = msgspec.defstruct(
                "PlainInput",
                [("values", self._single.row_type)],
                bases=(PlainRow,),
                rename={"values": "input"},
                forbid_unknown_fields=True,
                gc=False,
            )
            self._plain: msgspec.json.Decoder[Any] = msgspec.json.Decoder(plain)

    def decode(self, body: bytes) -> Rows:
        """Decode the rows of a request body."""
        if self._width and body.count(b'"') == 2:  # so there is one key, once, and no text
            try:
                row: PlainRow = self._plain.decode(body)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                pass  # many rows, a value without brackets, or a mistake, which is found and named below
            else:
                if len(row.values) == self._width:
                    return Rows(row, 1, True, "$.input")
        return self._decode(body)

    def _decode(self, body: bytes) -> Rows:
        if not body:
            raise Problem(400, "empty_body", 'the body is empty; send {"input": [...]}')
        members = strict_json.decode(self._body, body, "$")
        raw = [bytes(value) for value in (members.input, members.inputs) if not isinstance(value, msgspec.UnsetType)]
        if not raw:
            raise Problem(422, "missing_input", f"send {self._usage}", path="$")
        if len(raw) == 2:
            raise Problem(422, "wrong_type", "send `input` or `inputs`, not both", path="$")
        named = isinstance(members.input, msgspec.UnsetType)
        # msgspec keeps the last of duplicate keys. There is one key, so outside its value there must be exactly its
        # own two quotation marks.
        if body.count(b'"') - raw[0].count(b'"') != 2:
            key = "inputs" if named else "input"
            raise Problem(400, "malformed_json", f"the key `{key}` appears more than once", path=f"$.{key}")
        if named:
            return self._named(body, raw[0], "$.inputs")
        if self._single is None and _OBJECTS.match(raw[0]):
            return self._named(body, raw[0], "$.input")
        if self._by_feature is not None and self._single and _OBJECTS.match(raw[0]):
            return self._features(body, raw[0], self._by_feature, self._single)
        return self._input(body, raw[0])

    @property
    def _usage(self) -> str:
        if self._single:
            return '{"input": ...}'
        return '{"inputs": {' + ", ".join(f"{json.dumps(name)}: ..." for name in self._names) + "}}"

    def _features(self, body: bytes, raw: bytes, objects: _Objects, column: _Column) -> Rows:
        """Decode rows of the only input that name its features."""
        rows, alone = self._object_rows(objects, body, raw, "$.input")
        values = [[getattr(row, field) for field in objects.fields] for row in rows]
        tensor = column.tensor(values, _paths("$.input", "", alone=alone))
        return Rows({column.name: tensor}, len(rows), alone, "$.input")

    def _input(self, body: bytes, raw: bytes) -> Rows:
        column = self._single
        if column is None:
            raise Problem(
                422, "wrong_type", f"the model has {len(self._names)} inputs: send {self._usage}", path="$.input"
            )
        opening = _OPENING.match(raw)
        alone = (opening[0].count(b"[") if opening else 0) <= column.dimensions
        rows = (
            [strict_json.decode(self._one, raw, "$.input")]
            if alone
            else self._counted(strict_json.decode(self._many, raw, "$.input"), "$.input")
        )
        if column.json and b"{" in raw:
            strict_json.refuse_duplicates(body)
        tensor = column.tensor(rows, _paths("$.input", "", alone=alone))
        return Rows({column.name: tensor}, len(rows), alone, "$.input")

    def _named(self, body: bytes, raw: bytes, path: str) -> Rows:
        rows, alone = self._object_rows(self._objects, body, raw, path)
        tensors: Tensors = {}
        for field, column in zip(self._objects.fields, self._columns, strict=True):
            values = [getattr(row, field) for row in rows]
            tensors[column.name] = column.tensor(values, _paths(path, f".{column.name}", alone=alone))
        return Rows(tensors, len(rows), alone, path, named=True)

    def _object_rows(self, objects: _Objects, body: bytes, raw: bytes, path: str) -> tuple[list[Any], bool]:
        """Decode one object, or a list of them; the latter tells which it was."""
        alone = not raw.lstrip().startswith(b"[")
        rows = (
            [strict_json.decode(objects.one, raw, path)]
            if alone
            else self._counted(strict_json.decode(objects.many, raw, path), path)
        )
        self._check_duplicates(body, raw, objects.names, len(rows))
        return rows, alone

    def _counted(self, rows: list[Any], path: str) -> list[Any]:
        if not rows:
            raise Problem(422, "wrong_shape", "there must be at least one row", path=path)
        if len(rows) > self._max_rows:
            message = f"{len(rows)} rows; one request may have {self._max_rows}"
            raise Problem(413, "too_many_rows", message, path=path)
        return rows

    def _check_duplicates(self, body: bytes, raw: bytes, names: list[str], rows: int) -> None:
        """Raise the Problem of a duplicate key: msgspec keeps the last. Each must be there once a row."""
        once = all(raw.count(f'"{name}"'.encode()) == rows for name in names)
        if b"\\" not in raw and once and not self._checks_all:
            return  # spelled in one way only, and found in every row before
        strict_json.refuse_duplicates(body)


class _Objects:
    """Decoders of rows that name their values, whose names need not be Python's."""

    def __init__(self, types: dict[str, Any], defaults: dict[str, Any]) -> None:
        self.names = list(types)
        self.defaults = defaults
        rename = {f"field_{index}": name for index, name in enumerate(types)}
        self.fields = list(rename)
        """Attributes of a decoded row, in the order of the names."""
        members = [
            (field, types[name], msgspec.field(default_factory=partial(copy.deepcopy, defaults[name])))
            if name in defaults
            else (field, types[name])
            for field, name in rename.items()
        ]
        row = msgspec.defstruct("Row", members, rename=rename, forbid_unknown_fields=True, kw_only=True)
        self.one: msgspec.json.Decoder[Any] = msgspec.json.Decoder(row)
        self.many: msgspec.json.Decoder[list[Any]] = msgspec.json.Decoder(list[row])
        for name, default in defaults.items():
            try:
                msgspec.convert(default, types[name])
            except msgspec.ValidationError as error:
                raise StartError(
                    f"the default of input {name!r} in model.json is none of its values: {error}"
                ) from None


def _paths(root: str, member: str, *, alone: bool) -> Callable[[int], str]:
    """Return the function from a row's index to the JSON path of its value."""
    return lambda row: f"{root}{member}" if alone else f"{root}[{row}]{member}"


class Encoded(msgspec.Struct, frozen=True, gc=False):
    """A batch's answer in JSON."""

    values: list[Any]
    """One a row: a bare value where the model has one output, else an object by the outputs' names."""
    problems: dict[int, Problem]
    """By row: why it has no answer, and its value does not count."""


class Encoder:
    """Turns the answer's tensors into JSON values, as the manifest's labels say."""

    def __init__(self, manifest: Manifest) -> None:
        self._names = [output.name for output in manifest.outputs]
        self._values = [_values(output, manifest.row_shape(output)) for output in manifest.outputs]
        self._object = _object(self._names)
        self._labelled = [bool(output.labels) and not manifest.row_shape(output) for output in manifest.outputs]
        code = manifest.format == "python"
        free = [
            output.name
            for output in manifest.outputs
            if output.datatype == "JSON" or (code and output.datatype in FLOATS and -1 in manifest.row_shape(output))
        ]
        self._free = free
        """Outputs whose rows may differ in length."""
        self._floats = [
            output.name for output in manifest.outputs if output.datatype in FLOATS and output.name not in free
        ]

    def encode(self, tensors: Tensors) -> Encoded:
        """Encode all rows."""
        problems: dict[int, Problem] = {}
        columns = [values(tensors[name]) for name, values in zip(self._names, self._values, strict=True)]
        for name, labelled, column in zip(self._names, self._labelled, columns, strict=True):
            if labelled and None in column:
                for row in [row for row, label in enumerate(column) if label is None]:
                    message = f"the model's output {name!r} is {tensors[name][row]}, which has no label"
                    problems[row] = Problem(500, "unknown_label", message)
        for name in self._floats:
            finite = np.isfinite(tensors[name])
            if not _all(finite, axis=None):
                for row in np.flatnonzero(~finite.reshape(len(finite), -1).all(axis=1)).tolist():
                    problems[row] = _non_finite(name)
        for name in self._free:
            problems |= _not_finite(name, tensors[name])
        return Encoded(columns[0] if len(columns) == 1 else list(map(self._object, *columns)), problems)


def _non_finite(name: str) -> Problem:
    message = f"for this input the model's output {name!r} is not a finite number"
    return Problem(422, "non_finite_output", message)


def _not_finite(name: str, values: Array) -> dict[int, Problem]:
    """Find the rows of decoded JSON with a number that JSON does not have."""
    return {row: _non_finite(name) for row, value in enumerate(values.tolist()) if not is_finite(value)}


def is_finite(value: Any) -> bool:
    """Tell whether no number in decoded JSON is NaN or infinite."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(is_finite, cast("dict[str, Any]", value).values()))
    return not isinstance(value, list) or all(map(is_finite, cast("list[Any]", value)))


def _object(names: list[str]) -> Callable[..., Any]:
    """Return a constructor of JSON objects with these members, in order: of a struct, which is faster than a dict."""
    fields = {f"field_{index}": name for index, name in enumerate(names)}
    return msgspec.defstruct("Object", list(fields), rename=fields, gc=False)


def _values(output: Output, row_shape: list[int]) -> Callable[[Array], list[Any]]:
    labels = output.labels
    if labels and not row_shape:
        name_of = dict(enumerate(labels)).get
        return lambda array: list(map(name_of, array.tolist()))
    if labels:
        scores = _object(labels)
        return lambda array: list(map(scores, *array.T.tolist()))
    if row_shape == [1]:
        return lambda array: array[:, 0].tolist()
    return lambda array: array.tolist()
