"""TorchScript: a program, loaded only when its user trusts it and says which file it is."""

from __future__ import annotations

import hashlib
import io
from importlib import import_module
from typing import Any

from tools.model import training_data
from tools.model.conversion import Conversion
from tools.model.converters import torch_network
from tools.model.converters.onnx_graph import parse
from tools.model.errors import ModelError, explained, first_line
from tools.model.settings import Settings
from tools.model.training_data import Table

torch: Any = import_module("torch")


def convert(settings: Settings, table: Table | None) -> Conversion:
    """Turn the program into ONNX by the exporter that still understands TorchScript."""
    content = settings.source.read_bytes()
    if "torchscript" not in settings.trust or hashlib.sha256(content).hexdigest() != settings.sha256:
        raise ModelError(f"{settings.source.name} is not the file that is trusted")
    with explained(f"{settings.source.name} cannot be loaded", first_line):
        program = torch.jit.load(io.BytesIO(content), map_location="cpu").eval()
    names = [argument.name for argument in program.forward.schema.arguments if argument.name != "self"]
    inputs = torch_network.signature(settings, table, program, names, [])
    feed = training_data.feed(table, inputs)
    expected = torch_network.run(settings, program, feed, settings.batching)
    axes = {tensor.name: {0: "rows"} for tensor in inputs} | {name: {0: "rows"} for name in expected}
    file = io.BytesIO()
    with explained(f"{settings.source.name} cannot be turned into ONNX"):
        torch.onnx.export(
            program,
            tuple(torch_network.examples(feed, settings.batching)),
            file,
            dynamo=False,
            input_names=[tensor.name for tensor in inputs],
            output_names=list(expected),
            dynamic_axes=axes if settings.batching.mode == "dynamic" else None,
        )
    return Conversion(
        model=torch_network.without_metadata(parse(settings.source.name, file.getvalue())),
        inputs=inputs,
        feed=feed,
        expected=expected,
        batching=settings.batching,
        versions={"torch": torch.__version__},
    )
