"""Property values as the engine sends them: secrets and outputs are wrapped, unknown values are a fixed string."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf import json_format, struct_pb2
from pulumi.runtime import rpc

UNKNOWN = rpc.UNKNOWN
_SIGNATURE = rpc._special_sig_key
_SECRET = rpc._special_secret_sig
_OUTPUT = rpc._special_output_value_sig
_RESOURCE = rpc._special_resource_sig


def decode(properties: struct_pb2.Struct) -> dict[str, Any]:
    """A message as plain data; numbers without a fraction become ints."""
    return _whole(json_format.MessageToDict(properties))


def encode(properties: dict[str, Any]) -> struct_pb2.Struct:
    message = struct_pb2.Struct()
    json_format.ParseDict(properties, message)
    return message


def secret(value: Any) -> dict[str, Any]:
    """`value`, marked as a secret."""
    return {_SIGNATURE: _SECRET, "value": value}


def is_output(value: Any) -> bool:
    """Whether an Output was given, where the type may say that only a plain value will do."""
    return value == UNKNOWN or (isinstance(value, dict) and value.get(_SIGNATURE) in {_SECRET, _OUTPUT})


def is_resource(value: Any) -> bool:
    return isinstance(value, dict) and value.get(_SIGNATURE) == _RESOURCE


def peel(value: Any) -> Any:
    """`value` without the marks around it; those deeper inside stay."""
    while isinstance(value, dict) and value.get(_SIGNATURE) in {_SECRET, _OUTPUT}:
        value = value.get("value", UNKNOWN)
    return value


def plain(value: Any) -> Any:
    """`value` without any marks; null properties are left out, as the engine does."""
    value = peel(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def has_unknown(value: Any) -> bool:
    """Whether any part of a plain `value` is not known yet."""
    if isinstance(value, dict):
        return any(has_unknown(item) for item in value.values())
    if isinstance(value, list):
        return any(has_unknown(item) for item in value)
    return value == UNKNOWN


def get(value: Any, path: str) -> Any:
    """What stands at a dotted `path` of plain data, None if nothing does."""
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """The paths at which two plain values differ; an unknown value may always differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            step = f'["{key}"]' if "." in key else f"{'.' if path else ''}{key}"
            yield from differences(old.get(key), new.get(key), path + step)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, pair in enumerate(zip(old, new, strict=True)):
            yield from differences(*pair, f"{path}[{index}]")
    elif old != new or new == UNKNOWN:
        yield path


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
