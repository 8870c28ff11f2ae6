"""Strict decoding of JSON: every mistake is a Problem with its path, and no key may appear twice."""

from __future__ import annotations

import json
from typing import Any, TypeVar

import msgspec

from ..errors import Problem

T = TypeVar("T")
_MAX_KEY_CHARACTERS = 100
"""Longest key that is quoted in an answer."""


def decode(decoder: msgspec.json.Decoder[T], content: bytes, path: str) -> T:
    """Decode the content, which stands at `path` in the body; raises a Problem with the path of a mistake."""
    try:
        return decoder.decode(content)
    except msgspec.ValidationError as error:
        message, _, inner = str(error).partition(" - at `$")  # the error has no field for the path
        raise Problem(422, "wrong_type", message, path=path + inner.rstrip("`")) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _malformed(error, path) from None
    except RecursionError:
        raise _too_deep(path) from None


def refuse_duplicates(content: bytes, path: str = "$") -> None:
    """Raise the Problem of the first key that an object has twice, in JSON at `path` that a decoder took.

    msgspec takes the last of them, silently. This parses the text again, slowly: call it when a duplicate is possible.
    """
    try:
        duplicate = _duplicate(json.loads(content, object_pairs_hook=_Pairs, parse_int=float), path)
    except RecursionError:
        raise _too_deep(path) from None
    except ValueError as error:  # in what msgspec skipped without a close look
        raise _malformed(error, path) from None
    if duplicate:
        raise Problem(400, "malformed_json", "the key appears more than once", path=duplicate)


def _malformed(error: Exception, path: str) -> Problem:
    return Problem(400, "malformed_json", f"the body is not valid JSON: {error}", path=path)


def _too_deep(path: str) -> Problem:
    return Problem(400, "too_deep", "the body is nested too deeply", path=path)


class _Pairs(tuple[tuple[str, Any], ...]):
    """Members of an object, in the order of the text and with duplicates."""

    __slots__ = ()


def _duplicate(value: Any, path: str) -> str | None:
    members: list[tuple[str, Any]] = []
    if isinstance(value, _Pairs):
        keys: set[str] = set()
        for key, member in value:
            at = f"{path}.{key[:_MAX_KEY_CHARACTERS]}"
            if key in keys:
                return at
            keys.add(key)
            members.append((at, member))
    elif isinstance(value, list):
        members = [(f"{path}[{index}]", member) for index, member in enumerate(value)]  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]  # list of anything
    return next(filter(None, (_duplicate(member, at) for at, member in members)), None)
