"""Tensors in an .npz file, between the command and the process that converts. Never a pickle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tools.model.tensors import Tensors


def save(path: Path, tensors: Tensors) -> None:
    """Write the arrays; their names, which may have any letters, are an array of their own."""
    names = np.frombuffer(json.dumps(list(tensors)).encode(), dtype=np.uint8)
    np.savez(path, names, *tensors.values(), allow_pickle=False)


def load(path: Path) -> Tensors:
    """Read what `save` wrote."""
    with np.load(path, allow_pickle=False) as file:
        names = json.loads(file["arr_0"].tobytes())
        return {name: file[f"arr_{index}"] for index, name in enumerate(names, start=1)}
