"""model.json: the signature, an example and the reference profile of a converted model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from server.model.manifest import DEFAULT_MAX_CHARACTERS, DEFAULT_MAX_SIZE, Input, Output, columns
from tools.model import example, profile
from tools.model.conversion import Conversion
from tools.model.errors import ModelError
from tools.model.settings import Settings
from tools.model.tensors import Array, Tensor, Tensors, row_count
from tools.model.training_data import Table

_TEXT_ROOM = 4
"""A client's text may be so many times as long as the longest in the training data, which are a sample."""
_MIN_CHARACTERS = 1024
"""Longest text that is always taken."""


def describe(
    settings: Settings,
    conversion: Conversion,
    outputs: list[Tensor],
    answers: Tensors,
    table: Table | None,
    run: example.Run | None,
) -> dict[str, Any]:
    """Write the members of model.json, without `hooks` and `source`; `run` answers shorter rows for the example."""
    inputs = conversion.inputs
    if conversion.format != "python" or conversion.call == "tensors":  # else its annotations say what may be missing
        inputs = [_nullable(tensor, conversion.feed[tensor.name], table) for tensor in inputs]
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
    if settings.example:
        manifest["example"] = settings.example
    elif settings.image is not None:
        rows = conversion.feed[inputs[0].name] if table else None
        manifest["example"] = example.picture(manifest["inputs"][0]["image"], rows)
    else:
        manifest["example"] = example.of_rows(inputs, conversion.feed, answers, run)
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
    shape = conversion.batching.shape(tensor.row_shape)
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": shape} | tensor.members


def _input(settings: Settings, conversion: Conversion, tensor: Tensor, table: Table | None) -> dict[str, Any]:
    description = _tensor(conversion, tensor)
    if tensor.features:
        description["features"] = tensor.features
    if tensor.nullable:
        description["nullable"] = True
    description |= maxima(tensor, conversion.feed[tensor.name] if table else None)
    asked = {"max_size": settings.max_size, "max_characters": settings.max_characters}
    description |= {name: asked[name] for name in asked.keys() & description.keys() if asked[name] is not None}
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
    if "image" in tensor.members:
        return found  # a picture is bounded by its pixels
    if free:
        known = tensor.max_size or DEFAULT_MAX_SIZE
        found["max_size"] = known if data is None else max(data.shape[axis] for axis in free)
    if tensor.datatype == "BYTES":
        longest = None if data is None else max([len(text) for text in data.flat if text is not None], default=0)
        room = DEFAULT_MAX_CHARACTERS if longest is None else max(_MIN_CHARACTERS, longest * _TEXT_ROOM)
        found["max_characters"] = room
    return found


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
