"""A program saved by torch.export: checked entry by entry, then loaded and turned into ONNX, or kept as it is."""

from __future__ import annotations

import io
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from server.model.pt2_file import read_archive
from tools.model import compare, training_data
from tools.model.batching import Batching
from tools.model.conversion import COMPARED_ROWS, Conversion
from tools.model.converters import torch_network
from tools.model.errors import ModelError, explained, one_line
from tools.model.settings import Settings
from tools.model.tensors import Tensor, Tensors, datatype_of
from tools.model.training_data import Table

torch: Any = import_module("torch")


def convert(settings: Settings, table: Table | None) -> Conversion:
    """Turn the program into ONNX; with --keep pt2 keep the archive itself."""
    content, program = load(settings.source)
    inputs, batching = signature(settings, program)
    inputs = training_data.with_features(table, inputs)
    module = program.module(check_guards=False)
    feed = torch_network.feed_of(settings, table, module, inputs, batching)
    versions = {"torch": torch.__version__}
    conversion = Conversion(model=content, inputs=inputs, feed=feed, batching=batching, format="pt2", versions=versions)
    if settings.keep == "pt2":
        return _kept(settings, conversion, module)
    expected = torch_network.run(settings, module, feed, batching)
    advice = "\n  --keep pt2 serves it as it is, in the image's torch variant"
    names = [tensor.name for tensor in inputs]
    with explained(
        f"{settings.source.name} cannot be turned into ONNX",
        lambda error: one_line(torch_network.root_cause(error)) + advice,
    ):
        exported = torch.onnx.export(
            program, dynamo=True, input_names=names, output_names=list(expected), verbose=False
        )
    onnx = torch_network.without_metadata(exported.model_proto)
    return replace(conversion, model=onnx, format="onnx", expected=expected)


def load(path: Path) -> tuple[bytes, Any]:
    """Load the program from an archive reduced to tensors and PyTorch's own operators (package.py refuses others)."""
    content = read_archive(path)
    with explained(f"{path.name} cannot be loaded"):
        return content, torch.export.load(io.BytesIO(content))


def signature(settings: Settings, program: Any) -> tuple[list[Tensor], Batching]:
    """Describe the inputs, and how the program counts rows: as --batch says, else as its shapes do."""
    names = set(program.graph_signature.user_inputs)
    values = {
        node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in names
    }
    if not values or not all(torch.is_tensor(value) for value in values.values()):
        raise ModelError(f"{settings.source.name} must take tensors only")
    shapes = {
        name: tuple(size if isinstance(size, int) else -1 for size in value.shape) for name, value in values.items()
    }
    batching = settings.batching
    firsts = {shape[0] if shape else 0 for shape in shapes.values()}
    if batching.mode == "dynamic" and firsts != {-1}:
        batching = Batching("fixed", max(firsts))
    if batching.mode == "fixed" and -1 not in firsts and batching.rows not in firsts:
        raise ModelError(
            f"--batch {batching.rows}: {settings.source.name} says itself how many rows it takes, {max(firsts)}"
        )
    if batching.mode == "fixed" and (len(firsts) > 1 or 0 in firsts):
        raise ModelError(
            f"the inputs of {settings.source.name} do not start with the same rows: {shapes}; if it takes one row"
            " a run, --batch none; else export it again with a dynamic first dimension"
        )
    inputs = [
        Tensor(
            name=name,
            datatype=datatype_of(torch.empty(0, dtype=value.dtype).numpy().dtype),
            row_shape=batching.row_shape(shapes[name]),
            features=settings.features if len(values) == 1 else [],
            nullable=settings.nullable and value.dtype.is_floating_point,
        )
        for name, value in values.items()
    ]
    return inputs, batching


def _kept(settings: Settings, conversion: Conversion, module: Any) -> Conversion:
    """Keep the archive, with its own answers, which are all there is to compare."""
    feed = {name: array[:COMPARED_ROWS] for name, array in conversion.feed.items()}

    def run(some: Tensors) -> Tensors:
        return torch_network.run(settings, module, some, conversion.batching)

    answers = run(feed)
    if conversion.batching.mode != "none":
        compare.check_independence(run, feed, answers, settings.tolerance, conversion.batching.run_rows(1))
    return replace(conversion, feed=feed, expected=answers)
