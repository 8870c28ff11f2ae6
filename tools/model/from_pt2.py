"""A program that torch.export saved: checked entry by entry, then loaded and turned into ONNX, or kept as it is."""

from __future__ import annotations

import io
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from server.model.pt2_file import read_archive
from tools.model import compare, data, network
from tools.model.converted import COMPARED_ROWS, Batching, Converted
from tools.model.problem import ModelError
from tools.model.settings import Settings
from tools.model.tensors import Tensor, Tensors, datatype

torch: Any = import_module("torch")


def convert(settings: Settings, table: data.Table | None) -> Converted:
    """The program as ONNX; with KEEP=pt2 the archive itself."""
    content, program = load(settings.source)
    inputs, batching, rows = signature(settings, program)
    inputs = data.with_features(table, inputs)
    feed = data.feed(table, inputs) if table else data.random_feed(inputs)
    module = program.module(check_guards=False)
    converted = Converted(
        model=content,
        inputs=inputs,
        feed=feed,
        batching=batching,
        batch_rows=rows,
        format="pt2",
        versions={"torch": torch.__version__},
    )
    if settings.keep:
        return _kept(settings, converted, module)
    expected = network.run(settings, module, feed, batching, rows)
    try:
        exported = torch.onnx.export(
            program,
            dynamo=True,
            input_names=[tensor.name for tensor in inputs],
            output_names=list(expected),
            verbose=False,
        )
    except Exception as error:
        reason = " ".join(str(network.cause(error)).split())[:600]
        raise ModelError(
            f"{settings.source.name} cannot be turned into ONNX: {reason}\n"
            "  KEEP=pt2 serves it as it is, in the image's torch variant"
        ) from None
    onnx = network.plain(exported.model_proto)
    return replace(converted, model=onnx, format="onnx", expected=expected)


def load(path: Path) -> tuple[bytes, Any]:
    """The program, and the archive reduced to it: tensors and PyTorch's own operators (package.py refuses others)."""
    content = read_archive(path)
    try:
        return content, torch.export.load(io.BytesIO(content))
    except Exception as error:
        raise ModelError(f"{path.name} cannot be loaded: {' '.join(str(error).split())[:600]}") from None


def signature(settings: Settings, program: Any) -> tuple[list[Tensor], Batching, int]:
    """The inputs, and how the program counts rows: as BATCH says, else as its shapes do."""
    names = set(program.graph_signature.user_inputs)
    values = {
        node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in names
    }
    if not values or not all(torch.is_tensor(value) for value in values.values()):
        raise ModelError(f"{settings.source.name} must take tensors only")
    shapes = {
        name: tuple(size if isinstance(size, int) else -1 for size in value.shape) for name, value in values.items()
    }
    firsts = {shape[0] if shape else 0 for shape in shapes.values()}
    batching: Batching = "none" if settings.batch == "none" else "dynamic" if firsts == {-1} else "fixed"
    if batching == "fixed" and (len(firsts) > 1 or 0 in firsts):
        raise ModelError(
            f"the inputs of {settings.source.name} do not start with the same rows: {shapes}; if it takes one row"
            " a run, BATCH=none; else export it again with a dynamic first dimension"
        )
    inputs = [
        Tensor(
            name=name,
            datatype=datatype(torch.empty(0, dtype=value.dtype).numpy().dtype),
            row=shapes[name] if batching == "none" else shapes[name][1:],
            features=settings.features if len(values) == 1 else [],
            nullable=settings.nullable and value.dtype.is_floating_point,
        )
        for name, value in values.items()
    ]
    return inputs, batching, firsts.pop() if batching == "fixed" else 0


def _kept(settings: Settings, converted: Converted, module: Any) -> Converted:
    """The archive with its own answers, which are all there is to compare."""
    feed = {name: array[:COMPARED_ROWS] for name, array in converted.feed.items()}

    def run(some: Tensors) -> Tensors:
        return network.run(settings, module, some, converted.batching, converted.batch_rows)

    answers = run(feed)
    if converted.batching != "none":
        compare.check_rows(run, feed, answers, settings.tolerance, max(1, converted.batch_rows))
    return replace(converted, feed=feed, expected=answers)
