"""An XGBoost model as JSON or UBJSON, which are data only."""

from __future__ import annotations

import json
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from tools.model.conversion import Conversion
from tools.model.converters import trees
from tools.model.errors import ModelError, explained, first_line
from tools.model.settings import Settings
from tools.model.tensors import Array, Tensors
from tools.model.training_data import Table

xgboost: Any = import_module("xgboost")

_SOUND = (
    *("reg:squarederror", "reg:absoluteerror", "reg:gamma", "reg:tweedie", "count:poisson"),
    *("binary:logistic", "multi:softprob", "multi:softmax"),
)
"""Objectives whose conversion was found to agree; with reg:logistic, binary:hinge and binary:logitraw it does not."""


def convert(settings: Settings, table: Table | None) -> Conversion:
    """Turn the trees into ONNX."""
    booster = _load(settings.source)
    model = json.loads(booster.save_raw("json").decode())["learner"]
    objective = model["objective"]["name"]
    _check(settings.source.name, model, objective)
    width = int(booster.num_features())
    inputs = trees.signature(settings, list(booster.feature_names or []), width, nullable=True)
    booster.feature_names = None  # the converter wants its own, f0, f1, ...
    onnx = trees.convert(settings.source.name, trees.onnxmltools.convert_xgboost, booster, width)

    def answers(rows: Array, outputs: list[str]) -> Tensors:
        values = np.asarray(booster.predict(xgboost.DMatrix(rows)))
        if objective == "multi:softmax":
            return {outputs[0]: values.astype(np.int64)}
        return trees.answers_by_output(values, outputs)

    rows = trees.probe(_splits(model, width), missing=True)
    return trees.finish(table, inputs, onnx, answers, rows, {"xgboost": xgboost.__version__})


def _load(path: Path) -> Any:
    """Load a copy whose suffix is the content's, because XGBoost goes by it."""
    content = path.read_bytes()
    suffix = ".ubj" if content[1:2] in (b"L", b"i", b"U", b"l", b"I", b"$", b"#") else ".json"
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, f"model{suffix}")
        copy.write_bytes(content)
        with explained(f"{path.name} cannot be read by XGBoost", first_line):
            return xgboost.Booster(model_file=copy)


def _check(name: str, model: dict[str, Any], objective: str) -> None:
    if model["gradient_booster"]["name"] != "gbtree":
        raise ModelError(
            f"{name}: the booster {model['gradient_booster']['name']} cannot be turned into ONNX, gbtree can"
        )
    trees.check_objective(name, objective, _SOUND)
    if any(tree["categories_nodes"] for tree in model["gradient_booster"]["model"]["trees"]):
        raise ModelError(f"{name} splits on categories, which cannot be turned into ONNX: encode them as numbers")


def _splits(model: dict[str, Any], width: int) -> list[Array]:
    found = [list[float]() for _ in range(width)]
    for tree in model["gradient_booster"]["model"]["trees"]:
        for feature, value, child in zip(
            tree["split_indices"], tree["split_conditions"], tree["left_children"], strict=True
        ):
            if child != -1:
                found[int(feature)].append(float(value))
    return [np.array(values, dtype=np.float64) for values in found]
