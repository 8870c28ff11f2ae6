"""What the converters of Hugging Face folders share: the export to ONNX, and the predictor beside it."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from tools.model.errors import ModelError, explained

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}  # before the imports: never the network

torch: Any = import_module("torch")
transformers: Any = import_module("transformers")
exporters: Any = import_module("transformers.exporters.exporter_onnx")
onnx_ir: Any = import_module("onnx_ir")

transformers.utils.logging.set_verbosity_error()
ANSWER = "answer"
"""The name of the graph's output; torch.export has nodes of its own by most others."""
_PREDICTORS = Path(__file__).parents[1] / "predictors"
_LOADED = (".json", ".safetensors", ".txt", ".model", ".jinja")
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


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The model folder's files: as ONNX, or with the model's own library."""

    files: dict[str, bytes]
    requirements: str
    notes: list[str]


def choose(keep: str, onnx: Callable[[], dict[str, bytes]], library: Callable[[], dict[str, bytes]]) -> Chosen:
    """Export and compare, unless `keep` is "library"; what fails keeps its library, unless `keep` is "onnx"."""
    reason = "as --keep library asks"
    if keep != "library":
        try:
            return Chosen(files=onnx(), requirements=requirements("huggingface"), notes=[])
        except ModelError as error:
            if keep == "onnx":
                raise
            reason = f"because {error}"
    note = (
        f"kept with its own library, transformers {transformers.__version__} on PyTorch, {reason}.\n"
        "  It costs an image larger by 1 GB with PyTorch's builds for CPUs, or 5 GB with those for CUDA, and a start"
        " slower by about 10 seconds"
    )
    return Chosen(files=library(), requirements=requirements("huggingface_torch"), notes=[note])


def predictor_files(**modules: str) -> dict[str, bytes]:
    """Read predictors by the names that they get in the model folder."""
    return {f"{name}.py": (_PREDICTORS / "huggingface" / f"{file}.py").read_bytes() for name, file in modules.items()}


def requirements(file: str) -> str:
    """The packages that predictors import, without comments."""
    lines = (_PREDICTORS / f"{file}.in").read_text().splitlines()
    return "".join(f"{line}\n" for line in lines if not line.startswith("#"))


def original_files(folder: Path) -> dict[str, bytes]:
    """Read what the library itself loads, for a model that keeps it; as in the folder, below `original`."""
    files = [file for file in folder.rglob("*") if file.suffix in _LOADED and file.is_file()]
    return {f"original/{file.relative_to(folder).as_posix()}": file.read_bytes() for file in files}


@contextmanager
def predictor_of(files: Mapping[str, bytes]) -> Generator[tuple[Any, Any]]:
    """Load predictor.py and its Predictor as the server does, from a folder with these files."""
    with tempfile.TemporaryDirectory() as name:
        for path, content in files.items():
            (Path(name) / path).parent.mkdir(parents=True, exist_ok=True)
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
