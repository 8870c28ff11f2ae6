"""Types of HTTP bodies for a model's signature, as narrow as the server is: to describe bodies, not to decode them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal, TypeAlias, cast

import msgspec
from msgspec import UNSET, Meta, UnsetType

from ..model.datatypes import WIRE_DATATYPES
from ..model.manifest import Input, Manifest, Output, Tensor
from .open_inference import InputParameters, RequestBody, RequestedOutput, Size
from .predict_json import ModelId, array_type, element_type, lone_type, row_type, scalar_type, value_type

Type: TypeAlias = Any
_DEFINITIONS = "#/$defs/"


def request_types(manifest: Manifest, max_rows: int) -> list[Type]:
    """Bodies that POST /predict takes."""
    optional = {tensor.name for tensor in manifest.inputs if tensor.default is not UNSET}
    row = _object("Row", {tensor.name: _lone(tensor, manifest) for tensor in manifest.inputs}, optional)
    named = _object("PredictNamed", {"inputs": row | _rows(row, max_rows)})
    if len(manifest.inputs) > 1:
        return [named, _object("PredictByName", {"input": row | _rows(row, max_rows)})]
    tensor = manifest.inputs[0]
    rows = _rows(_described(tensor, row_type(tensor, manifest.row_shape(tensor), sized=True)), max_rows)
    bodies = [_object("PredictOne", {"input": _lone(tensor, manifest)}), _object("PredictMany", {"input": rows}), named]
    if tensor.features:
        features = _object("Features", dict.fromkeys(tensor.features, value_type(tensor)))
        bodies.append(_object("PredictByFeature", {"input": features | _rows(features, max_rows)}))
    return bodies


def answer_types(manifest: Manifest, max_rows: int) -> list[Type]:
    """Bodies that POST /predict answers with."""
    values = {
        tensor.name: _answer(index, tensor, manifest.row_shape(tensor)) for index, tensor in enumerate(manifest.outputs)
    }
    value = _object("Prediction", values) if len(values) > 1 else values[manifest.outputs[0].name]
    return [
        _object("PredictedOne", {"model": ModelId, "prediction": value}),
        _object("PredictedMany", {"model": ModelId, "predictions": _rows(value, max_rows)}),
    ]


def infer_type(manifest: Manifest, max_rows: int) -> Type:
    """JSON that POST /v2/models/{name}/infer takes."""
    inputs: Type = _infer_input(0, manifest, max_rows)
    for index in range(1, len(manifest.inputs)):
        inputs |= _infer_input(index, manifest, max_rows)
    number = len(manifest.inputs)
    fewest = max(1, sum(tensor.default is UNSET for tensor in manifest.inputs))
    name = Literal[tuple(tensor.name for tensor in manifest.outputs)]
    output = msgspec.defstruct("RequestedOutput", [("name", name)], bases=(RequestedOutput,), kw_only=True)
    return msgspec.defstruct(
        "InferRequest",
        [
            ("inputs", Annotated[list[inputs], Meta(min_length=fewest, max_length=number)]),
            ("outputs", list[output] | UnsetType | None, UNSET),
        ],
        bases=(RequestBody,),
        kw_only=True,
    )


def _infer_input(index: int, manifest: Manifest, max_rows: int) -> Type:
    tensor = manifest.inputs[index]
    row = manifest.row_shape(tensor)
    value = str if tensor.datatype == "JSON" else element_type(tensor)
    shape = row if manifest.batching == "none" else [max_rows, *row]
    free = {"type": "integer", "minimum": 1, "maximum": tensor.max_size}
    sizes: list[Any] = [{"const": size} if size > 0 else free for size in row]
    if manifest.batching != "none":
        sizes.insert(0, {"type": "integer", "minimum": 1, "maximum": max_rows})
    lengths = Meta(min_length=len(shape), max_length=len(shape), extra_json_schema={"prefixItems": sizes})
    nested = array_type(value, shape[1:], sized=True, max_size=tensor.max_size)
    flat_or_nested = value | nested if shape[1:] else value
    members = [
        ("datatype", Literal[WIRE_DATATYPES[tensor.datatype]]),
        ("shape", Annotated[list[Size], lengths]),
        ("parameters", InputParameters | UnsetType | None, UNSET),
        ("data", list[flat_or_nested] | UnsetType, UNSET),
    ]
    # msgspec tells the members of a union apart by a tag.
    return msgspec.defstruct(f"InferInput{index}", members, tag_field="name", tag=tensor.name)


def _object(name: str, members: Mapping[str, Type], optional: Collection[str] = ()) -> Type:
    """Type of an object with exactly these members, whose names need not be Python's."""
    fields = {f"field_{index}": member for index, member in enumerate(members)}
    types = [
        (field, kind | UnsetType, UNSET) if member in optional else (field, kind)
        for (field, member), kind in zip(fields.items(), members.values(), strict=True)
    ]
    return msgspec.defstruct(name, types, rename=fields, forbid_unknown_fields=True, kw_only=True)


def _rows(row: Type, max_rows: int) -> Type:
    return Annotated[list[row], Meta(min_length=1, max_length=max_rows)]


def _lone(tensor: Input, manifest: Manifest) -> Type:
    return _described(tensor, lone_type(tensor, manifest.row_shape(tensor), sized=True))


def _described(tensor: Input, what: Type) -> Type:
    if tensor.json_schema:
        return Annotated[what, Meta(extra_json_schema=_referring(tensor))]
    if tensor.image:
        return Annotated[what, Meta(description="A PNG, JPEG or WebP", extra_json_schema={"contentEncoding": "base64"})]
    return Annotated[what, Meta(description=", ".join(tensor.features))] if tensor.features else what


def definitions(tensor: Tensor) -> dict[str, Any]:
    """Schemas that a tensor's own refers to, by their names among the document's components."""
    found: dict[str, Any] = tensor.json_schema.get("$defs", {})
    return {_component(tensor, name): _renamed(tensor, schema) for name, schema in found.items()}


def _referring(tensor: Tensor) -> dict[str, Any]:
    """Schema of a tensor's value within the document."""
    return _renamed(tensor, {name: member for name, member in tensor.json_schema.items() if name != "$defs"})


def _component(tensor: Tensor, name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", f"{tensor.name}.{name}")


def _renamed(tensor: Tensor, schema: Any) -> Any:
    if isinstance(schema, list):
        return [_renamed(tensor, each) for each in cast("list[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    members = cast("dict[str, Any]", schema)
    renamed = {name: _renamed(tensor, each) for name, each in members.items()}
    target = members.get("$ref")
    if isinstance(target, str) and target.startswith(_DEFINITIONS):
        renamed["$ref"] = f"#/components/schemas/{_component(tensor, target.removeprefix(_DEFINITIONS))}"
    return renamed


def _answer(index: int, tensor: Output, row_shape: list[int]) -> Type:
    """Type of one row's answer, as predict_json.Encoder makes it."""
    if tensor.labels and not row_shape:
        return Literal[tuple(tensor.labels)]
    value = scalar_type(tensor.datatype)
    if tensor.json_schema:
        return Annotated[value, Meta(extra_json_schema=_referring(tensor))]
    if tensor.labels:
        return _object(f"Scores{index}", dict.fromkeys(tensor.labels, value))
    return value if row_shape == [1] else array_type(value, row_shape, sized=True)
