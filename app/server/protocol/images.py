"""A picture in base64 -> a row of the model. Pillow is loaded only where a model takes pictures."""

from __future__ import annotations

import binascii
import importlib
import io
import re
import warnings

import numpy as np

from ..errors import Problem
from ..model.manifest import Image, Input
from ..model.tensors import DTYPES, Array

_MAX_PIXELS = 25_000_000
"""Pillow needs 4 bytes for each, and as much again to turn or convert it: 200 MB."""
_DATA_URL = re.compile(r"data:[\w/+.;=-]{0,100};base64,", re.ASCII)
_SIGNATURE = re.compile(rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|RIFF....WEBP", re.DOTALL)
_FORMATS = ("PNG", "JPEG", "WEBP")


class ImageReader:
    """Makes one input's rows. A Problem says what is wrong with a client's picture."""

    def __init__(self, tensor: Input, row_shape: list[int]) -> None:
        # Each registers its format; a format that Pillow does not know makes it load all of its dozens of readers.
        for name in ("Png", "Jpeg", "WebP"):
            importlib.import_module(f"PIL.{name}ImagePlugin")
        warnings.filterwarnings("ignore", module=r"PIL\.")  # about a client's file, into the server's log
        self._image = tensor.image or Image()
        self._dtype = DTYPES[tensor.datatype]
        height, width = row_shape[1:] if self._image.layout == "CHW" else row_shape[:2]
        self._size = (width, height)

    def check(self, text: str, path: str) -> bytes:
        """The file in a base64 text, which may be a data URL, when it starts as a picture does; cheap.

        `path` is the text's.
        """
        prefix = _DATA_URL.match(text)
        try:
            raw = binascii.a2b_base64(text[prefix.end() :] if prefix else text, strict_mode=True)
        except ValueError as error:
            raise Problem(422, "bad_image", f"the picture is not base64: {error}", path=path) from None
        if not _SIGNATURE.match(raw):
            raise Problem(422, "bad_image", f"the picture is none of {', '.join(_FORMATS)}", path=path)
        return raw

    def read(self, raw: bytes) -> Array:
        """The row from a file: upright as its EXIF data say, its transparency dropped, resized bilinearly.

        Of an animation it is the first picture.
        """
        try:
            pixels = self._pixels(raw)
        except Problem:
            raise
        except Exception as error:  # Pillow's readers raise whatever their parsing stumbles on
            raise Problem(422, "bad_image", f"the picture cannot be read: {error}") from None
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

    def _pixels(self, raw: bytes) -> Array:
        """Height x width x channels, uint8."""
        from PIL import Image as pillow  # noqa: N813 - Image is the manifest's
        from PIL import ImageOps

        try:
            picture: pillow.Image = pillow.open(io.BytesIO(raw), formats=_FORMATS)
        except pillow.UnidentifiedImageError:
            raise Problem(422, "bad_image", "the picture's header is damaged") from None
        width, height = picture.size
        if width * height > _MAX_PIXELS:
            message = f"the picture has {width} x {height} pixels; all together may be {_MAX_PIXELS}"
            raise Problem(422, "bad_image", message)
        picture.load()
        ImageOps.exif_transpose(picture, in_place=True)
        if picture.mode.startswith("I"):  # 16 bits; Pillow would cut them off above, not below
            picture = pillow.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
        if picture.mode != self._image.mode:
            picture = picture.convert(self._image.mode)
        if picture.size != self._size:
            picture = picture.resize(self._size, pillow.Resampling.BILINEAR)
        return np.asarray(picture).reshape(*reversed(self._size), self._image.channels)

    def _by_channel(self, values: list[float]) -> Array:
        array = np.array(values, dtype=self._dtype)
        return array.reshape(-1, 1, 1) if self._image.layout == "CHW" else array
