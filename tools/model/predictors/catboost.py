"""Answers by CatBoost itself."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

Tensors = dict[str, "np.ndarray[Any, Any]"]


class Predictor:
    """predictor.json says which columns are categories and texts, and what is asked."""

    def __init__(self, folder: Path) -> None:
        self._settings: dict[str, Any] = json.loads((folder / "predictor.json").read_text())
        catboost: Any = import_module("catboost")
        self._model = catboost.CatBoost().load_model(str(folder / "model.cbm"))

    def predict(self, inputs: Tensors) -> Tensors:
        """Answer all rows."""
        return answers(self._model, inputs, self._settings)


def answers(model: Any, inputs: Tensors, settings: dict[str, Any]) -> Tensors:
    """Ask the model for all rows; one thread, because the server has one for each core already."""
    catboost: Any = import_module("catboost")
    if settings["frame"]:
        pandas: Any = import_module("pandas")
        rows: Any = pandas.DataFrame({name: _column(array) for name, array in inputs.items()})
    else:
        (rows,) = inputs.values()
    pool = catboost.Pool(rows, cat_features=settings["categories"], text_features=settings["texts"])
    found: Tensors = {}
    for name, kind in settings["outputs"].items():
        array = np.asarray(model.predict(pool, prediction_type=kind, thread_count=1))
        if kind == "Class" and array.ndim == 2 and array.shape[1] == 1:
            array = array[:, 0]
        found[name] = array if array.dtype.kind in "biuf" else array.astype(np.str_).astype(object)
    return found


def _column(array: np.ndarray[Any, Any]) -> Any:
    """Write a missing category as CatBoost's own readers do: as the text of NaN."""
    return array if array.dtype.kind in "biuf" else ["nan" if text is None else text for text in array.tolist()]
