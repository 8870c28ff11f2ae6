"""model.json: the signature, an example and the reference profile of a converted model."""

from __future__ import annotations

import base64
import struct
import zlib
from dataclasses import replace
from typing import Any

import numpy as np

from server.model.manifest import Input, Output, columns
from tools.model import profile
from tools.model.converted import Converted
from tools.model.data import VARIABLE_SIZE, Table
from tools.model.problem import ModelError
from tools.model.settings import Settings
from tools.model.tensors import Array, Tensor, Tensors


def describe(
    settings: Settings, converted: Converted, outputs: list[Tensor], answers: Tensors, table: Table | None
) -> dict[str, Any]:
    """The members of model.json without `hooks` and `source`."""
    inputs = [_nullable(tensor, converted.feed[tensor.name], table) for tensor in converted.inputs]
    labels = _labels(settings, converted, outputs)
    description: dict[str, Any] = {"name": settings.name, "version": settings.version}
    if converted.format != "onnx":
        description["format"] = converted.format
    if converted.batching != "dynamic":
        description["batching"] = converted.batching
    description["inputs"] = [_input(settings, converted, tensor) for tensor in inputs]
    description["outputs"] = [
        _tensor(converted, tensor) | ({"labels": labels[tensor.name]} if tensor.name in labels else {})
        for tensor in outputs
    ]
    description["example"] = settings.example or _example(settings, inputs, converted.feed, table)
    if table:
        description["profile"] = _profile(settings, converted, inputs, outputs, labels, answers)
    return description


def _nullable(tensor: Tensor, array: Array, table: Table | None) -> Tensor:
    """Values that are missing in the training data may be missing in a request."""
    if table and array.dtype.kind == "f" and np.isnan(array).any():
        return replace(tensor, nullable=True)
    return tensor


def _labels(settings: Settings, converted: Converted, outputs: list[Tensor]) -> dict[str, list[str]]:
    if not settings.labels:
        return converted.labels
    given = settings.labels
    fits = [
        tensor.name
        for tensor in outputs
        if (tensor.row == () and tensor.dtype.kind in "iu") or tensor.row == (len(given),)
    ]
    if not fits:
        shapes = ", ".join(str(tensor) for tensor in outputs)
        raise ModelError(f"LABELS has {len(given)} names; no output has a class index or {len(given)} values: {shapes}")
    return converted.labels | dict.fromkeys(fits, given)


def _tensor(converted: Converted, tensor: Tensor) -> dict[str, Any]:
    rows = {"dynamic": [-1], "fixed": [converted.batch_rows], "none": []}[converted.batching]
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": [*rows, *tensor.row]}


def _input(settings: Settings, converted: Converted, tensor: Tensor) -> dict[str, Any]:
    description = _tensor(converted, tensor)
    if tensor.features:
        description["features"] = tensor.features
    if tensor.nullable:
        description["nullable"] = True
    if settings.image is not None:
        if len(tensor.row) != 3:
            raise ModelError(f"IMAGE: {tensor} is no picture, which has channels, height and width")
        layout = settings.image.get("layout", "CHW" if tensor.row[0] in (1, 3) else "HWC")
        channels = tensor.row[0] if layout == "CHW" else tensor.row[2]
        description["image"] = {"mode": "L" if channels == 1 else "RGB", "layout": layout} | settings.image
    return description


def _example(settings: Settings, inputs: list[Tensor], feed: Tensors, table: Table | None) -> dict[str, Any]:
    """A row of the training data that lacks nothing, else zeros."""
    rows = {tensor.name: _zeros(tensor) for tensor in inputs}
    if settings.image is not None:
        return {"input": _black()}
    if table:
        whole = [index for index in range(table.rows) if not any(_missing(array[index]) for array in feed.values())]
        rows = {tensor.name: feed[tensor.name][whole[0] if whole else 0] for tensor in inputs}
    values = {name: _json(row) for name, row in rows.items()}
    return {"input": next(iter(values.values()))} if len(values) == 1 else {"inputs": values}


def _zeros(tensor: Tensor) -> Array:
    return np.zeros([VARIABLE_SIZE if size == -1 else size for size in tensor.row], dtype=tensor.dtype)


def _missing(row: Array) -> bool:
    return row.dtype.kind == "f" and bool(np.isnan(row).any())


def _json(row: Any) -> Any:
    """A row as JSON has it, floats with no more digits than their type holds."""
    array = np.asarray(row)
    if array.ndim:
        return [_json(part) for part in array]
    if array.dtype.kind == "f":
        return None if np.isnan(array) else float(str(array[()]))
    return array.item()


def _black() -> str:
    """A picture of one black pixel, as base64 of a PNG."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    picture = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0\0\0\0")) + chunk(b"IEND", b"")
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + picture).decode()


def _profile(
    settings: Settings,
    converted: Converted,
    inputs: list[Tensor],
    outputs: list[Tensor],
    labels: dict[str, list[str]],
    answers: Tensors,
) -> dict[str, Any]:
    features = [
        (converted.feed[tensor.name], columns(_as_input(tensor), list(tensor.row)), ())
        for tensor in inputs
        if settings.image is None
    ]
    results = [
        (
            answers[tensor.name],
            columns(_as_output(tensor, labels.get(tensor.name, [])), list(tensor.row)),
            labels.get(tensor.name, []) if not tensor.row else (),
        )
        for tensor in outputs
    ]
    return {
        "rows": len(next(iter(answers.values()))),
        "features": profile.side(features),
        "outputs": profile.side(results),
    }


def _as_input(tensor: Tensor) -> Input:
    return Input(name=tensor.name, datatype=_datatype(tensor), shape=list(tensor.row), features=tensor.features)


def _as_output(tensor: Tensor, labels: list[str]) -> Output:
    return Output(name=tensor.name, datatype=_datatype(tensor), shape=list(tensor.row), labels=labels)


def _datatype(tensor: Tensor) -> Any:
    return tensor.datatype
