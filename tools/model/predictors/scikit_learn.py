"""Answers by scikit-learn itself, with a model that skops saved and the types that its packaging allowed."""

from __future__ import annotations

import json
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np

Tensors = dict[str, "np.ndarray[Any, Any]"]


class Predictor:
    """predictor.json says which types may be loaded, what the rows are made into, and which methods are asked."""

    def __init__(self, folder: Path) -> None:
        warnings.filterwarnings("ignore", message="X does not have valid feature names")
        self._settings: dict[str, Any] = json.loads((folder / "predictor.json").read_text())
        skops: Any = import_module("skops.io")
        self._model = fitted(skops.load(folder / "model.skops", trusted=self._settings["trusted"]))

    def predict(self, inputs: Tensors) -> Tensors:
        """Answer all rows."""
        return answers(self._model, self._settings["methods"], rows(inputs, self._settings["rows"]))


def fitted(model: Any) -> Any:
    """Choose the best of the models that a search has fitted."""
    return getattr(model, "best_estimator_", model)


def rows(inputs: Tensors, kind: str) -> Any:
    """Make the inputs into what the model takes: a frame with a column each, a matrix, or texts."""
    if kind == "frame":
        pandas: Any = import_module("pandas")
        return pandas.DataFrame({name: _column(array) for name, array in inputs.items()})
    (only,) = inputs.values()
    return only.tolist() if kind == "texts" else only


def _column(array: np.ndarray[Any, Any]) -> Any:
    """Write a missing text as pandas reads it from a file."""
    return array if array.dtype.kind in "biuf" else [np.nan if text is None else text for text in array.tolist()]


def answers(model: Any, methods: dict[str, str], asked: Any) -> Tensors:
    """Ask the methods, each an output by its name; one that gives several arrays is several outputs."""
    found: Tensors = {}
    for name, method in methods.items():
        answer: Any = getattr(model, method)(asked)
        if type(answer) is list:
            for index, part in enumerate(cast("list[Any]", answer)):
                found[f"{name}_{index}"] = _array(part)
        else:
            found[name] = _array(answer)
    return found


def _array(answer: Any) -> np.ndarray[Any, Any]:
    array = np.asarray(answer.toarray() if hasattr(answer, "toarray") else answer)  # that is a sparse matrix
    return array if array.dtype.kind in "biuf" else array.astype(np.str_).astype(object)
