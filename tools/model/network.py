"""A PyTorch network: built from the user's class, run for comparison and exported to ONNX."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np

from tools.model import data
from tools.model.converted import COMPARED_ROWS, Batching, Converted
from tools.model.problem import ModelError
from tools.model.settings import Settings
from tools.model.tensors import Tensor, Tensors, datatype

torch: Any = import_module("torch")

_CHUNK = 64
"""Rows that the original computes at once."""


def build(settings: Settings) -> Any:
    """An instance of CLASS, made with ARGS. This runs the user's own file, as training did."""
    path = settings.class_file
    if path is None:
        raise ModelError("CLASS is missing")
    module = _import(path)
    found: Any = getattr(module, settings.class_name, None)
    if found is None:
        networks: list[str] = [
            name for name, value in vars(module).items() if _is_network(value) and value.__module__ == module.__name__
        ]
        raise ModelError(f"{path.name} has no {settings.class_name}; its networks: {', '.join(networks) or 'none'}")
    positional = settings.arguments if isinstance(settings.arguments, list) else []
    named = settings.arguments if isinstance(settings.arguments, dict) else {}
    try:
        built = found(*positional, **named)
    except Exception as error:
        parameters = list(inspect.signature(found).parameters.values()) if callable(found) else []
        asked = ", ".join(str(each.replace(annotation=each.empty)) for each in parameters)
        raise ModelError(
            f"{settings.class_name} cannot be made with ARGS={settings.arguments}: {_where(error, path)}\n"
            f"  it is {settings.class_name}({asked})"
        ) from None
    if not isinstance(built, torch.nn.Module):
        raise ModelError(f"{settings.class_name} in {path.name} gives a {type(built).__name__}, not a torch.nn.Module")
    return built


def _is_network(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, torch.nn.Module)


def _import(path: Path) -> ModuleType:
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ModelError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        hint = "\n  Packages besides PyTorch and NumPy are not there: keep the class in a file without them"
        missing = isinstance(error, ModuleNotFoundError)
        raise ModelError(f"{path.name} cannot be imported: {_where(error, path)}{hint if missing else ''}") from None
    return module


def _where(error: BaseException, path: Path) -> str:
    """The error in one line, with the line of the user's file that it came from."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    at = f"{path.name} line {lines[-1]}: " if lines else ""
    return f"{at}{type(error).__name__}: {' '.join(str(error).split())[:500]}"


def convert(settings: Settings, table: data.Table | None, network: Any, notes: list[str]) -> Converted:
    """The network as ONNX, with what it says itself about the first rows."""
    network.eval()
    network.requires_grad_(False)
    inputs = signature(settings, table, network, parameters(network), notes)
    feed = data.feed(table, inputs) if table else data.random_feed(inputs)
    batching: Batching = "dynamic" if settings.batch == "dynamic" else "none" if settings.batch == "none" else "fixed"
    rows = settings.batch if isinstance(settings.batch, int) else 0
    expected = run(settings, network, feed, batching, rows)
    return Converted(
        model=export(network, inputs, feed, list(expected), batching, rows),
        inputs=inputs,
        feed=feed,
        expected=expected,
        batching=batching,
        batch_rows=rows,
        notes=notes,
        versions={"torch": torch.__version__, "onnxscript": import_module("onnxscript").__version__},
    )


def signature(
    settings: Settings, table: data.Table | None, network: Any, names: list[str], notes: list[str]
) -> list[Tensor]:
    """What `forward`, whose parameters have these names, takes: INPUT, else what DATA has, else the first layer's."""
    given = settings.inputs
    if given and len(given) != len(names):
        raise ModelError(
            f"forward takes {', '.join(names)}, INPUT has {len(given)}: one for each, a blank between them"
        )
    if given:
        unknown = [tensor.name for tensor in given if tensor.name and tensor.name not in names]
        if unknown:
            raise ModelError(f"forward takes {', '.join(names)}, not {', '.join(unknown)}")
        if all(tensor.name for tensor in given):
            given = sorted(given, key=lambda tensor: names.index(tensor.name))
        inputs = [replace(tensor, name=name) for tensor, name in zip(given, names, strict=True)]
    elif table:
        inputs = _from_table(table, names)
    else:
        inputs = _from_first_layer(network, names)
        notes.append(f"the input has {inputs[0].row[0]} values a row, as the first layer takes; INPUT= says otherwise")
    if len(inputs) == 1:
        features = settings.features or inputs[0].features
        inputs = [replace(inputs[0], features=features)]
    nullable = settings.nullable
    return [
        replace(tensor, nullable=nullable and tensor.dtype.kind == "f") for tensor in data.with_features(table, inputs)
    ]


def parameters(network: Any) -> list[str]:
    """The names of what `forward` must be given."""
    parameters = list(inspect.signature(network.forward).parameters.values())
    names = [each.name for each in parameters if each.default is each.empty and each.kind == each.POSITIONAL_OR_KEYWORD]
    if not names or any(each.kind == each.KEYWORD_ONLY and each.default is each.empty for each in parameters):
        raise ModelError(f"forward must take tensors one by one, not {inspect.signature(network.forward)}")
    return names


def _from_table(table: data.Table, names: list[str]) -> list[Tensor]:
    if table.is_csv:
        if len(names) > 1:
            raise ModelError(f"forward takes {', '.join(names)}: say what each is, INPUT='{names[0]}=FP32:3 ...'")
        return [Tensor(name=names[0], datatype="FP32", row=(len(table.columns),), features=list(table.columns))]
    arrays = table.columns if len(names) > 1 or names[0] in table.columns else {names[0]: None}
    missing = [name for name in names if name not in arrays]
    if missing or (arrays != table.columns and len(table.columns) > 1):
        raise ModelError(f"{table.file} has the arrays {', '.join(table.columns)}; forward takes {', '.join(names)}")
    inputs: list[Tensor] = []
    for name in names:
        array = table.columns[name] if name in table.columns else next(iter(table.columns.values()))
        kind = "FP32" if array.dtype == np.float64 else datatype(array.dtype)
        inputs.append(Tensor(name=name, datatype=kind, row=tuple(array.shape[1:])))
    return inputs


def _from_first_layer(network: Any, names: list[str]) -> list[Tensor]:
    first: Any = next((layer for layer in network.modules() if not list(layer.children())), None)
    if len(names) != 1 or not isinstance(first, torch.nn.Linear):
        several = f"INPUT='{' '.join(f'{name}=FP32:3' for name in names)}'"
        examples = several if len(names) > 1 else "INPUT=3 or INPUT=3x224x224"
        raise ModelError(f"INPUT is missing: say what a row of {', '.join(names)} looks like, {examples}, or give DATA")
    return [Tensor(name=names[0], datatype="FP32", row=(first.in_features,))]


def run(settings: Settings, network: Any, feed: Tensors, batching: Batching, rows: int) -> Tensors:
    """What the original says about the first rows, by output."""
    count = min(COMPARED_ROWS, len(next(iter(feed.values()))))
    size = {"dynamic": _CHUNK, "fixed": rows, "none": 1}[batching]
    chunks: list[Tensors] = []
    for start in range(0, count, size):
        indices = np.minimum(
            np.arange(start, start + size if batching == "fixed" else min(start + size, count)), count - 1
        )
        chosen = indices[0] if batching == "none" else indices
        arguments = [torch.from_numpy(np.asarray(array[chosen])) for array in feed.values()]
        answer = named(settings, _call(settings, network, arguments))
        arrays = {name: np.asarray(tensor.detach().cpu().numpy()) for name, tensor in answer.items()}
        if batching == "none":
            arrays = {name: array[np.newaxis] for name, array in arrays.items()}
        for name, array in arrays.items():
            if array.shape[:1] != (1 if batching == "none" else len(indices),):
                raise ModelError(
                    f"output {name} has shape {list(array.shape)} for {len(indices)} rows, so it has no answer a row:"
                    " if the network takes one row without a batch, BATCH=none"
                )
        chunks.append(arrays)
    return {name: np.concatenate([chunk[name] for chunk in chunks])[:count] for name in chunks[0]}


def _call(settings: Settings, network: Any, arguments: list[Any]) -> Any:
    try:
        with torch.no_grad():
            return network(*arguments)
    except Exception as error:
        path = settings.class_file or settings.source
        shapes = ", ".join(f"{argument.dtype} {list(argument.shape)}" for argument in arguments)
        raise ModelError(
            f"the network fails on {shapes} (rows first): {_where(error, path)}\n"
            "  INPUT= says what a row looks like, BATCH= how many rows the network takes"
        ) from None


def named(settings: Settings, answer: Any) -> dict[str, Any]:
    """The outputs by name: OUTPUTS, else a dict's own, else output, output_1, ..."""
    if isinstance(answer, dict):
        values = {str(name): value for name, value in cast("dict[Any, Any]", answer).items()}
    else:
        listed = list(cast("list[Any]", answer)) if isinstance(answer, (tuple, list)) else [answer]
        values = {"output" if len(listed) == 1 else f"output_{index}": value for index, value in enumerate(listed)}
    if not values or not all(torch.is_tensor(value) for value in values.values()):
        raise ModelError("forward must give a tensor, or a tuple or dict of tensors")
    if settings.outputs:
        if len(settings.outputs) != len(values):
            raise ModelError(f"OUTPUTS has {len(settings.outputs)} names, the network gives {len(values)} outputs")
        values = dict(zip(settings.outputs, values.values(), strict=True))
    return values


def export(
    network: Any,
    inputs: list[Tensor],
    feed: Tensors,
    outputs: list[str],
    batching: Batching,
    rows: int,
) -> bytes:
    """The network as a single ONNX file, without the exporter's notes, which have paths of this machine in them."""
    size = {"dynamic": 2, "fixed": rows, "none": 1}[batching]
    arguments: list[Any] = []
    dynamic: list[dict[int, Any]] = []
    for tensor, array in zip(inputs, feed.values(), strict=True):
        example = np.resize(array, (size, *array.shape[1:]))
        arguments.append(torch.from_numpy(np.asarray(example[0]) if batching == "none" else example))
        first = 0 if batching == "none" else 1
        free = {axis + first: torch.export.Dim.DYNAMIC for axis, each in enumerate(tensor.row) if each == -1}
        dynamic.append(free | ({0: torch.export.Dim.DYNAMIC} if batching == "dynamic" else {}))
    try:
        program = torch.onnx.export(
            network,
            tuple(arguments),
            dynamo=True,
            dynamic_shapes=tuple(dynamic),
            input_names=[tensor.name for tensor in inputs],
            output_names=outputs,
            verbose=False,
        )
    except Exception as error:
        raise ModelError(_export_failure(error, batching)) from None
    return plain(program.model_proto)


def plain(model: Any) -> bytes:
    """The model without metadata."""
    for part in (model.graph, *model.functions, model):
        del part.metadata_props[:]
    for part in (model.graph, *model.functions):
        for member in (*part.node, *part.value_info):
            del member.metadata_props[:]
            if hasattr(member, "doc_string"):
                member.doc_string = ""
    for member in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        del member.metadata_props[:]
    return bytes(model.SerializeToString())


def cause(error: BaseException) -> BaseException:
    """What the exporter's own errors were raised from."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _export_failure(error: Exception, batching: Batching) -> str:
    reason = "\n  ".join(line for line in str(cause(error)).splitlines()[:6] if line.strip())
    advice = {
        "dynamic": "if it only works with one number of rows, BATCH=1 (or another number)",
        "fixed": "if it takes one row without a batch, BATCH=none",
        "none": "",
    }[batching]
    keep = "where ONNX cannot say it, export it to .pt2 yourself (torch.export) and serve that with KEEP=pt2"
    return f"the network cannot be exported to ONNX: {reason}\n  " + "; ".join(filter(None, (advice, keep)))
