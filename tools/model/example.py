"""The example: a request with one small row that the model answers, for model.json, the API's pages and a curl."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import numpy as np

from server.model.manifest import MAX_SHOWN_EXAMPLE_BYTES
from tools.model.errors import ModelError
from tools.model.tensors import Array, Tensor, Tensors, row_count

Run = Callable[[Tensors], Tensors]

_BLACK_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGNgYGAAAAAEAAH2FzhVAAAAAElFTkSuQmCC"
"""A PNG of one black pixel, in base64."""
_PICTURE_SIZES = (64, 48, 32, 16, 8)
_MAX_PICTURE_BYTES = 2000
_TRIED_ROWS = 20
_SHORT_ENOUGH_BYTES = 1024
_SHORT_SIZES = (4, 8, 16, 32, 64, 128, 256)
_MAX_CHARACTERS = 200
_FEW_DIGITS = 3
_MAX_ROUNDED_BYTES = 2**16
"""A longer row, such as a picture's pixels, is zeros, the shortest there is."""


def picture(image: Mapping[str, Any], rows: Array | None) -> dict[str, Any]:
    """Show the first row of the training data as the small picture that it is; a black pixel where there is none."""
    return {"input": _BLACK_PIXEL if rows is None else base64.b64encode(_jpeg(image, rows[0])).decode()}


def _jpeg(image: Mapping[str, Any], row: Array) -> bytes:
    """Undo the preprocessing, and shrink the picture until its file is small."""
    from PIL import Image

    pixels = row if image["layout"] == "HWC" else row.transpose(1, 2, 0)
    if pixels.dtype.kind == "f":
        values = pixels.astype(np.float64) * (image.get("std") or 1.0) + (image.get("mean") or 0.0)
        pixels = np.clip(np.rint(values / image.get("scale", 1 / 255)), 0, 255).astype(np.uint8)
    whole = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else np.ascontiguousarray(pixels))
    content = b""
    for size in _PICTURE_SIZES:
        small = whole.copy()
        small.thumbnail((size, size))
        file = io.BytesIO()
        small.save(file, "JPEG", quality=80)
        content = file.getvalue()
        if len(content) <= _MAX_PICTURE_BYTES:
            break
    return content


def of_rows(inputs: list[Tensor], feed: Tensors, answers: Tensors, run: Run | None) -> dict[str, Any]:
    """Choose a row whose answer is finite, one without missing values if there is one; shorter, if `run` can tell."""
    row = {tensor.name: feed[tensor.name][_answered(feed, answers)] for tensor in inputs}
    if run is None or _bytes(row) <= _SHORT_ENOUGH_BYTES or any(tensor.datatype == "JSON" for tensor in inputs):
        return _request(row)
    for shorter in _shorter(inputs, row):
        if _bytes(shorter) < _bytes(row) and _is_answered(run, shorter):
            return _request(shorter)
    return _request(row)


def _answered(feed: Tensors, answers: Tensors) -> int:
    rows = range(min(_TRIED_ROWS, row_count(answers)))
    finite = [row for row in rows if all(_finite(array[row]) for array in answers.values())]
    whole = [row for row in finite if all(_finite(array[row]) for array in feed.values())]
    return next(iter(whole or finite), 0)


def _finite(values: Any) -> bool:
    """Tell it of a row's numbers; a value of JSON or a text is no array."""
    return not hasattr(values, "dtype") or values.dtype.kind != "f" or bool(np.isfinite(values).all())


def _shorter(inputs: list[Tensor], row: Tensors) -> Iterator[Tensors]:
    """Shorten a row: cut what is free in it, round it, or leave zeros of it."""
    sizes = {
        size for each in inputs for size, free in zip(row[each.name].shape, each.row_shape, strict=True) if free < 0
    }
    texts = {name: _cut_texts(array) for name, array in row.items()}
    cuts = [cut for cut in _SHORT_SIZES if sizes and cut < max(sizes)]
    for cut in cuts:
        yield {each.name: texts[each.name][_part(each, texts[each.name], cut)] for each in inputs}
    yield texts
    rounded = {name: _rounded(array) for name, array in texts.items()}
    if _bytes(rounded) > _MAX_ROUNDED_BYTES:
        yield {name: np.zeros_like(array) for name, array in rounded.items()}
    yield rounded


def _part(tensor: Tensor, array: Array, cut: int) -> tuple[slice, ...]:
    return tuple(
        slice(min(size, cut) if free < 0 else size) for size, free in zip(array.shape, tensor.row_shape, strict=True)
    )


def _cut_texts(array: Array) -> Array:
    return array.astype(f"U{_MAX_CHARACTERS}") if array.dtype.kind == "U" else array


def _rounded(array: Array) -> Array:
    """Keep three digits of each number."""
    if array.dtype.kind != "f":
        return array
    texts = [f"{value:.{_FEW_DIGITS}g}" for value in array.ravel().tolist()]
    return np.array(texts, dtype=np.float64).astype(array.dtype).reshape(array.shape)


def _is_answered(run: Run, row: Tensors) -> bool:
    try:
        answers = run({name: np.asarray(array)[np.newaxis] for name, array in row.items()})
    except ModelError:
        return False
    return all(_finite(array) for array in answers.values())


def _request(row: Tensors) -> dict[str, Any]:
    values = {name: to_json(array) for name, array in row.items()}
    return {"input": next(iter(values.values()))} if len(values) == 1 else {"inputs": values}


def _bytes(row: Tensors) -> int:
    return len(encode(_request(row)))


def encode(example: Mapping[str, Any]) -> bytes:
    """Write the request's body."""
    return json.dumps(example, ensure_ascii=False, separators=(",", ":")).encode()


def is_short(example: Mapping[str, Any]) -> bool:
    """Tell whether the server shows it and a curl can have it on its command line; a longer one needs a file."""
    return len(encode(example)) <= MAX_SHOWN_EXAMPLE_BYTES


def to_json(row: Any) -> Any:
    """Convert a row to JSON's types, floats with no more digits than their own type holds."""
    if isinstance(row, (list, dict)):
        return cast("Any", row)
    array = np.asarray(row)
    if array.ndim:
        return [to_json(part) for part in array]
    if array.dtype.kind == "f":
        number = float(str(array[()]))
        return None if np.isnan(array) else int(number) if number == 0 else number
    return array.item()
