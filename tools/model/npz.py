"""Tensors in an .npz file, between the command and the processes that run models. Objects are JSON, never a pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tools.model.tensors import Array, Tensors


def save(path: Path, tensors: Tensors) -> None:
    """Write the arrays; their names, which may have any letters, are an array of their own, with what is JSON."""
    header = {name: list(array.shape) if array.dtype.kind == "O" else None for name, array in tensors.items()}
    arrays = [_texts(array.ravel().tolist()) if array.dtype.kind == "O" else array for array in tensors.values()]
    np.savez(path, _texts(header), *arrays, allow_pickle=False)


def load(path: Path) -> Tensors:
    """Read what `save` wrote."""
    with np.load(path, allow_pickle=False) as file:
        header: dict[str, list[int] | None] = json.loads(file["arr_0"].tobytes())
        return {
            name: file[f"arr_{index}"] if shape is None else _objects(json.loads(file[f"arr_{index}"].tobytes()), shape)
            for index, (name, shape) in enumerate(header.items(), start=1)
        }


def _texts(value: Any) -> Array:
    return np.frombuffer(json.dumps(value).encode(), dtype=np.uint8)


def _objects(values: list[Any], shape: list[int]) -> Array:
    """Make an array of objects, which may be lists that numpy must not look into."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array.reshape(shape)
