"""What the author's code takes, as its signature says, and rows for it: of the training data, its EXAMPLE, or made up."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from tools.model import training_data
from tools.model.errors import ModelError
from tools.model.predictor_worker import PICTURE
from tools.model.settings import Settings
from tools.model.tensors import Array, Tensor, Tensors, datatype_of, row_count
from tools.model.training_data import Table

_MADE_UP_PIXELS = 64
_PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The inputs, rows for them, and the request that is the example."""

    inputs: list[Tensor]
    feed: Tensors
    example: dict[str, Any]


def rows(settings: Settings, signature: dict[str, Any], given: Tensors, table: Table | None, folder: Path) -> Rows:
    """Work them out.

    `signature` is what PredictorSession.describe gives; `given` are rows that a converter has for its own predictor.
    """
    slots: list[dict[str, Any]] = signature["inputs"] or _named_inputs(settings, given, table)
    example = settings.example or _body(signature["example"], slots)
    row = _row(example, slots) if example else {}
    inputs = [_input(settings, slot, row, table, alone=len(slots) == 1) for slot in slots]
    if given:
        feed = given | {
            tensor.name: _column(tensor, [tensor.members.get("default")] * row_count(given))
            for tensor in inputs
            if tensor.name not in given
        }
    elif table:
        feed = _from_table(table, inputs)
    else:
        made = {tensor.name: _made_up(tensor, slot) for tensor, slot in zip(inputs, slots, strict=True)}
        feed = {
            tensor.name: _column(tensor, [_picture(row.get(tensor.name, made[tensor.name]), tensor, folder)])
            for tensor in inputs
        }
    return Rows(inputs=inputs, feed=feed, example=_chosen(example, inputs, feed, folder))


def _named_inputs(settings: Settings, given: Tensors, table: Table | None) -> list[dict[str, Any]]:
    """The inputs of code that takes all tensors in one dict, which says nothing about them."""
    if settings.inputs and all(tensor.name for tensor in settings.inputs):
        names = [tensor.name for tensor in settings.inputs]
    else:
        names = list(given or (table.columns if table else {}))
    if not names:
        raise ModelError(
            "predict takes all tensors in one dict, so the inputs' names and sizes must be said:"
            " --input 'age=FP32: name=BYTES:', or --data with a column for each",
            needs={"input": "age=FP32:"},
        )
    return [{"name": name, "datatype": None, "row_shape": None} for name in names]


def _body(example: Any, slots: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Make a request of the constant EXAMPLE: a request, a row's inputs by name, or the only input."""
    if example is None:
        return None
    if isinstance(example, dict):
        members = cast("dict[str, Any]", example)
        if len(members) == 1 and members.keys() <= {"input", "inputs"} and members.keys() != {slots[0]["name"]}:
            return members
        if members.keys() <= {slot["name"] for slot in slots} and members and slots[0]["datatype"] != "JSON":
            return {"inputs": members} if len(slots) > 1 else {"input": members[slots[0]["name"]]}
    return {"input": example}


def _row(example: dict[str, Any], slots: list[dict[str, Any]]) -> dict[str, Any]:
    """The inputs of the example's first row, by name."""
    value = example.get("input", example.get("inputs"))
    if len(slots) > 1 or "inputs" in example:
        first: Any = cast("list[Any]", value)[0] if isinstance(value, list) and value else value
        if not isinstance(first, dict):
            names = ", ".join(slot["name"] for slot in slots)
            raise ModelError(f"the example must have the inputs by name: {names}, not {json.dumps(value)[:80]}")
        return cast("dict[str, Any]", first)
    return {slots[0]["name"]: value}


def _input(
    settings: Settings, slot: dict[str, Any], row: dict[str, Any], table: Table | None, *, alone: bool
) -> Tensor:
    name: str = slot["name"]
    said = next((tensor for tensor in settings.inputs if tensor.name in (name, "" if alone else name)), None)
    datatype: str | None = slot["datatype"] or (said.datatype if said else None)
    shape: Any = slot["row_shape"] if slot["row_shape"] is not None else said.row_shape if said else None
    if shape is not None and said and len(said.row_shape) == len(shape):
        shape = said.row_shape  # the code may leave sizes open that the command knows
    known = _known(table, name, alone=alone)
    features: list[str] = []
    if (shape is None or len(shape) == 1) and table and table.is_csv and alone and name not in table.columns:
        features, shape = list(table.columns), (len(table.columns),)
        datatype = datatype or "FP64"
    if known is None and name in row:
        known = _array_of(row[name])
    if known is not None:
        datatype = datatype or _datatype(name, known)
        shape = known.shape[1:] if shape is None else shape
    if datatype is None or shape is None:
        raise ModelError(
            f"parameter {name} of predictor.py is an array, and nothing says {'what it holds' if shape else 'its size'}"
            f":\n  annotate it, Annotated[NDArray[np.float32], (3, 224, 224)] (-1 is any size),"
            f" or --input {name}={datatype or 'FP32'}:3, or --data, or the constant EXAMPLE",
            needs={"input": f"{name}={datatype or 'FP32'}:3"},
        )
    members = {key: slot[key] for key in ("json_schema", "default") if slot.get(key) is not None and key in slot}
    if not members.get("json_schema", True):
        del members["json_schema"]
    if "default" in slot:
        members["default"] = slot["default"]
    if slot.get("picture"):
        members["image"] = {"mode": "RGB", "layout": "HWC"}
    nullable = bool(slot.get("nullable")) or (bool(slot.get("array")) and _lacks_some(settings, datatype, table, name))
    return Tensor(
        name=name, datatype=datatype, row_shape=tuple(shape), nullable=nullable, features=features, members=members
    )


def _lacks_some(settings: Settings, datatype: str, table: Table | None, name: str) -> bool:
    """Whether numbers of an array may be missing: by --nullable, or as they are in the data."""
    if datatype not in ("FP32", "FP64"):
        return False
    columns = (table.columns if name not in table.columns else {name: table.columns[name]}) if table else {}
    return settings.nullable or any(np.isnan(array).any() for array in columns.values() if array.dtype.kind == "f")


def _known(table: Table | None, name: str, *, alone: bool) -> Array | None:
    """The data of an input, as far as they are one array."""
    if table is None:
        return None
    if name in table.columns:
        return table.columns[name]
    return next(iter(table.columns.values())) if alone and not table.is_csv and len(table.columns) == 1 else None


def _array_of(value: Any) -> Array | None:
    try:
        array = np.asarray([value])
    except ValueError:  # rows of different lengths
        return None
    return None if array.dtype.kind == "O" else array


def _datatype(name: str, array: Array) -> str:
    try:
        return datatype_of(array.dtype)
    except ValueError as reason:
        raise ModelError(f"input {name}: {reason}") from None


def _from_table(table: Table, inputs: list[Tensor]) -> Tensors:
    """Take the inputs' columns; those that the data lack have their default."""
    feed: Tensors = {}
    plain = [tensor for tensor in inputs if not _is_object(tensor)]
    lacking = [tensor for tensor in inputs if "default" in tensor.members and tensor.name not in table.columns]
    feed |= {tensor.name: _column(tensor, [tensor.members["default"]] * table.rows) for tensor in lacking}
    for tensor in inputs:
        if tensor in lacking:
            continue
        if tensor in plain:
            feed |= training_data.feed(table, [tensor] if len(inputs) == 1 else _only(table, tensor))
        elif tensor.name in table.columns:
            values = table.columns[tensor.name].tolist()
            feed[tensor.name] = _column(tensor, [_value(tensor, value) for value in values])
        else:
            raise ModelError(
                f"{table.file} has the columns {', '.join(table.columns)}, and none of them is called {tensor.name},"
                " which predictor.py takes"
            )
    return {tensor.name: feed[tensor.name] for tensor in inputs}


def _only(table: Table, tensor: Tensor) -> list[Tensor]:
    """Check that the table has a column of the input's own name."""
    if tensor.name not in table.columns:
        raise ModelError(
            f"{table.file} has the columns {', '.join(table.columns)}, and none of them is called {tensor.name},"
            " which predictor.py takes"
        )
    return [tensor]


def _value(tensor: Tensor, value: Any) -> Any:
    """Read a cell: an empty text is missing, and a JSON input may be written as JSON."""
    if value == "" or (isinstance(value, float) and np.isnan(value)):
        return None
    if tensor.datatype == "BYTES":
        return str(value)
    if "image" in tensor.members:
        return {PICTURE: str(value)}
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _is_object(tensor: Tensor) -> bool:
    return tensor.datatype == "JSON" or "image" in tensor.members or (tensor.datatype == "BYTES" and tensor.nullable)


def _column(tensor: Tensor, values: list[Any]) -> Array:
    """Make an input's array of a value a row."""
    if _is_object(tensor):
        array = np.empty(len(values), dtype=object)
        array[:] = values
        return array
    wanted = [np.nan if value is None else value for value in values] if tensor.nullable else values
    try:
        array = np.asarray(wanted, dtype=tensor.dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise ModelError(f"the example's {tensor.name} does not fit {tensor}: {error}") from None
    if array.ndim != len(tensor.row_shape) + 1:
        raise ModelError(f"the example's {tensor.name} has the shape {list(array.shape[1:])}, which is not {tensor}")
    return array


def _picture(value: Any, tensor: Tensor, folder: Path) -> Any:
    """Read a picture of the example: base64, or the name of a file in the folder."""
    if "image" not in tensor.members or isinstance(value, dict):
        return value
    return {PICTURE: _base64(str(value), folder)}


def _base64(value: str, folder: Path) -> str:
    if not value.lower().endswith(_PICTURE_SUFFIXES):
        return value
    try:
        return base64.b64encode((folder / value).read_bytes()).decode()
    except OSError as error:
        raise ModelError(f"the example's picture {value} cannot be read: {error.strerror}") from None


def _made_up(tensor: Tensor, slot: dict[str, Any]) -> Any:
    """Make up a plain value of the right kind."""
    if "default" in tensor.members:
        return tensor.members["default"]
    if "image" in tensor.members:
        return {PICTURE: _grey_picture()}
    if tensor.datatype == "JSON":
        schema: dict[str, Any] = slot["json_schema"]
        return _of_schema(schema, schema.get("$defs", {}))
    if choices := (slot.get("json_schema") or {}).get("enum"):
        return choices[0]
    value: Any = {"U": "text", "b": False}.get(tensor.dtype.kind, 0)
    for size in reversed(tensor.row_shape):
        value = [value] * (1 if size == -1 and tensor.datatype == "BYTES" else training_data.ANY_SIZE if size == -1 else size)
    return value


def _grey_picture() -> str:
    file = BytesIO()
    Image.new("RGB", (_MADE_UP_PIXELS, _MADE_UP_PIXELS), (128, 128, 128)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _of_schema(schema: dict[str, Any], definitions: dict[str, Any]) -> Any:
    """Make the plainest value that a JSON schema of msgspec allows."""
    if "$ref" in schema:
        return _of_schema(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        return _of_schema(schema["anyOf"][0], definitions)
    if "default" in schema:
        return schema["default"]
    match schema.get("type"):
        case "object":
            members: dict[str, Any] = schema.get("properties", {})
            return {name: _of_schema(members[name], definitions) for name in schema.get("required", members)}
        case "array":
            if "prefixItems" in schema:
                return [_of_schema(each, definitions) for each in schema["prefixItems"]]
            items = schema.get("items")
            return [_of_schema(items, definitions)] if isinstance(items, dict) else []
        case "string":
            return "text"
        case "integer" | "number":
            return schema.get("minimum", 0)
        case "boolean":
            return False
        case _:
            return None


def _chosen(
    example: dict[str, Any] | None, inputs: list[Tensor], feed: Tensors, folder: Path
) -> dict[str, Any]:
    """The example request: as it was given, else the first row that lacks nothing."""
    pictures = {tensor.name for tensor in inputs if "image" in tensor.members}
    if example is not None and not pictures:
        return example
    names = [tensor.name for tensor in inputs]
    given = _row(example, [{"name": name} for name in names]) if example else {}
    count = row_count(feed)
    whole = next((row for row in range(count) if not any(_lacks(feed[name][row]) for name in names)), 0)
    values: dict[str, Any] = {}
    for tensor in inputs:
        if example and tensor.name not in given:
            continue
        value = _picture(given[tensor.name], tensor, folder) if example else _plain(feed[tensor.name][whole])
        if not example and "default" in tensor.members and value == tensor.members["default"]:
            continue  # a row need not say it
        values[tensor.name] = value[PICTURE] if isinstance(value, dict) and PICTURE in value else value
    return {"input": values[names[0]]} if len(names) == 1 and names[0] in values else {"inputs": values}


def _lacks(value: Any) -> bool:
    array = np.asarray(value, dtype=object)
    return any(each is None or each != each for each in array.flat if not isinstance(each, dict | list))  # noqa: PLR0124


def _plain(value: Any) -> Any:
    """A row's value in JSON's types."""
    if isinstance(value, np.ndarray):
        return [_plain(each) for each in cast(Array, value)]
    if isinstance(value, np.floating):
        return None if np.isnan(value) else float(str(value))
    return value.item() if isinstance(value, np.generic) else value
