"""model.json: the signature, an example and the reference profile of a converted model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from server.model.manifest import DEFAULT_MAX_CHARACTERS, DEFAULT_MAX_SIZE, Input, Output, columns
from tools.model import profile
from tools.model.conversion import Conversion
from tools.model.errors import ModelError
from tools.model.settings import Settings
from tools.model.tensors import Array, Tensor, Tensors, row_count
from tools.model.training_data import Table

_BLACK_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGNgYGAAAAAEAAH2FzhVAAAAAElFTkSuQmCC"
"""A PNG of one black pixel, in base64."""
_TEXT_ROOM = 4
"""A client's text may be so many times as long as the longest in the training data, which are a sample."""
_MIN_CHARACTERS = 1024
"""Longest text that is always taken."""


def describe(
    settings: Settings, conversion: Conversion, outputs: list[Tensor], answers: Tensors, table: Table | None
) -> dict[str, Any]:
    """Write the members of model.json, without `hooks` and `source`."""
    inputs = [_nullable(tensor, conversion.feed[tensor.name], table) for tensor in conversion.inputs]
    labels = _labels(settings, conversion, outputs)
    manifest: dict[str, Any] = {"name": settings.name, "version": settings.version}
    if conversion.format != "onnx":
        manifest["format"] = conversion.format
    if conversion.batching.mode != "dynamic":
        manifest["batching"] = conversion.batching.mode
    manifest["inputs"] = [_input(settings, conversion, tensor, table) for tensor in inputs]
    manifest["outputs"] = [
        _tensor(conversion, tensor) | ({"labels": labels[tensor.name]} if tensor.name in labels else {})
        for tensor in outputs
    ]
    manifest["example"] = settings.example or _example(settings, inputs, conversion.feed, table)
    if table:
        manifest["profile"] = _profile(settings, conversion, inputs, outputs, labels, answers)
    return manifest


def _nullable(tensor: Tensor, array: Array, table: Table | None) -> Tensor:
    """Allow nulls where the training data has missing values."""
    if table and array.dtype.kind == "f" and np.isnan(array).any():
        return replace(tensor, nullable=True)
    return tensor


def _labels(settings: Settings, conversion: Conversion, outputs: list[Tensor]) -> dict[str, list[str]]:
    if not settings.labels:
        return conversion.labels
    given = settings.labels
    fits = [
        tensor.name
        for tensor in outputs
        if (tensor.row_shape == () and tensor.dtype.kind in "iu") or tensor.row_shape == (len(given),)
    ]
    if not fits:
        shapes = ", ".join(str(tensor) for tensor in outputs)
        raise ModelError(
            f"--labels has {len(given)} names; no output has a class index or {len(given)} values: {shapes}"
        )
    return conversion.labels | dict.fromkeys(fits, given)


def _tensor(conversion: Conversion, tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": conversion.batching.shape(tensor.row_shape)}


def _input(settings: Settings, conversion: Conversion, tensor: Tensor, table: Table | None) -> dict[str, Any]:
    description = _tensor(conversion, tensor)
    if tensor.features:
        description["features"] = tensor.features
    if tensor.nullable:
        description["nullable"] = True
    description |= maxima(tensor, conversion.feed[tensor.name] if table else None)
    if settings.image is not None:
        if len(tensor.row_shape) != 3:
            raise ModelError(f"--image: {tensor} is no picture, which has channels, height and width")
        layout = settings.image.get("layout", "CHW" if tensor.row_shape[0] in (1, 3) else "HWC")
        channels = tensor.row_shape[0] if layout == "CHW" else tensor.row_shape[2]
        description["image"] = {"mode": "L" if channels == 1 else "RGB", "layout": layout} | settings.image
    return description


def maxima(tensor: Tensor, data: Array | None) -> dict[str, int]:
    """Bound what is free in a row by the training data: axes as they are there, texts with room for longer ones."""
    found: dict[str, int] = {}
    free = [axis for axis, size in enumerate(tensor.row_shape, start=1) if size == -1]
    if free:
        known = tensor.max_size or DEFAULT_MAX_SIZE
        found["max_size"] = known if data is None else max(data.shape[axis] for axis in free)
    if tensor.datatype == "BYTES":
        longest = None if data is None else int(np.char.str_len(data).max())
        room = DEFAULT_MAX_CHARACTERS if longest is None else max(_MIN_CHARACTERS, longest * _TEXT_ROOM)
        found["max_characters"] = room
    return found


def _example(settings: Settings, inputs: list[Tensor], feed: Tensors, table: Table | None) -> dict[str, Any]:
    """Choose a row of the training data that lacks nothing, else zeros."""
    if settings.image is not None:
        return {"input": _BLACK_PIXEL}
    rows: dict[str, Array] = {tensor.name: feed[tensor.name][0] for tensor in inputs}
    if table:
        whole = [index for index in range(table.rows) if not any(_missing(array[index]) for array in feed.values())]
        rows = {tensor.name: feed[tensor.name][whole[0] if whole else 0] for tensor in inputs}
    values = {name: _json(row) for name, row in rows.items()}
    return {"input": next(iter(values.values()))} if len(values) == 1 else {"inputs": values}


def _missing(row: Array) -> bool:
    return row.dtype.kind == "f" and bool(np.isnan(row).any())


def _json(row: Any) -> Any:
    """Convert a row to JSON's types, floats with no more digits than their own type holds."""
    array = np.asarray(row)
    if array.ndim:
        return [_json(part) for part in array]
    if array.dtype.kind == "f":
        return None if np.isnan(array) else float(str(array[()]))
    return array.item()


def _profile(
    settings: Settings,
    conversion: Conversion,
    inputs: list[Tensor],
    outputs: list[Tensor],
    labels: dict[str, list[str]],
    answers: Tensors,
) -> dict[str, Any]:
    features: list[profile.Columns] = []
    for tensor in inputs if settings.image is None else []:
        names = columns(Input(**_signature(tensor), features=tensor.features), list(tensor.row_shape))
        features.append((conversion.feed[tensor.name], names, ()))
    results: list[profile.Columns] = []
    for tensor in outputs:
        classes = labels.get(tensor.name, [])
        names = columns(Output(**_signature(tensor), labels=classes), list(tensor.row_shape))
        results.append((answers[tensor.name], names, () if tensor.row_shape else classes))
    return {
        "rows": row_count(answers),
        "features": profile.profile_columns(features),
        "outputs": profile.profile_columns(results),
    }


def _signature(tensor: Tensor) -> dict[str, Any]:
    """The members that the server's own tensors have, with a row's shape."""
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.row_shape)}
