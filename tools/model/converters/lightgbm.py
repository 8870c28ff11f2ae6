"""A LightGBM model as text, which is data only: turned into ONNX, or kept where that answers differently."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import numpy as np

from tools.model import training_data
from tools.model.conversion import Conversion
from tools.model.converters import library, trees
from tools.model.errors import ModelError, explained
from tools.model.predictors import lightgbm as predictor
from tools.model.settings import Settings
from tools.model.tensors import Array, Tensor, Tensors
from tools.model.training_data import Table

lightgbm: Any = import_module("lightgbm")

_SOUND = (
    *("regression", "regression_l1", "huber", "quantile", "poisson", "gamma", "tweedie"),
    *("binary", "multiclass", "lambdarank"),
)
"""Objectives whose conversion was found to agree; with multiclassova it does not."""


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
        return trees.noted(keep_library(settings, table), f"kept with LightGBM, because {reason}")
    return made


def keep_library(settings: Settings, table: Table | None) -> Conversion:
    """Package the model with LightGBM itself."""
    text = settings.source.read_text()
    with explained(f"{settings.source.name} cannot be read by LightGBM"):
        booster = lightgbm.Booster(model_str=text)
        model = booster.dump_model()
    names = _names(booster)
    nodes = [node for tree in model["tree_info"] for node in _nodes(tree["tree_structure"])]
    by_code = sorted({node["split_feature"] for node in nodes if node["decision_type"] == "=="})
    lists: list[list[Any]] = booster.pandas_categorical or []
    categories = _categories(settings, table, names, by_code, lists)
    members: dict[str, Any] = {"frame": bool(categories), "categories": categories, "output": "prediction"}
    width = int(booster.num_feature())
    if categories:
        texts = [name for name, values in categories.items() if any(isinstance(value, str) for value in values)]
        inputs = library.columns(table, names, texts)
    else:
        features = settings.features or names
        matrix = Tensor(name=trees.INPUT, datatype="FP64", row_shape=(width,), features=features, nullable=True)
        inputs = training_data.with_features(table, [matrix])
    splits = [
        np.array([node["threshold"] for node in nodes if node["split_feature"] == each and each not in by_code], float)
        for each in range(width)
    ]
    rows = library.feed(table, inputs) if table else trees.probe(splits, missing=True)
    with explained("the model fails on these rows"):
        answers = predictor.answers(booster, library.first_rows(rows), members)
    pins = {"lightgbm": lightgbm.__version__}
    if categories:
        pins["pandas"] = import_module("pandas").__version__
    return library.kept(
        predictor, members, {"model.txt": text.encode()}, pins, inputs=inputs, feed=rows, expected=answers
    )


def _names(booster: Any) -> list[str]:
    """The features' names, where the model was given any."""
    names: list[str] = booster.feature_name()
    return [] if names == [f"Column_{index}" for index in range(len(names))] else names


def _categories(
    settings: Settings, table: Table | None, names: list[str], by_code: list[int], lists: list[list[Any]]
) -> dict[str, list[Any]]:
    """Say which column has which categories; LightGBM saves the lists in the columns' order, without their names."""
    if not lists:
        return {}
    if table is None:
        raise ModelError(f"{settings.source.name} takes categories ({', '.join(names)}): --data train.csv says which")
    table.check_columns(names)
    texts = [name for name in names if table.columns[name].dtype.kind in "Ub"]
    split = [names[index] for index in by_code]
    chosen = texts if len(texts) == len(lists) else split
    if len(chosen) != len(lists):
        raise ModelError(
            f"{settings.source.name} has {len(lists)} columns of categories, and {settings.data} has {len(texts)}"
            f" with texts ({', '.join(texts)}): it cannot be told which belong together"
        )
    return dict(zip(chosen, lists, strict=True))


def _converted(settings: Settings, table: Table | None) -> Conversion:
    name = settings.source.name
    with explained(f"{name} cannot be read by LightGBM"):
        booster = lightgbm.Booster(model_str=settings.source.read_text())
        model = booster.dump_model()
    objective = str(model.get("objective", "none")).split()[0]
    nodes = [node for tree in model["tree_info"] for node in _nodes(tree["tree_structure"])]
    trees.check_objective(name, objective, _SOUND)
    if any(node["decision_type"] != "<=" for node in nodes):
        raise ModelError(
            f"{name} splits on categories, which cannot be turned into ONNX faithfully: encode them as numbers"
        )
    if any(node["missing_type"] == "Zero" for node in nodes):
        raise ModelError(f"{name} takes zero for missing (zero_as_missing), which ONNX cannot say")
    width = int(booster.num_feature())
    nullable = bool(nodes) and all(node["missing_type"] == "NaN" for node in nodes)
    inputs = trees.signature(settings, _names(booster), width, nullable=nullable, datatype="FP64")
    onnx = trees.convert(name, trees.onnxmltools.convert_lightgbm, booster, width, zipmap=False)
    splits = [np.array([node["threshold"] for node in nodes if node["split_feature"] == each]) for each in range(width)]
    _round_down(onnx, splits)

    def answers(rows: Array, outputs: list[str]) -> Tensors:
        return trees.answers_by_output(np.asarray(booster.predict(rows.astype(np.float64))), outputs)

    rows = trees.probe(splits, missing=nullable)
    return trees.finish(table, inputs, onnx, answers, rows, {"lightgbm": lightgbm.__version__})


def _nodes(tree: dict[str, Any]) -> Iterator[dict[str, Any]]:
    pending = [tree]
    while pending:
        node = pending.pop()
        if "split_feature" in node:
            yield node
            pending += [node["left_child"], node["right_child"]]


def _round_down(model: Any, splits: list[Array]) -> None:
    """Round each split, a double, to the float at or below it, which splits floats as the double does."""
    below: dict[tuple[int, float], set[float]] = {}
    for feature, values in enumerate(splits):
        nearest = values.astype(np.float32)
        exact = np.where(nearest > values, np.nextafter(nearest, np.float32(-np.inf)), nearest)
        for near, value in zip(nearest.tolist(), exact.tolist(), strict=True):
            below.setdefault((feature, near), set()).add(value)
    for node in model.graph.node:
        attributes = {attribute.name: attribute for attribute in node.attribute}
        if "nodes_values" not in attributes:
            continue
        for index, feature in enumerate(attributes["nodes_featureids"].ints):
            value = attributes["nodes_values"].floats[index]
            found = below.get((feature, value), ())
            if attributes["nodes_modes"].strings[index] == b"BRANCH_LEQ" and len(found) == 1:
                attributes["nodes_values"].floats[index] = min(found)
