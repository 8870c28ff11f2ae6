"""A model that is ONNX already: checked, and rid of what only a notebook wants."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from server.model.onnx_file import has_external_data
from tools.model import training_data
from tools.model.batching import Batching
from tools.model.conversion import Conversion
from tools.model.errors import ModelError, explained
from tools.model.settings import Settings
from tools.model.tensors import Tensor, datatype_of
from tools.model.training_data import Table

onnx: Any = import_module("onnx")


def convert(settings: Settings, table: Table | None) -> Conversion:
    """Keep the model, with plain tensors for outputs."""
    content = settings.source.read_bytes()
    if has_external_data(content):
        raise ModelError(
            f"{settings.source.name} keeps weights in other files, which is refused, because it could name any file:\n"
            "  onnx.save(onnx.load('model.onnx'), 'one.onnx') writes a single one"
        )
    model = parse(settings.source.name, content)
    labels = remove_zipmaps(model)
    share_row_symbol(model)
    with explained(f"{settings.source.name} breaks the rules of ONNX"):
        onnx.checker.check_model(model, full_check=True)
    batching = batching_of(settings, model)
    inputs = training_data.with_features(table, signature(settings, model, batching))
    return Conversion(
        model=model.SerializeToString(),
        inputs=inputs,
        feed=training_data.feed(table, inputs),
        batching=batching,
        labels=labels,
        versions={"onnx": onnx.__version__},
    )


def parse(name: str, content: bytes) -> Any:
    """Read the model; ModelError when it is none."""
    with explained(f"{name} is not an ONNX model"):
        return onnx.load_model_from_string(content)


def remove_zipmaps(model: Any) -> dict[str, list[str]]:
    """Take out each ZipMap, which makes a dict of a row's probabilities; return the classes' names by output."""
    labels: dict[str, list[str]] = {}
    for node in [node for node in model.graph.node if node.op_type == "ZipMap"]:
        values = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        classes: list[Any] = values.get("classlabels_strings") or values.get("classlabels_int64s") or []
        names = [each.decode() if isinstance(each, bytes) else str(each) for each in classes]
        for output in model.graph.output:
            if output.name == node.output[0]:
                labels[output.name] = names
                shape = [None, len(names)]
                output.CopyFrom(onnx.helper.make_tensor_value_info(output.name, onnx.TensorProto.FLOAT, shape))
        node.CopyFrom(onnx.helper.make_node("Identity", [node.input[0]], [node.output[0]]))
    return labels


def share_row_symbol(model: Any) -> None:
    """Give the outputs the inputs' symbol for rows, where a converter has declared one row."""
    rows = {_sizes(value)[:1] for value in _inputs(model)}
    if rows and all(size and not isinstance(size[0], int) for size in rows):
        symbol = next((size[0] for size in rows if size[0]), "rows")
        for value in model.graph.output:
            dimensions = value.type.tensor_type.shape.dim
            if len(dimensions) and dimensions[0].HasField("dim_value"):
                dimensions[0].dim_param = symbol


def batching_of(settings: Settings, model: Any) -> Batching:
    """Tell how the model counts rows: as --batch says, else as its shapes do."""
    if settings.batching.mode == "none":
        return settings.batching
    firsts = [_sizes(value)[:1] for value in [*_inputs(model), *model.graph.output]]
    numbers = {first[0] for first in firsts if first and isinstance(first[0], int)}
    if not all(firsts):
        raise ModelError(
            f"{settings.source.name} has inputs or outputs without rows: if it takes one row a run, --batch none"
        )
    if not numbers:
        return Batching()
    if len(numbers) > 1 or not all(isinstance(first[0], int) for first in firsts):
        shapes = {value.name: list(_sizes(value)) for value in [*_inputs(model), *model.graph.output]}
        raise ModelError(
            f"{settings.source.name}: the inputs and outputs do not start with the same rows: {shapes}.\n"
            "  If the model takes one row a run, --batch none; else export it again with a dynamic first dimension"
        )
    return Batching("fixed", numbers.pop())


def signature(settings: Settings, model: Any, batching: Batching) -> list[Tensor]:
    """Describe the inputs as the graph declares them."""
    tensors: list[Tensor] = []
    for value in _inputs(model):
        if not value.type.HasField("tensor_type"):
            raise ModelError(f"input {value.name} is not a tensor, and the server takes only those")
        number = value.type.tensor_type.elem_type
        is_text = number == onnx.TensorProto.STRING
        dtype = np.dtype(np.str_) if is_text else onnx.helper.tensor_dtype_to_np_dtype(number)
        try:
            datatype = datatype_of(dtype)
        except ValueError:
            raise ModelError(f"input {value.name} has values of type {dtype}, which no client can send") from None
        sizes = tuple(size if isinstance(size, int) else -1 for size in _sizes(value))
        tensors.append(
            Tensor(
                name=value.name,
                datatype=datatype,
                row_shape=batching.row_shape(sizes),
                nullable=settings.nullable and dtype.kind == "f",
                features=settings.features if len(_inputs(model)) == 1 else [],
            )
        )
    return tensors


def _inputs(model: Any) -> list[Any]:
    """The inputs without the initializers, which old files list among them."""
    initializers = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in initializers]


def _sizes(value: Any) -> tuple[int | str, ...]:
    return tuple(
        dimension.dim_value if dimension.HasField("dim_value") else dimension.dim_param
        for dimension in value.type.tensor_type.shape.dim
    )
