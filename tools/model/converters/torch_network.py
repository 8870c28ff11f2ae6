"""A PyTorch network: built from the user's class, run for comparison and exported to ONNX."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import math
import sys
import traceback
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np

from tools.model import training_data
from tools.model.batching import Batching, run_in_batches
from tools.model.conversion import COMPARED_ROWS, Conversion
from tools.model.errors import ModelError, explained, named
from tools.model.settings import PLACEHOLDERS, Settings
from tools.model.tensors import Tensor, Tensors, datatype_of, row_count
from tools.model.training_data import Table

torch: Any = import_module("torch")

_CHUNK_ROWS = 64


def build(settings: Settings) -> Any:
    """Make an instance of --class with --args. This runs the user's own file, as training did."""
    path = settings.class_file
    if path is None:
        raise ModelError("--class is missing")
    module = _import(path)
    found: Any = getattr(module, settings.class_name, None)
    if found is None:
        own = [value for value in vars(module).values() if getattr(value, "__module__", "") == module.__name__]
        networks = [each.__name__ for each in own if isinstance(each, type) and issubclass(each, torch.nn.Module)]
        raise ModelError(f"{path.name} has no {settings.class_name}; its networks: {', '.join(networks) or 'none'}")
    positional = settings.arguments if isinstance(settings.arguments, list) else []
    named = settings.arguments if isinstance(settings.arguments, dict) else {}
    try:
        built = found(*positional, **named)
    except Exception as error:
        parameters = list(inspect.signature(found).parameters.values()) if callable(found) else []
        asked = ", ".join(str(each.replace(annotation=each.empty)) for each in parameters)
        raise ModelError(
            f"{settings.class_name} cannot be made with --args {settings.arguments}: {_where(error, path)}\n"
            f"  it is {settings.class_name}({asked})"
        ) from None
    if not isinstance(built, torch.nn.Module):
        raise ModelError(f"{settings.class_name} in {path.name} gives a {type(built).__name__}, not a torch.nn.Module")
    return built


def _import(path: Path) -> ModuleType:
    """Import the file, as a part of the package that it is in, for its relative imports."""
    depth = _package_depth(path)
    name = ".".join([*path.parts[len(path.parts) - 1 - depth : -1], path.stem])
    sys.path[:0] = [str(path.parents[depth]), str(path.parent)]
    for taken in [each for each in sys.modules if depth and each.split(".")[0] == name.split(".")[0]]:
        del sys.modules[taken]  # a package of this clone's, such as `tools`; what has been imported from it stays
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ModelError(f"{path} is not a Python file")
    try:
        if depth:
            return import_module(name)
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        hint = (
            "\n  Packages besides PyTorch and NumPy are not there: keep the class in a file without them, or put all"
            " into a folder with a predictor.py and a requirements.txt: make model FROM=that-folder"
        )
        missing = isinstance(error, ModuleNotFoundError)
        raise ModelError(f"{path.name} cannot be imported: {_where(error, path)}{hint if missing else ''}") from None
    return module


def _package_depth(path: Path) -> int:
    """The folders above the file that are packages: by their __init__.py, or because its relative imports need them."""
    depth = 0
    while (path.parents[depth] / "__init__.py").is_file():
        depth += 1
    with suppress(SyntaxError, ValueError):  # told when it is imported
        levels = [node.level for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.ImportFrom)]
        depth = max(depth, *levels, 0)
    return depth


def _where(error: BaseException, path: Path) -> str:
    """Put the error on one line, with the line of the user's file that it came from."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    at = f"{path.name} line {lines[-1]}: " if lines else ""
    return f"{at}{named(error)}"


def convert(settings: Settings, table: Table | None, network: Any, notes: list[str]) -> Conversion:
    """Turn the network into ONNX, with its own answers to the first rows."""
    network.eval()
    network.requires_grad_(False)
    inputs = signature(settings, table, network, parameters(network), notes)
    feed = feed_of(settings, table, network, inputs, settings.batching)
    expected = run(settings, network, feed, settings.batching)
    return Conversion(
        model=export(network, inputs, feed, list(expected), settings.batching),
        inputs=inputs,
        feed=feed,
        expected=expected,
        batching=settings.batching,
        notes=notes,
        versions={"torch": torch.__version__, "onnxscript": import_module("onnxscript").__version__},
    )


def feed_of(settings: Settings, table: Table | None, network: Any, inputs: list[Tensor], batching: Batching) -> Tensors:
    """Take the rows of --data, or make up some of the first size that the network takes."""
    if table or not any(-1 in tensor.row_shape for tensor in inputs):
        return training_data.feed(table, inputs)
    failure: ModelError | None = None
    for size in training_data.TRIED_SIZES:
        sizes = {each.name: tuple(size if axis == -1 else axis for axis in each.row_shape) for each in inputs}
        if failure and sum(map(math.prod, sizes.values())) > training_data.MAX_TRIED_VALUES:
            continue
        try:
            feed = training_data.feed(None, inputs, sizes)
            run(settings, network, {name: array[:1] for name, array in feed.items()}, batching)
        except ModelError as error:
            failure = failure or error
            continue
        return feed
    raise failure or ModelError("no rows")


def signature(
    settings: Settings, table: Table | None, network: Any, names: list[str], notes: list[str]
) -> list[Tensor]:
    """Describe `forward`'s parameters, which have these names: by --input, else by --data, else by the first layer."""
    given = settings.inputs
    if given and len(given) != len(names):
        raise ModelError(
            f"forward takes {', '.join(names)}, --input has {len(given)}: one for each, a blank between them"
        )
    if given:
        unknown = [tensor.name for tensor in given if tensor.name and tensor.name not in names]
        if unknown:
            raise ModelError(f"forward takes {', '.join(names)}, not {', '.join(unknown)}")
        if all(tensor.name for tensor in given):
            given = sorted(given, key=lambda tensor: names.index(tensor.name))
        floats = _floats(network)
        inputs = [
            replace(tensor, name=name, datatype=floats if tensor.datatype == "FP32" else tensor.datatype)
            for tensor, name in zip(given, names, strict=True)
        ]
    elif table:
        inputs = _from_table(table, names, _floats(network))
    else:
        inputs = _from_first_layer(network, names)
        notes.append(
            f"the input has {inputs[0].row_shape[0]} values a row, as the first layer takes; --input says otherwise"
        )
    if len(inputs) == 1:
        inputs = [replace(inputs[0], features=settings.features or inputs[0].features)]
    return [
        replace(tensor, nullable=settings.nullable and tensor.dtype.kind == "f")
        for tensor in training_data.with_features(table, inputs)
    ]


def parameters(network: Any) -> list[str]:
    """List the parameters that `forward` must be given."""
    parameters = list(inspect.signature(network.forward).parameters.values())
    names = [each.name for each in parameters if each.default is each.empty and each.kind == each.POSITIONAL_OR_KEYWORD]
    if not names or any(each.kind == each.KEYWORD_ONLY and each.default is each.empty for each in parameters):
        raise ModelError(f"forward must take tensors one by one, not {inspect.signature(network.forward)}")
    return names


def _floats(network: Any) -> str:
    """The datatype of the network's weights, which its inputs have."""
    first: Any = next((each for each in network.parameters() if each.dtype.is_floating_point), None)
    return "FP64" if first is not None and first.dtype == torch.float64 else "FP32"


def _from_table(table: Table, names: list[str], floats: str) -> list[Tensor]:
    if table.is_csv:
        if len(names) > 1:
            raise ModelError(f"forward takes {', '.join(names)}: say what each is, --input '{names[0]}=FP32:3 ...'")
        return [Tensor(name=names[0], datatype=floats, row_shape=(len(table.columns),), features=list(table.columns))]
    arrays = table.columns
    if len(names) == len(arrays) == 1:
        arrays = dict(zip(names, arrays.values(), strict=True))  # an only array may have any name
    if not set(names) <= set(arrays):
        raise ModelError(f"{table.file} has the arrays {', '.join(arrays)}; forward takes {', '.join(names)}")
    datatypes = {
        name: floats if arrays[name].dtype == np.float64 else datatype_of(arrays[name].dtype) for name in names
    }
    return [
        Tensor(name=name, datatype=each, row_shape=tuple(arrays[name].shape[1:])) for name, each in datatypes.items()
    ]


def _from_first_layer(network: Any, names: list[str]) -> list[Tensor]:
    first: Any = next((layer for layer in network.modules() if not list(layer.children())), None)
    if len(names) != 1 or not isinstance(first, torch.nn.Linear):
        several = f"--input '{' '.join(f'{name}=FP32:3' for name in names)}'"
        shapes = several if len(names) > 1 else "--input 3 or --input 3x224x224"
        raise ModelError(
            f"--input is missing: say what a row of {', '.join(names)} looks like, {shapes}, or give --data",
            needs={"input": " ".join(f"{name}=FP32:3" for name in names) if len(names) > 1 else PLACEHOLDERS["input"]},
        )
    return [Tensor(name=names[0], datatype=_floats(network), row_shape=(first.in_features,))]


def run(settings: Settings, network: Any, feed: Tensors, batching: Batching) -> Tensors:
    """Have the original answer the first rows."""

    def answer(arrays: Tensors, _: range) -> Tensors:
        given = [torch.from_numpy(array) for array in arrays.values()]
        outputs = outputs_by_name(settings, _call(settings, network, given))
        return {name: np.asarray(tensor.detach().cpu().numpy()) for name, tensor in outputs.items()}

    return run_in_batches(answer, feed, min(COMPARED_ROWS, row_count(feed)), batching, _CHUNK_ROWS)


def _call(settings: Settings, network: Any, arguments: list[Any]) -> Any:
    try:
        with torch.no_grad():
            return network(*arguments)
    except Exception as error:
        path = settings.class_file or settings.source
        shapes = ", ".join(f"{argument.dtype} {list(argument.shape)}" for argument in arguments)
        raise ModelError(
            f"the network fails on {shapes} (rows first): {_where(error, path)}\n"
            "  --input says what a row looks like, --batch how many rows the network takes"
        ) from None


def outputs_by_name(settings: Settings, answer: Any) -> dict[str, Any]:
    """Name the outputs: by --outputs, else as a dict does, else output, or output_0, output_1, ..."""
    if isinstance(answer, dict):
        values = {str(name): value for name, value in cast("dict[Any, Any]", answer).items()}
    else:
        listed = list(cast("list[Any]", answer)) if isinstance(answer, (tuple, list)) else [answer]
        values = {"output" if len(listed) == 1 else f"output_{index}": value for index, value in enumerate(listed)}
    if not values or not all(torch.is_tensor(value) for value in values.values()):
        raise ModelError("forward must give a tensor, or a tuple or dict of tensors")
    if settings.outputs:
        if len(settings.outputs) != len(values):
            raise ModelError(f"--outputs has {len(settings.outputs)} names, the network gives {len(values)} outputs")
        values = dict(zip(settings.outputs, values.values(), strict=True))
    return values


def examples(feed: Tensors, batching: Batching) -> list[Any]:
    """Take the rows that the exporter traces with: two where their number is dynamic, since one would become fixed."""
    rows = batching.run_rows(dynamic=2)
    found = [np.resize(array, (rows, *array.shape[1:])) for array in feed.values()]
    return [torch.from_numpy(np.asarray(array[0]) if batching.mode == "none" else array) for array in found]


def export(network: Any, inputs: list[Tensor], feed: Tensors, outputs: list[str], batching: Batching) -> bytes:
    """Write the network as one ONNX file, without the exporter's notes, which have this machine's paths in them."""
    shapes = [batching.shape(tensor.row_shape) for tensor in inputs]
    dynamic = [{axis: torch.export.Dim.DYNAMIC for axis, size in enumerate(shape) if size == -1} for shape in shapes]
    with explained("the network cannot be exported to ONNX", lambda error: _why_not_exported(error, batching)):
        program = torch.onnx.export(
            network,
            tuple(examples(feed, batching)),
            dynamo=True,
            dynamic_shapes=tuple(dynamic),
            input_names=[tensor.name for tensor in inputs],
            output_names=outputs,
            verbose=False,
        )
    return without_metadata(program.model_proto)


def without_metadata(model: Any) -> bytes:
    """Serialise the model without metadata."""
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


def root_cause(error: BaseException) -> BaseException:
    """Find what the exporter's own errors were raised from."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _why_not_exported(error: Exception, batching: Batching) -> str:
    reason = "\n  ".join(line for line in str(root_cause(error)).splitlines()[:6] if line.strip())
    advice = {
        "dynamic": "if it only works with one number of rows, --batch 1 (or another number)",
        "fixed": "if it takes one row without a batch, --batch none",
        "none": "",
    }[batching.mode]
    keep = "where ONNX cannot say it, export it to .pt2 yourself (torch.export) and serve that with --keep pt2"
    return f"{reason}\n  " + "; ".join(filter(None, (advice, keep)))
