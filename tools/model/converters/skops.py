"""A scikit-learn model that skops saved: only types known to be harmless, or named by the user, are loaded."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from tools.model import training_data
from tools.model.conversion import COMPARED_ROWS, Conversion
from tools.model.converters.onnx_graph import remove_zipmaps, share_row_symbol
from tools.model.errors import ModelError, explained, named
from tools.model.settings import Settings
from tools.model.tensors import Array, Tensor, Tensors
from tools.model.training_data import Table

skops: Any = import_module("skops.io")
pandas: Any = import_module("pandas")
sklearn: Any = import_module("sklearn")
skl2onnx: Any = import_module("skl2onnx")
types: Any = import_module("skl2onnx.common.data_types")

_OPSET = {"": 17, "ai.onnx.ml": 3}


def convert(settings: Settings, table: Table | None) -> Conversion:
    """Turn the model into ONNX."""
    model = load(settings)
    inputs = signature(settings, table, model)
    feed = training_data.feed(table, inputs)
    onnx = export(settings, model, inputs)
    labels = remove_zipmaps(onnx)
    share_row_symbol(onnx)
    return Conversion(
        model=onnx.SerializeToString(deterministic=True),
        inputs=inputs,
        feed=feed,
        expected=answers(model, inputs, feed, [output.name for output in onnx.graph.output]),
        labels=labels | _labels(model, onnx),
        versions={"scikit-learn": sklearn.__version__, "skl2onnx": skl2onnx.__version__},
    )


def load(settings: Settings) -> Any:
    """Load the model; ModelError when the file asks for types that nobody has vouched for."""
    name = settings.source.name
    with explained(f"{name} cannot be read by skops"):
        asked = skops.get_untrusted_types(file=settings.source)
    untrusted = [each for each in asked if each not in settings.trust]
    if untrusted:
        raise ModelError(
            f"{name} asks for types that are not known to be harmless, and was not loaded: {', '.join(untrusted)}\n"
            f"  If you know them and trust the file: --trust {','.join(asked)}"
        )
    with explained(f"{name} cannot be loaded", named):
        model = skops.load(settings.source, trusted=asked)
    if not hasattr(model, "predict"):
        raise ModelError(f"{name} holds a {type(model).__name__}, which predicts nothing")
    if not hasattr(model, "n_features_in_"):
        raise ModelError(f"{name} holds a {type(model).__name__} that has not been fitted")
    return model


def signature(settings: Settings, table: Table | None, model: Any) -> list[Tensor]:
    """Describe one matrix of features; where the model picks columns by name (ColumnTransformer), an input each."""
    names = [str(name) for name in getattr(model, "feature_names_in_", [])]
    if table and table.is_csv:
        table.check_columns(names)
    if not names or not _picks_columns(model):
        width = int(model.n_features_in_)
        features = settings.features or names
        matrix = Tensor(
            name="input", datatype="FP32", row_shape=(width,), features=features, nullable=settings.nullable
        )
        return training_data.with_features(table, [matrix])
    if not table or not table.is_csv:
        raise ModelError(
            f"the model picks its columns by name ({', '.join(names)}): --data train.csv says what they hold"
        )
    return [_column(name, table.columns[name], nullable=settings.nullable) for name in names]


def _picks_columns(model: Any) -> bool:
    steps = [step for _, step in getattr(model, "steps", [])] or [model]
    return any(type(step).__name__ == "ColumnTransformer" for step in steps)


def _column(name: str, array: Array, *, nullable: bool) -> Tensor:
    datatype = {"U": "BYTES", "b": "BOOL"}.get(array.dtype.kind, "FP32")
    return Tensor(name=name, datatype=datatype, row_shape=(1,), nullable=nullable and datatype == "FP32")


def export(settings: Settings, model: Any, inputs: list[Tensor]) -> Any:
    """Have skl2onnx make the ONNX model."""
    onnx_types = {"FP32": types.FloatTensorType, "BYTES": types.StringTensorType, "BOOL": types.BooleanTensorType}
    initial = [(tensor.name, onnx_types[tensor.datatype]([None, tensor.row_shape[0]])) for tensor in inputs]
    options = {"zipmap": False} if hasattr(model, "classes_") else None
    with explained(f"{settings.source.name} cannot be turned into ONNX"):
        return skl2onnx.convert_sklearn(model, initial_types=initial, target_opset=_OPSET, options=options)


def answers(model: Any, inputs: list[Tensor], feed: Tensors, outputs: list[str]) -> Tensors:
    """Ask the original, for the converted model's outputs."""
    rows = {name: array[:COMPARED_ROWS] for name, array in feed.items()}
    if len(inputs) > 1 or _picks_columns(model):
        asked: Any = pandas.DataFrame({name: array[:, 0] for name, array in rows.items()})
    else:
        asked = rows[inputs[0].name]
        if inputs[0].features and hasattr(model, "feature_names_in_"):
            asked = pandas.DataFrame(asked, columns=inputs[0].features)
    scores = getattr(model, "predict_proba", None) or getattr(model, "decision_function", None)
    with explained("the model fails on these rows"):
        found = [np.asarray(answer(asked)) for answer in (model.predict, scores)[: len(outputs)] if answer]
    found = [each.astype(np.str_) if each.dtype.kind == "O" else each for each in found]
    return dict(zip(outputs, found, strict=False))


def _labels(model: Any, onnx: Any) -> dict[str, list[str]]:
    """The classes' names, for an output that has a value for each."""
    classes = getattr(model, "classes_", None)
    if not isinstance(classes, np.ndarray) or classes.ndim != 1:
        return {}
    names = [str(each) for each in classes]
    return {
        output.name: names
        for output in onnx.graph.output
        if [each.dim_value for each in output.type.tensor_type.shape.dim][1:] == [len(names)]
    }
