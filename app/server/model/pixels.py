"""A picture's file -> a row of the model. Pillow is loaded only where a model takes pictures."""

from __future__ import annotations

import importlib
import io
import warnings

import numpy as np

from ..errors import Problem
from .manifest import Image, Input
from .tensors import DTYPES, Array

FORMATS = ("PNG", "JPEG", "WEBP")
_MAX_PIXELS = 25_000_000
"""Pillow needs 4 bytes for each, and as much again to turn or convert it: 200 MB."""


class PixelReader:
    """Makes the rows of one input. A Problem says what is wrong with a client's picture, and in which row."""

    def __init__(self, tensor: Input, row_shape: list[int]) -> None:
        # Each registers its format; a format that Pillow does not know makes it load all of its dozens of readers.
        for name in ("Png", "Jpeg", "WebP"):
            importlib.import_module(f"PIL.{name}ImagePlugin")
        warnings.filterwarnings("ignore", module=r"PIL\.")  # about a client's file, into the server's log
        self._image = tensor.image or Image()
        self._dtype = DTYPES[tensor.datatype]
        height, width = row_shape[1:] if self._image.layout == "CHW" else row_shape[:2]
        self._size = None if -1 in (width, height) else (width, height)
        """None: a picture keeps its own."""

    def read(self, raw: bytes, row: int = 0) -> Array:
        """Make row number `row` of a request: upright by its EXIF data, without transparency, resized bilinearly.

        An animation counts as its first picture.
        """
        try:
            pixels = self._pixels(raw, row)
        except (Problem, MemoryError):
            raise
        except Exception as error:  # Pillow's readers raise whatever their parsing stumbles on
            raise _bad_image(f"the picture cannot be read: {error}", row) from None
        if self._image.layout == "CHW":
            pixels = pixels.transpose(2, 0, 1)
        if self._dtype == np.uint8:
            return np.ascontiguousarray(pixels)
        values = pixels.astype(self._dtype, order="C")
        values *= self._dtype.type(self._image.scale)
        if self._image.mean:
            values -= self._by_channel(self._image.mean)
        if self._image.std:
            values /= self._by_channel(self._image.std)
        return values

    def count_values(self, raw: bytes) -> int:
        """Tell how many values the row of a picture has, by the file's header: a few if that is damaged."""
        from PIL import Image as pillow  # noqa: N813  # Image is the manifest's

        try:
            width, height = pillow.open(io.BytesIO(raw), formats=FORMATS).size
        except Exception:  # Pillow's readers raise whatever their parsing stumbles on; `read` tells
            return 1
        return min(width * height, _MAX_PIXELS) * self._image.channels

    def _pixels(self, raw: bytes, row: int) -> Array:
        """Return `[height, width, channels]` as uint8."""
        from PIL import Image as pillow  # noqa: N813  # Image is the manifest's
        from PIL import ImageOps

        try:
            picture: pillow.Image = pillow.open(io.BytesIO(raw), formats=FORMATS)
        except pillow.UnidentifiedImageError:
            raise _bad_image("the picture's header is damaged", row) from None
        width, height = picture.size
        if width * height > _MAX_PIXELS:
            message = f"the picture has {width} x {height} pixels; all together may be {_MAX_PIXELS}"
            raise _bad_image(message, row)
        picture.load()
        ImageOps.exif_transpose(picture, in_place=True)
        if picture.mode.startswith("I"):  # 16 bits; Pillow would cut them off above, not below
            picture = pillow.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
        if picture.mode != self._image.mode:
            picture = picture.convert(self._image.mode)
        if self._size and picture.size != self._size:
            picture = picture.resize(self._size, pillow.Resampling.BILINEAR)
        return np.asarray(picture).reshape(picture.height, picture.width, self._image.channels)

    def _by_channel(self, values: list[float]) -> Array:
        array = np.array(values, dtype=self._dtype)
        return array.reshape(-1, 1, 1) if self._image.layout == "CHW" else array


def _bad_image(message: str, row: int) -> Problem:
    return Problem(422, "bad_image", message, row=row)
