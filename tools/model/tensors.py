"""Tensors: a model's inputs and outputs, as far as packaging needs to know them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from server.model.tensors import DTYPES, Array

Tensors: TypeAlias = dict[str, Array]
"""Arrays by name; rows along the first axis. Strings are numpy's own (`U`), unless some are None; objects are JSON."""

DATATYPES: dict[str, np.dtype[Any]] = {**DTYPES, "BYTES": np.dtype(np.str_)}
"""The element type of each datatype of the Open Inference Protocol; BYTES are strings here."""


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """An input or an output."""

    name: str
    datatype: str
    row_shape: tuple[int, ...]
    """-1 is any size, () is one value a row."""
    features: list[str] = field(default_factory=list[str])
    nullable: bool = False
    max_size: int | None = None
    """Largest size of its free axes that the model was seen to take, where it fails on larger ones."""
    members: dict[str, Any] = field(default_factory=dict[str, Any])
    """What model.json says of it besides, where the model's own code tells: `json_schema`, `default`, `image`."""

    @staticmethod
    def from_json(members: Mapping[str, Any]) -> Tensor:
        """Restore one from its members."""
        known: dict[str, Any] = {**members, "row_shape": tuple(members["row_shape"])}
        return Tensor(**known)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The array's element type."""
        return DATATYPES[self.datatype]

    def __str__(self) -> str:
        sizes = "x".join("*" if size == -1 else str(size) for size in self.row_shape) or "one value"
        return f"{self.name} ({self.datatype}, {sizes} a row)"


def datatype_of(dtype: np.dtype[Any]) -> str:
    """Name an array's element type as the protocol does; ValueError when it has no name for it."""
    if dtype.kind == "U":
        return "BYTES"
    for name, known in DATATYPES.items():
        if known == dtype:
            return name
    raise ValueError(f"values of type {dtype} have no name in the protocol")


def row_count(tensors: Tensors) -> int:
    """The rows, which are as many in each array."""
    return len(next(iter(tensors.values())))
