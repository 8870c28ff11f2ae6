"""What of a live object are our own inputs: where they differ, somebody else has changed what we own."""

from __future__ import annotations

import base64
import re
from decimal import Decimal
from typing import Any

from tests.standins import wire

_LIST_KEYS = ("name", "mountPath", "containerPort", "port", "topologyKey", "key")
_SUFFIXES = {"": 0, "n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12}
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4}


def observed(inputs: dict[str, Any], live: dict[str, Any]) -> dict[str, Any]:
    """`inputs` (with marks) with the values that the live object has; what it has lost is left out."""
    if "stringData" in inputs:
        texts = {key: base64.b64decode(value).decode() for key, value in live.get("data", {}).items()}
        live = {**live, "stringData": texts}
    return _like(inputs, live)


def marked(outputs: Any, inputs: Any) -> Any:
    """`outputs` with the secrets of `inputs` marked as such."""
    if inputs != wire.peel(inputs):
        return wire.secret(wire.plain(outputs))
    if isinstance(outputs, dict) and isinstance(inputs, dict):
        return {key: marked(value, inputs.get(key)) for key, value in outputs.items()}
    if isinstance(outputs, list) and isinstance(inputs, list) and len(outputs) == len(inputs):
        return [marked(*pair) for pair in zip(outputs, inputs, strict=True)]
    return outputs


def _like(wanted: Any, live: Any) -> Any:
    if wanted != wire.peel(wanted):
        return wire.secret(_like(wire.peel(wanted), live))
    if isinstance(wanted, dict) and isinstance(live, dict):
        pairs = {key: (value, live.get(key)) for key, value in wanted.items()}
        return {key: _like(*pair) for key, pair in pairs.items() if pair[1] is not None or _is_empty(pair[0])}
    if isinstance(wanted, list) and isinstance(live, list):
        return _list_like(wanted, live)
    if _is_empty(wanted) and live is None:
        return wanted  # the API server leaves such values out
    return wanted if _same(wanted, live) else live


def _list_like(wanted: list[Any], live: list[Any]) -> list[Any]:
    items = [wire.plain(item) for item in wanted]
    for key in _LIST_KEYS:
        if items and all(isinstance(item, dict) and key in item for item in [*items, *live]):
            by_key = {item[key]: item for item in live}
            if len(by_key) == len(live) and len({item[key] for item in items}) == len(items):
                found = zip(items, wanted, strict=True)
                return [_like(each, by_key[item[key]]) for item, each in found if item[key] in by_key]
    if len(wanted) != len(live):
        return live
    return [_like(*pair) for pair in zip(wanted, live, strict=True)]


def _is_empty(value: Any) -> bool:
    return wire.plain(value) in ({}, [], "", 0)  # False is 0


def _same(wanted: Any, live: Any) -> bool:
    if type(wanted) is not type(live):
        return False
    if not isinstance(wanted, str) or wanted == live:
        return wanted == live
    quantities = _quantity(wanted), _quantity(live)
    return None not in quantities and quantities[0] == quantities[1]


def _quantity(text: str) -> Decimal | None:
    """The number that a resource quantity such as 500m or 1Gi means."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([A-Za-z]{0,2})", text)
    if not found:
        return None
    number, suffix = Decimal(found[1]), found[2]
    if suffix in _BINARY:
        return number * 1024 ** _BINARY[suffix]
    return number.scaleb(_SUFFIXES[suffix]) if suffix in _SUFFIXES else None
