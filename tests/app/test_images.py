from __future__ import annotations

import base64
from typing import Any

import pytest

from server.errors import Problem
from server.protocol.images import decode_picture
from tests.app.test_pixels import picture, saved

TEXT = base64.b64encode(saved(picture())).decode()


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,", "data:image/jpeg;charset=utf-8;base64,"])
def test_the_text_is_base64_and_may_be_a_data_url(prefix: str) -> None:
    assert decode_picture(prefix + TEXT, "$.input") == saved(picture())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "none of PNG, JPEG, WEBP"),
        ("=", "not base64"),
        ("data:image/png;base64,", "none of"),
        ("data:text/plain,hello", "not base64"),
        ("data:" + "a" * 100_000, "not base64"),
        ("\u20ac", "not base64"),
        (TEXT + "\n", "not base64"),
        (TEXT[:40] + "-_" + TEXT[42:], "not base64"),
        (TEXT[:-1], "not base64"),
        (base64.b64encode(b"GIF89a" + bytes(20)).decode(), "none of"),
        (base64.b64encode(b"<svg xmlns='http://www.w3.org/2000/svg'/>").decode(), "none of"),
        (base64.b64encode(b"II*\0" + bytes(20)).decode(), "none of"),
    ],
)
def test_other_texts_are_refused_with_their_path(text: str, message: str) -> None:
    with pytest.raises(Problem, match=message) as error:
        decode_picture(text, "$.input[1]")
    assert (error.value.status, error.value.code, error.value.path) == (422, "bad_image", "$.input[1]")


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("JPEG", {"quality": 95})])
def test_each_format_is_taken(kind: str, options: dict[str, Any]) -> None:
    raw = saved(picture(), kind, **options)
    assert decode_picture(base64.b64encode(raw).decode(), "$") == raw
