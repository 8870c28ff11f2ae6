"""What the converters of Hugging Face folders share: the export to ONNX, and the predictor beside it."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from tools.model.errors import explained

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}  # before the imports: never the network

torch: Any = import_module("torch")
transformers: Any = import_module("transformers")
exporters: Any = import_module("transformers.exporters.exporter_onnx")
onnx_ir: Any = import_module("onnx_ir")

transformers.utils.logging.set_verbosity_error()
ANSWER = "answer"
"""The name of the graph's output; torch.export has nodes of its own by most others."""
_PREDICTORS = Path(__file__).parents[1] / "predictors"
_INLINE_BYTES = 1_500_000_000
"""Weights up to this size are in model.onnx itself, which may have 2 GB."""


def to_onnx(module: Any, sample: Mapping[str, Any], free: Mapping[str, Any]) -> dict[str, bytes]:
    """Export; the model's files by name. `free` has the axes of any size of each input of `sample`."""
    config = exporters.OnnxConfig(dynamic_shapes=dict(free))
    with explained("transformers cannot export it to ONNX"):
        program, _ = exporters.OnnxExporter().export_program(module, dict(sample), config=config)
    size = sum(value.const_value.nbytes for value in program.graph.initializers.values())
    with tempfile.TemporaryDirectory() as name:
        data = {"external_data": "model.onnx.data"} if size > _INLINE_BYTES else {}
        onnx_ir.save(program, Path(name) / "model.onnx", **data)
        return {file.name: file.read_bytes() for file in Path(name).iterdir()}


def predictor_files(**modules: str) -> dict[str, bytes]:
    """Read predictors by the names that they get in the model folder."""
    return {f"{name}.py": (_PREDICTORS / "huggingface" / f"{file}.py").read_bytes() for name, file in modules.items()}


def requirements() -> str:
    """The packages that the predictors import, without comments."""
    lines = (_PREDICTORS / "huggingface.in").read_text().splitlines()
    return "".join(f"{line}\n" for line in lines if not line.startswith("#"))


@contextmanager
def predictor_of(files: Mapping[str, bytes]) -> Generator[tuple[Any, Any]]:
    """Load predictor.py and its Predictor as the server does, from a folder with these files."""
    with tempfile.TemporaryDirectory() as name:
        for path, content in files.items():
            (Path(name) / path).write_bytes(content)
        before = set(sys.modules)
        sys.path.insert(0, name)
        try:
            module: Any = importlib.import_module("predictor")
            yield module, module.Predictor(Path(name))
        finally:
            sys.path.remove(name)
            for module in set(sys.modules) - before:
                if str(getattr(sys.modules[module], "__file__", None) or "").startswith(name):
                    del sys.modules[module]
