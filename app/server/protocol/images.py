"""A picture's text in JSON -> its file, which the inference thread turns into pixels."""

from __future__ import annotations

import binascii
import re

from ..errors import Problem
from ..model.pixels import FORMATS

_DATA_URL = re.compile(r"data:[\w/+.;=-]{0,100};base64,", re.ASCII)
_SIGNATURE = re.compile(rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|RIFF....WEBP", re.DOTALL)


def decode_picture(text: str, path: str) -> bytes:
    """Decode base64, which may be a data URL, of a file that starts as a picture does; cheap.

    `path` is the text's JSON path.
    """
    prefix = _DATA_URL.match(text)
    try:
        raw = binascii.a2b_base64(text[prefix.end() :] if prefix else text, strict_mode=True)
    except ValueError as error:
        raise Problem(422, "bad_image", f"the picture is not base64: {error}", path=path) from None
    if not _SIGNATURE.match(raw):
        raise Problem(422, "bad_image", f"the picture is none of {', '.join(FORMATS)}", path=path)
    return raw
