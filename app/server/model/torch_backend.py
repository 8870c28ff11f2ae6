"""PyTorch: open model.pt2 and run it, checking outputs against the manifest. For the image's torch variant."""

from __future__ import annotations

import importlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from ..errors import Problem, StartError
from . import cpu
from .manifest import Manifest, Output
from .pt2_file import read_archive
from .tensors import DTYPES, Tensors

_ALLOCATION_FAILED = "DefaultCPUAllocator: can't allocate memory"
"""What PyTorch says, in a RuntimeError like any other operator's."""


class TorchBackend:
    """Exported program, ready to run."""

    def __init__(self, torch: Any, module: Any, inputs: list[str], outputs: list[Output]) -> None:
        """`inputs` are the program's arguments in order; `outputs` is empty where they are not to be checked."""
        self._torch = torch
        self._module = module
        self._inputs = inputs
        self._outputs = {output.name: DTYPES[output.datatype] for output in outputs}

    def run(self, inputs: Tensors) -> Tensors:
        """Run once; raises a Problem when the program fails, or its outputs are not those of the manifest."""
        torch = self._torch
        try:
            # A copy, because a tensor must be writable, and what came in binary is a view of the request.
            given = [torch.from_numpy(np.array(inputs[name])) for name in self._inputs]
            with torch.inference_mode():
                results = self._module(*given)
            arrays = self._named(results)
        except MemoryError:
            raise
        except Exception as error:  # whatever an operator raises
            if _ALLOCATION_FAILED in str(error):
                raise MemoryError(str(error)) from error
            raise Problem(422, "model_failed", f"the model failed on this input: {error}") from error
        found = {name: array.dtype for name, array in arrays.items()}
        if self._outputs and found != self._outputs:
            raise Problem(
                500, "model_failed", f"the model gives {_dtypes(found)}, model.json has {_dtypes(self._outputs)}"
            )
        return arrays

    def _named(self, results: Any) -> Tensors:
        """Name the results: by a dict's own keys, else as the manifest does, in order."""
        if not isinstance(results, dict):
            several = cast("list[Any]", results if isinstance(results, tuple | list) else [results])
            names = self._outputs if len(several) == len(self._outputs) else range(len(several))
            results = {f"{name}": tensor for name, tensor in zip(names, several, strict=True)}
        return {name: tensor.numpy() for name, tensor in cast("dict[str, Any]", results).items()}


def _dtypes(outputs: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {dtype}" for name, dtype in outputs.items())


def open_model(folder: Path, manifest: Manifest, *, check_inputs: bool, check_outputs: bool) -> TorchBackend:
    """Open model.pt2; raises a StartError when that fails, or its inputs are not those of the manifest.

    Shapes and outputs are checked when the example is run, at the start.
    """
    path = folder / "model.pt2"
    wrong = [tensor.name for tensor in (*manifest.inputs, *manifest.outputs) if tensor.datatype == "BYTES"]
    if wrong:
        raise StartError(f"{path}: PyTorch has no strings, model.json has BYTES for {wrong}")
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        raise StartError(
            f"{path} needs PyTorch, which is not installed here: package the model as ONNX, or set the config key"
            " extras to torch (target local: .venv/bin/uv pip install -r app/requirements-torch.lock)"
        ) from None
    try:
        content = read_archive(path)
    except OSError as error:
        raise StartError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as reason:
        raise StartError(f"{path} is refused: it {reason}") from None
    torch.set_num_threads(cpu.usable())
    try:
        # torch.export.load would try an older layout when this fails, and hide why.
        package = importlib.import_module("torch.export.pt2_archive._package")
        program = package.load_pt2(io.BytesIO(content)).exported_programs["model"]
        module = program.module(check_guards=False)
    except Exception as error:
        raise StartError(f"{path} cannot be loaded: {' '.join(str(error).split())}") from None
    inputs = list(program.graph_signature.user_inputs)
    names = [tensor.name for tensor in manifest.inputs]
    if check_inputs and sorted(names) != sorted(inputs):
        raise StartError(f"{path} has the inputs {sorted(inputs)}, model.json has {sorted(names)}")
    return TorchBackend(torch, module, inputs, manifest.outputs if check_outputs else [])
