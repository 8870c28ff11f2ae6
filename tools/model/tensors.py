"""What a model takes and gives, as far as packaging needs to know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from server.model.tensors import DTYPES, Array

Tensors: TypeAlias = dict[str, Array]
"""By name; rows along the first axis. Strings are numpy's own (`U`), never objects."""

DATATYPES: dict[str, np.dtype[Any]] = {**DTYPES, "BYTES": np.dtype(np.str_)}
"""The Open Inference Protocol's names; a model's BYTES are strings."""


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """An input or an output."""

    name: str
    datatype: str
    row: tuple[int, ...]
    """The shape of one row; -1 is any size, () is one value."""
    features: list[str] = field(default_factory=list[str])
    nullable: bool = False

    @staticmethod
    def of(members: Mapping[str, Any]) -> Tensor:
        """From JSON."""
        known: dict[str, Any] = {**members, "row": tuple(members["row"])}
        return Tensor(**known)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The array's element type."""
        return DATATYPES[self.datatype]

    def __str__(self) -> str:
        sizes = "x".join("*" if size == -1 else str(size) for size in self.row) or "one value"
        return f"{self.name} ({self.datatype}, {sizes} a row)"


def datatype(dtype: np.dtype[Any]) -> str:
    """The protocol's name of an array's element type; ValueError when it has none."""
    if dtype.kind == "U":
        return "BYTES"
    for name, known in DATATYPES.items():
        if known == dtype:
            return name
    raise ValueError(f"values of type {dtype} have no name in the protocol")
