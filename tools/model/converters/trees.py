"""Trees of XGBoost and LightGBM: the conversion, and rows that tell whether a tree still splits where it did."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np

from tools.model import compare, training_data
from tools.model.conversion import COMPARED_ROWS, Conversion
from tools.model.converters.onnx_graph import share_row_symbol
from tools.model.errors import ModelError, explained, named
from tools.model.onnx_session import OnnxSession
from tools.model.settings import Settings
from tools.model.tensors import Array, Tensor, Tensors
from tools.model.training_data import Table

onnx: Any = import_module("onnx")
onnxmltools: Any = import_module("onnxmltools")
types: Any = import_module("onnxmltools.convert.common.data_types")

_SEED = 7
_MIN_VALUE = 1e-30
"""Smaller ones are zero for LightGBM and numbers of their own for ONNX; no data has them."""
INPUT = "input"


def signature(
    settings: Settings, names: list[str], width: int, *, nullable: bool, datatype: str = "FP32"
) -> list[Tensor]:
    """Describe one matrix of the model's features."""
    features = settings.features or names
    return [Tensor(name=INPUT, datatype=datatype, row_shape=(width,), features=features, nullable=nullable)]


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
    table: Table | None, inputs: list[Tensor], made: Any, answers: Any, rows: Tensors, versions: dict[str, str]
) -> Conversion:
    """Add what the original, `answers(matrix, outputs)`, says about --data and about `rows` to the converted model."""
    share_row_symbol(made)
    _rename_variable(made)
    if inputs[0].datatype == "FP64":
        _take_doubles(made)
        rows = {name: array.astype(np.float64) for name, array in rows.items()}
    inputs = training_data.with_features(table, inputs)
    feed = training_data.feed(table, inputs) if table else rows
    outputs = [output.name for output in made.graph.output]
    return Conversion(
        model=made.SerializeToString(deterministic=True),
        inputs=inputs,
        feed=feed,
        expected=answers(feed[INPUT][:COMPARED_ROWS], outputs),
        probe=rows if table else None,
        probe_expected=answers(rows[INPUT], outputs) if table else None,
        versions=versions | {"onnxmltools": onnxmltools.__version__},
    )


def _take_doubles(made: Any) -> None:
    """Have the graph itself round doubles: whether that is as good as the original's doubles, a comparison tells."""
    for node in made.graph.node:
        node.input[:] = ["rounded" if name == INPUT else name for name in node.input]
    made.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    made.graph.node.insert(0, onnx.helper.make_node("Cast", [INPUT], ["rounded"], to=onnx.TensorProto.FLOAT))
    if all(each.domain != "" for each in made.opset_import):
        made.opset_import.append(onnx.helper.make_opsetid("", 17))


def _rename_variable(made: Any) -> None:
    """Call a regression's output `prediction`: the converters say `variable`."""
    for output in made.graph.output:
        if output.name == "variable":
            for node in made.graph.node:
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


def check(settings: Settings, made: Conversion) -> None:
    """Raise a ModelError when the converted model does not answer as the original did."""
    session = OnnxSession(made)
    for rows, expected in ((made.feed, made.expected), (made.probe, made.probe_expected)):
        if rows is not None and expected is not None:
            asked = {name: array[:COMPARED_ROWS] for name, array in rows.items()}
            compare.difference(expected, session.run(asked), settings.tolerance)


def noted(made: Conversion, note: str) -> Conversion:
    """Add a note on a decision that the user did not ask for."""
    return replace(made, notes=[*made.notes, note])
