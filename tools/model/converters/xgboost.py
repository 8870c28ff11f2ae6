"""An XGBoost model as JSON or UBJSON, which are data only: turned into ONNX, or kept where that answers differently."""

from __future__ import annotations

import json
import tempfile
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from tools.model import training_data
from tools.model.conversion import Conversion
from tools.model.converters import library, trees
from tools.model.errors import ModelError, explained, first_line
from tools.model.predictors import xgboost as predictor
from tools.model.settings import Settings
from tools.model.tensors import Array, Tensor, Tensors
from tools.model.training_data import Table

xgboost: Any = import_module("xgboost")

_MAC = 'sys_platform == "darwin"'
_NOT_MAC = 'sys_platform != "darwin"'
"""Elsewhere, xgboost-cpu is the package without CUDA's libraries."""
_SOUND = (
    *("reg:squarederror", "reg:absoluteerror", "reg:gamma", "reg:tweedie", "count:poisson"),
    *("binary:logistic", "multi:softprob", "multi:softmax"),
)
"""Objectives whose conversion was found to agree; with reg:logistic, binary:hinge and binary:logitraw it does not."""


def convert(settings: Settings, table: Table | None) -> Conversion:
    """Turn the trees into ONNX; those that cannot be are kept."""
    if settings.keep == "library":
        return keep_library(settings, table)
    try:
        made = _converted(settings, table)
        trees.check(settings, made)
    except ModelError as reason:
        if settings.keep == "onnx":
            raise
        return trees.noted(keep_library(settings, table), f"kept with XGBoost, because {reason}")
    return made


def keep_library(settings: Settings, table: Table | None) -> Conversion:
    """Package the model with XGBoost itself."""
    booster = _load(settings.source)
    names: list[str] = list(booster.feature_names or [])
    kinds: list[str] = list(booster.feature_types or [])
    learner = json.loads(booster.save_raw("json").decode())["learner"]
    categories = _categories(learner, names, kinds)
    members: dict[str, Any] = {"frame": bool(categories), "categories": categories, "output": "prediction"}
    width = int(booster.num_features())
    if categories:
        texts = [name for name, values in categories.items() if any(isinstance(value, str) for value in values)]
        inputs = library.columns(table, names, texts)
    else:
        features = settings.features or names
        matrix = Tensor(name=trees.INPUT, datatype="FP64", row_shape=(width,), features=features, nullable=True)
        inputs = training_data.with_features(table, [matrix])
    splits = [] if learner["gradient_booster"]["name"] == "gblinear" else _splits(learner, width)
    rows = library.feed(table, inputs) if table or not splits else trees.probe(splits, missing=True)
    if not table and "c" in kinds:
        raise ModelError("the model splits on categories: --data train.csv says which")
    with explained("the model fails on these rows", first_line):
        answers = predictor.answers(booster, library.first_rows(rows), members)
    release = xgboost.__version__
    pins = {f"xgboost-cpu; {_NOT_MAC}": release, f"xgboost; {_MAC}": release}
    if categories:
        pins["pandas"] = import_module("pandas").__version__
    return library.kept(
        predictor,
        members,
        {"model.ubj": bytes(booster.save_raw("ubj"))},
        pins,
        inputs=inputs,
        feed=rows,
        expected=answers,
    )


def _categories(learner: dict[str, Any], names: list[str], kinds: list[str]) -> dict[str, list[Any]]:
    """Read the categories that the model was trained with, by feature; an older model has none, but their codes."""
    found: dict[str, list[Any]] = {}
    booster = learner["gradient_booster"]
    encodings = booster.get("gbtree", booster).get("model", {}).get("cats", {}).get("enc", [])
    for name, kind, known in zip(names, kinds, encodings, strict=False):
        if kind == "c" and "offsets" in known:
            letters = bytes(each % 256 for each in known["values"])
            ends = known["offsets"]
            found[name] = [letters[start:end].decode() for start, end in pairwise(ends)]
        elif kind == "c":
            found[name] = known["values"]
    return found


def _converted(settings: Settings, table: Table | None) -> Conversion:
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
    booster = model["gradient_booster"]
    for tree in booster.get("gbtree", booster)["model"]["trees"]:
        for feature, value, child in zip(
            tree["split_indices"], tree["split_conditions"], tree["left_children"], strict=True
        ):
            if child != -1:
                found[int(feature)].append(float(value))
    return [np.array(values, dtype=np.float64) for values in found]
