"""A model that is ONNX already: read, repaired, and run to find out its rows and sizes."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from tools.model import training_data
from tools.model.batching import Batching
from tools.model.conversion import Conversion
from tools.model.converters import onnx_graph
from tools.model.converters.onnx_graph import Sizes
from tools.model.converters.onnx_layout import Layout, Search, Session
from tools.model.errors import ModelError, one_line
from tools.model.settings import Settings
from tools.model.tensors import Tensor, datatype_of
from tools.model.training_data import Table

onnx: Any = import_module("onnx")

_MAX_IR_VERSION = 13
"""The newest that the server's ONNX Runtime reads."""
_SCALES_BY_BATCH = frozenset({"DynamicQuantizeLinear", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul"})
"""Operators that quantize a batch by its largest value, so that rows depend on each other by a rounding of a 256th."""


def convert(settings: Settings, table: Table | None) -> Conversion:
    """Keep the model, with plain tensors for inputs and outputs, and its rows first."""
    notes: list[str] = []
    model = onnx_graph.read(settings.source, notes)
    labels = onnx_graph.remove_zipmaps(model)
    onnx_graph.repair(model)
    onnx_graph.choose_outputs(model, settings.outputs, labels)
    model.ir_version = min(model.ir_version, _MAX_IR_VERSION)
    search = Search(
        session=_session(settings, model),
        inputs=_declared(settings, model),
        outputs={value.name: onnx_graph.sizes(value) for value in model.graph.output},
        tensors=signature(settings, model),
        asked=settings.batching,
        table=table,
    )
    layout = search.layout()
    batching = _batching(settings, model, layout, notes)
    row_shapes = {tensor.name: tensor.row_shape for tensor in layout.inputs} | layout.output_rows
    if layout.batching.mode != "none":
        onnx_graph.put_rows_first(model, layout.axes, {name: len(shape) for name, shape in row_shapes.items()})
    # A fixed number of rows of a model that takes any is the server's to keep: its file says so as before.
    onnx_graph.declare(model, batching, row_shapes)
    return Conversion(
        model=model.SerializeToString(),
        inputs=layout.inputs,
        feed=training_data.feed(table, layout.inputs, layout.made_up),
        batching=batching,
        labels=labels,
        notes=notes,
        versions={"onnx": onnx.__version__},
    )


def _session(settings: Settings, model: Any) -> Session:
    """Load the model; ModelError when ONNX Runtime does not, with what the rules of ONNX say about that."""
    try:
        return Session(model.SerializeToString())
    except Exception as error:  # ONNX Runtime's own exceptions share no base class
        reason = error
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as broken:  # the checker's and protobuf's
        raise ModelError(f"{settings.source.name} breaks the rules of ONNX: {one_line(broken)}") from None
    raise ModelError(f"ONNX Runtime cannot load {settings.source.name}: {one_line(reason)}")


def _batching(settings: Settings, model: Any, layout: Layout, notes: list[str]) -> Batching:
    """How many rows a run has: as --batch says, where the model leaves that open."""
    found, asked = layout.batching, settings.batching
    if asked.mode == "fixed" and asked != found:
        if found.mode != "dynamic":
            raise ModelError(
                f"--batch {asked.rows}: {settings.source.name} says itself how many rows it takes, {found.rows or 1}"
            )
        return asked
    if found.mode == "dynamic" and layout.dependence == "rows":
        operators = sorted({node.op_type for node in model.graph.node} & _SCALES_BY_BATCH)
        if operators:
            notes.append(
                f"{operators[0]} makes a row's answer depend on those beside it, so each runs alone (--batch 1)"
            )
            return Batching("fixed", 1)
    if layout.dependence == "chance":
        notes.append(
            "the same row gets another answer each time: the model draws random numbers, or was exported in training"
        )
    moved = {name: axis for name, axis in layout.axes.items() if axis}
    if moved:
        listed = ", ".join(f"axis {axis} of {name}" for name, axis in moved.items())
        notes.append(f"the rows are {listed}, and come first in what clients send and get")
    if found.rows == 1 and None in layout.axes.values():
        shared = ", ".join(name for name, axis in layout.axes.items() if axis is None)
        notes.append(f"{shared} has no rows, so each row runs alone")
    if found.mode == "none" and asked.mode != "none":
        notes.append("inputs and outputs have no rows in common, so a request's rows are run one by one (--batch none)")
    return found


def _declared(settings: Settings, model: Any) -> dict[str, Sizes]:
    """The inputs' shapes, with the sizes that --input gives for those that the file leaves open."""
    shapes = {value.name: onnx_graph.sizes(value) for value in onnx_graph.inputs(model)}
    given = settings.inputs
    if not given:
        return shapes
    has = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
    if len(given) > len(shapes) or any(tensor.name not in shapes for tensor in given if tensor.name):
        raise ModelError(f"--input does not fit the model, which takes {has}")
    for tensor, position in zip(given, shapes, strict=False):
        name = tensor.name or position
        shapes[name] = _narrowed(name, shapes[name], tensor)
    return shapes


def _narrowed(name: str, shape: Sizes, tensor: Tensor) -> Sizes:
    """Fill in a row's sizes behind the rows, or a whole shape's, where it has no rows."""
    row = tensor.row_shape
    ahead = len(shape) - len(row)
    sizes = shape[ahead:]
    if ahead not in (0, 1) or any(
        given != -1 and isinstance(size, int) and given != size for given, size in zip(row, sizes, strict=True)
    ):
        raise ModelError(f"--input {tensor} does not fit {name} of the model, which is {list(shape)} with its rows")
    return (*shape[:ahead], *(size if given == -1 else given for given, size in zip(row, sizes, strict=True)))


def signature(settings: Settings, model: Any) -> list[Tensor]:
    """Describe the inputs' types; a row's shape follows from where the rows are."""
    tensors: list[Tensor] = []
    values = onnx_graph.inputs(model)
    for value in values:
        if onnx_graph.kind(value) != "tensor":
            raise ModelError(
                f"input {value.name} is a {onnx_graph.kind(value)}, and the server takes tensors only.\n"
                f"  {onnx_graph.OWN_RUNTIME}"
            )
        number = value.type.tensor_type.elem_type
        is_text = number == onnx.TensorProto.STRING
        dtype = np.dtype(np.str_) if is_text else onnx.helper.tensor_dtype_to_np_dtype(number)
        try:
            datatype = datatype_of(dtype)
        except ValueError:
            raise ModelError(
                f"input {value.name} has values of type {dtype}, which no client can send: export the model with"
                f" float32 inputs, or {onnx_graph.OWN_RUNTIME}"
            ) from None
        tensors.append(
            Tensor(
                name=value.name,
                datatype=datatype,
                row_shape=(),
                nullable=settings.nullable and dtype.kind == "f",
                features=settings.features if len(values) == 1 else [],
            )
        )
    return tensors
