"""Answers by LightGBM itself."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

Tensors = dict[str, "np.ndarray[Any, Any]"]


class Predictor:
    """predictor.json says what the answer is called, and how the rows are given."""

    def __init__(self, folder: Path) -> None:
        self._settings: dict[str, Any] = json.loads((folder / "predictor.json").read_text())
        lightgbm: Any = import_module("lightgbm")
        self._booster = lightgbm.Booster(model_file=folder / "model.txt")

    def predict(self, inputs: Tensors) -> Tensors:
        """Answer all rows."""
        return answers(self._booster, inputs, self._settings)


def answers(booster: Any, inputs: Tensors, settings: dict[str, Any]) -> Tensors:
    """Ask the booster for all rows; one thread, because the server has one for each core already."""
    if settings["frame"]:
        pandas: Any = import_module("pandas")
        columns = dict(inputs)
        for name, categories in settings["categories"].items():
            columns[name] = pandas.Categorical(inputs[name].tolist(), categories=categories)
        rows = pandas.DataFrame(columns)
    else:
        (rows,) = inputs.values()
    return {settings["output"]: np.asarray(booster.predict(rows, num_threads=1))}
