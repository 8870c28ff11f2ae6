"""Trees of XGBoost and LightGBM: the conversion, and rows that tell whether a tree still splits where it did."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from tools.model import training_data
from tools.model.conversion import COMPARED_ROWS, Conversion
from tools.model.converters.onnx_graph import share_row_symbol
from tools.model.errors import ModelError, explained, named
from tools.model.settings import Settings
from tools.model.tensors import Array, Tensor, Tensors
from tools.model.training_data import Table

onnxmltools: Any = import_module("onnxmltools")
types: Any = import_module("onnxmltools.convert.common.data_types")

_SEED = 7
_MIN_VALUE = 1e-30
"""Smaller ones are zero for LightGBM and numbers of their own for ONNX; no data has them."""
INPUT = "input"


def signature(settings: Settings, names: list[str], width: int, *, nullable: bool) -> list[Tensor]:
    """Describe one matrix of the model's features."""
    features = settings.features or names
    return [Tensor(name=INPUT, datatype="FP32", row_shape=(width,), features=features, nullable=nullable)]


def probe(splits: list[Array], *, missing: bool) -> Tensors:
    """Make rows on each feature's split values (float64), just above, just below, between and beyond; some missing."""
    generator = np.random.default_rng(_SEED)
    columns: list[Array] = []
    for values in splits:
        nearest = np.unique(values.astype(np.float32)) if len(values) else np.zeros(1, np.float32)
        nearest = np.where(np.abs(nearest) < _MIN_VALUE, np.float32(0), nearest)
        low, high = float(nearest[0]), float(nearest[-1])
        reach = (high - low) or 1.0
        between = generator.uniform(low - reach, high + reach, COMPARED_ROWS).astype(np.float32)
        close = [nearest, np.nextafter(nearest, np.float32(-np.inf)), np.nextafter(nearest, np.float32(np.inf))]
        chosen = generator.choice(np.concatenate([*close, np.zeros(1, np.float32)]), COMPARED_ROWS)
        exact = np.where(np.abs(chosen) < _MIN_VALUE, np.float32(0), chosen)
        column = np.where(generator.random(COMPARED_ROWS) < 0.5, exact, between)
        columns.append(np.where(generator.random(COMPARED_ROWS) < 0.1, np.nan, column) if missing else column)
    return {INPUT: np.stack(columns, axis=1).astype(np.float32)}


def finish(
    table: Table | None, inputs: list[Tensor], onnx: Any, answers: Any, rows: Tensors, versions: dict[str, str]
) -> Conversion:
    """Add what the original, `answers(matrix, outputs)`, says about --data and about `rows` to the converted model."""
    share_row_symbol(onnx)
    _rename_variable(onnx)
    inputs = training_data.with_features(table, inputs)
    feed = training_data.feed(table, inputs) if table else rows
    outputs = [output.name for output in onnx.graph.output]
    return Conversion(
        model=onnx.SerializeToString(deterministic=True),
        inputs=inputs,
        feed=feed,
        expected=answers(feed[INPUT][:COMPARED_ROWS], outputs),
        probe=rows if table else None,
        probe_expected=answers(rows[INPUT], outputs) if table else None,
        versions=versions | {"onnxmltools": onnxmltools.__version__},
    )


def _rename_variable(onnx: Any) -> None:
    """Call a regression's output `prediction`: the converters say `variable`."""
    for output in onnx.graph.output:
        if output.name == "variable":
            for node in onnx.graph.node:
                node.output[:] = ["prediction" if name == "variable" else name for name in node.output]
            output.name = "prediction"


def convert(name: str, converter: Any, model: Any, width: int, **options: Any) -> Any:
    """Have onnxmltools make the ONNX model."""
    with explained(f"{name} cannot be turned into ONNX", named):
        return converter(model, initial_types=[(INPUT, types.FloatTensorType([None, width]))], **options)


def answers_by_output(values: Array, outputs: list[str]) -> Tensors:
    """Say which output the original's answers are: the only one, else the probabilities, the second of two."""
    if len(outputs) == 1:
        return {outputs[0]: values.reshape(len(values), -1)}
    return {outputs[1]: values if values.ndim == 2 else np.stack([1 - values, values], axis=1)}


def check_objective(name: str, objective: str, sound: tuple[str, ...]) -> None:
    """Raise a ModelError unless the objective is one of those whose conversion is sound."""
    if objective not in sound:
        raise ModelError(
            f"{name}: the conversion is not sound for the objective {objective}; it is for {', '.join(sound)}"
        )
