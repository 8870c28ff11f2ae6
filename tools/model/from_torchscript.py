"""TorchScript: a program, loaded only when its user trusts it and says which file it is."""

from __future__ import annotations

import hashlib
import io
from importlib import import_module
from typing import Any

import numpy as np

from tools.model import data, from_onnx, network
from tools.model.converted import Batching, Converted
from tools.model.problem import ModelError
from tools.model.settings import Settings

torch: Any = import_module("torch")
onnx: Any = import_module("onnx")


def convert(settings: Settings, table: data.Table | None) -> Converted:
    """The program as ONNX, by the exporter that still understands TorchScript."""
    content = settings.source.read_bytes()
    if "torchscript" not in settings.trust or hashlib.sha256(content).hexdigest() != settings.sha256:
        raise ModelError(f"{settings.source.name} is not the file that is trusted")
    try:
        program = torch.jit.load(io.BytesIO(content), map_location="cpu").eval()
    except Exception as error:
        raise ModelError(f"{settings.source.name} cannot be loaded: {str(error).splitlines()[0][:300]}") from None
    names = [argument.name for argument in program.forward.schema.arguments if argument.name != "self"]
    inputs = network.signature(settings, table, program, names, [])
    feed = data.feed(table, inputs) if table else data.random_feed(inputs)
    batching: Batching = "dynamic" if settings.batch == "dynamic" else "none" if settings.batch == "none" else "fixed"
    rows = settings.batch if isinstance(settings.batch, int) else 0
    expected = network.run(settings, program, feed, batching, rows)
    size = {"dynamic": 2, "fixed": rows, "none": 1}[batching]
    examples = [np.resize(array, (size, *array.shape[1:])) for array in feed.values()]
    axes = {tensor.name: {0: "rows"} for tensor in inputs} | {name: {0: "rows"} for name in expected}
    file = io.BytesIO()
    try:
        torch.onnx.export(
            program,
            tuple(torch.from_numpy(np.asarray(example[0]) if batching == "none" else example) for example in examples),
            file,
            dynamo=False,
            input_names=[tensor.name for tensor in inputs],
            output_names=list(expected),
            dynamic_axes=axes if batching == "dynamic" else None,
        )
    except Exception as error:
        raise ModelError(
            f"{settings.source.name} cannot be turned into ONNX: {' '.join(str(error).split())[:600]}"
        ) from None
    return Converted(
        model=network.plain(from_onnx.parse(settings.source.name, file.getvalue())),
        inputs=inputs,
        feed=feed,
        expected=expected,
        batching=batching,
        batch_rows=rows,
        versions={"torch": torch.__version__},
    )
