"""A CatBoost model in its own binary format, which is data only; CatBoost itself serves it."""

from __future__ import annotations

import json
from importlib import import_module
from typing import Any

import numpy as np

from tools.model import training_data
from tools.model.conversion import Conversion
from tools.model.converters import library
from tools.model.errors import explained, first_line
from tools.model.predictors import catboost as predictor
from tools.model.settings import Settings
from tools.model.tensors import Tensor
from tools.model.training_data import Table

catboost: Any = import_module("catboost")

_CLASSES = ("Logloss", "CrossEntropy", "MultiClass", "MultiClassOneVsAll")


def convert(settings: Settings, table: Table | None) -> Conversion:
    """Package the model with CatBoost: its own ONNX has no categories, and rounds its leaves."""
    return keep_library(settings, table)


def keep_library(settings: Settings, table: Table | None) -> Conversion:
    """Package the model with CatBoost itself."""
    with explained(f"{settings.source.name} cannot be read by CatBoost", first_line):
        model = catboost.CatBoost().load_model(str(settings.source))
        names: list[str] = list(model.feature_names_)
        categories: list[str] = [names[index] for index in model.get_cat_feature_indices()]
        texts: list[str] = [names[index] for index in model.get_text_feature_indices()]
    frame = bool(categories or texts)
    named = names != [str(index) for index in range(len(names))]
    if frame:
        inputs = library.columns(table, names, {*categories, *texts})
        inputs = [each if each.name not in texts else _text(each) for each in inputs]
    else:
        features = settings.features or (names if named else [])
        matrix = Tensor(name="input", datatype="FP64", row_shape=(len(names),), features=features, nullable=True)
        inputs = training_data.with_features(table, [matrix])
    outputs, labels = _outputs(model)
    members: dict[str, Any] = {
        "frame": frame,
        "categories": categories or None,
        "texts": texts or None,
        "outputs": outputs,
    }
    rows = library.feed(table, inputs)
    with explained("the model fails on these rows", first_line):
        answers = library.plain(predictor.answers(model, library.first_rows(rows), members))
    pins = {"catboost": catboost.__version__} | ({"pandas": import_module("pandas").__version__} if frame else {})
    return library.kept(
        predictor,
        members,
        {"model.cbm": settings.source.read_bytes()},
        pins,
        inputs=inputs,
        feed=rows,
        expected=answers,
        labels=labels,
    )


def _text(tensor: Tensor) -> Tensor:
    return Tensor(name=tensor.name, datatype="BYTES", row_shape=())


def _outputs(model: Any) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Choose what CatBoost is asked for, by the output's name, and the classes' names."""
    parameters: dict[str, Any] = json.loads(model.get_metadata()["params"]) if "params" in model.get_metadata() else {}
    loss = parameters.get("loss_function", {}).get("type", "")
    classes = [str(each) for each in np.ravel(model.classes_)] if model.classes_ is not None else []
    if loss in _CLASSES or classes:
        return {"label": "Class", "probabilities": "Probability"}, {"probabilities": classes} if classes else {}
    kind = "Exponent" if loss in ("Poisson", "Tweedie") else "RawFormulaVal"
    return {"prediction": loss if loss == "RMSEWithUncertainty" else kind}, {}
