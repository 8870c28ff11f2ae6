"""Find out whether an ONNX file keeps tensors in other files.

An ONNX model may name files outside itself (`data_location: EXTERNAL`), which are then read from any path it chooses.
This walks the protobuf wire format, without loading weights or needing the onnx package.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

# Per message the fields that lead to tensors [onnx.proto3]; field numbers never change within the format.
_MODEL: dict[int, str] = {7: "graph", 20: "training", 25: "function"}
_FIELDS: dict[str, dict[int, str]] = {
    "model": _MODEL,
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_GRAPH = 7
_EXTERNAL_DATA = 13
_DATA_LOCATION = 14
_MAX_DEPTH = 64
Field: TypeAlias = "tuple[int, int | memoryview]"


def has_external_data(content: bytes) -> bool:
    """Whether any tensor lies outside the file; raises a ValueError, to follow "it", when this is not protobuf."""
    return _walk("model", memoryview(content), 0)


def has_graph(content: bytes) -> bool:
    """Whether the message has what other frameworks' messages have not: a graph, in field 7."""
    return any(number == _GRAPH and isinstance(value, memoryview) for number, value in fields(memoryview(content)))


def _walk(message: str, content: memoryview, depth: int) -> bool:
    if depth > _MAX_DEPTH:
        raise ValueError("is nested too deeply")
    if message == "tensor":
        return any(
            number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0) for number, value in fields(content)
        )
    children = _FIELDS[message]
    return any(
        _walk(children[number], value, depth + 1)
        for number, value in fields(content)
        if number in children and isinstance(value, memoryview)
    )


def fields(content: memoryview) -> Iterator[Field]:
    """Walk a protobuf message's fields; a ValueError, to follow "it", when it is none."""
    position = 0
    while position < len(content):
        key, position = _varint(content, position)
        number, wire_type = key >> 3, key & 7
        if wire_type == 0:
            value, position = _varint(content, position)
            yield number, value
            continue
        if wire_type == 2:
            size, position = _varint(content, position)
        elif wire_type in (1, 5):
            size = 8 if wire_type == 1 else 4
        else:
            raise ValueError("is not a protobuf message")
        end = position + size
        if end > len(content):
            raise ValueError("is cut short")
        yield number, content[position:end]
        position = end


def _varint(content: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(content):
            raise ValueError("is cut short")
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("is not a protobuf message")
