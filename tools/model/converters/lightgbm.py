"""A LightGBM model as text, which is data only."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import numpy as np

from tools.model.conversion import Conversion
from tools.model.converters import trees
from tools.model.errors import ModelError, explained
from tools.model.settings import Settings
from tools.model.tensors import Array, Tensors
from tools.model.training_data import Table

lightgbm: Any = import_module("lightgbm")

_SOUND = (
    *("regression", "regression_l1", "huber", "quantile", "poisson", "gamma", "tweedie"),
    *("binary", "multiclass", "lambdarank"),
)
"""Objectives whose conversion was found to agree; with multiclassova it does not."""


def convert(settings: Settings, table: Table | None) -> Conversion:
    """Turn the trees into ONNX."""
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
    names: list[str] = booster.feature_name()
    given: list[str] = [] if names == [f"Column_{index}" for index in range(width)] else names
    inputs = trees.signature(settings, given, width, nullable=nullable)
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
