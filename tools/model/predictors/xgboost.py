"""Answers by XGBoost itself."""

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
        xgboost: Any = import_module("xgboost")
        self._booster = xgboost.Booster(model_file=folder / "model.ubj")
        self._booster.set_param({"nthread": 1})  # the server has a thread for each core already

    def predict(self, inputs: Tensors) -> Tensors:
        """Answer all rows."""
        return answers(self._booster, inputs, self._settings)


def answers(booster: Any, inputs: Tensors, settings: dict[str, Any]) -> Tensors:
    """Ask the booster for all rows."""
    xgboost: Any = import_module("xgboost")
    types: list[str] | None = booster.feature_types
    if settings["frame"]:
        pandas: Any = import_module("pandas")
        columns: dict[str, Any] = dict(inputs)
        for name, categories in settings["categories"].items():
            values = [value for value in inputs[name].tolist() if value is not None and value == value]
            unknown = set(values) - set(categories)
            if unknown:
                raise ValueError(f"{name}: {min(unknown)!r} is none of the categories that the model knows")
            columns[name] = pandas.Categorical(inputs[name].tolist(), categories=categories)
        matrix = xgboost.DMatrix(pandas.DataFrame(columns), enable_categorical=True, nthread=1)
    else:
        (rows,) = inputs.values()
        names = booster.feature_names
        matrix = xgboost.DMatrix(rows, feature_names=names, feature_types=types, enable_categorical=True, nthread=1)
    return {settings["output"]: np.asarray(booster.predict(matrix))}
