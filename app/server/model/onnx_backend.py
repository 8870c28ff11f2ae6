"""ONNX Runtime: open model.onnx, check it against the manifest, run it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol, cast

# ONNX Runtime's official builds report models and machine to their maker, unless told not to before the import: then
# they write no identifier and send nothing [microsoft/onnxruntime#27379].
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime  # pyright: ignore[reportMissingTypeStubs]  # it ships none

from ..errors import Problem, StartError
from . import cpu
from .datatypes import ONNX_TYPES
from .manifest import Input, Manifest, Output
from .onnx_file import has_external_data
from .tensors import Array, Tensors, fits

_TINY_BYTES = 2**20
"""Largest file whose model runs faster on one thread than on several."""
_ALLOCATION_FAILED = ("std::bad_alloc", "Failed to allocate memory")
"""What ONNX Runtime says without an arena and with one; its exceptions' types are those of any failing operator."""


class _Tensor(Protocol):
    name: str
    type: str
    shape: list[int | str | None]


class _Session(Protocol):
    def get_inputs(self) -> list[_Tensor]: ...
    def get_outputs(self) -> list[_Tensor]: ...
    def run(self, output_names: list[str], input_feed: Tensors) -> list[Array]: ...


class _SessionOptions(Protocol):
    intra_op_num_threads: int
    inter_op_num_threads: int
    log_severity_level: int
    enable_cpu_mem_arena: bool

    def add_session_config_entry(self, key: str, value: str) -> None: ...


class _Runtime(Protocol):
    """Types of what is used of onnxruntime, which has none."""

    def SessionOptions(self) -> _SessionOptions: ...  # noqa: N802  # onnxruntime's name
    def InferenceSession(  # noqa: N802  # onnxruntime's name
        self, content: bytes, options: _SessionOptions, /, *, providers: list[str]
    ) -> _Session: ...


_runtime = cast(_Runtime, onnxruntime)


class OnnxBackend:
    """ONNX model, ready to run."""

    def __init__(self, session: _Session, outputs: list[str]) -> None:
        self._session = session
        self._outputs = outputs

    def run(self, inputs: Tensors) -> Tensors:
        """Run once; raises a Problem when the model fails on these inputs."""
        try:
            return dict(zip(self._outputs, self._session.run(self._outputs, inputs), strict=True))
        except MemoryError:
            raise
        except Exception as error:  # ONNX Runtime's own exceptions share no base class
            if any(text in str(error) for text in _ALLOCATION_FAILED):
                raise MemoryError(str(error)) from error
            raise Problem(422, "model_failed", f"the model failed on this input: {error}") from error


def open_model(folder: Path, manifest: Manifest, *, check_inputs: bool, check_outputs: bool) -> OnnxBackend:
    """Open model.onnx; raises a StartError when that fails, or the file differs from the manifest.

    The manifest describes what clients see: a side that a hook converts is not to be checked.
    """
    path = folder / "model.onnx"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StartError(f"{path} cannot be read: {error.strerror}") from None
    try:
        external = has_external_data(content)
    except ValueError as error:
        raise StartError(f"{path} is not an ONNX model: it {error}") from None
    if external:
        raise StartError(f"{path} keeps weights in other files, which is refused: save it as a single file")
    session = _open(path, content, sizes_vary=manifest.sizes_vary)
    if check_inputs:
        _check(path, manifest.inputs, session.get_inputs(), "input")
    if check_outputs:
        _check(path, manifest.outputs, session.get_outputs(), "output")
        return OnnxBackend(session, [output.name for output in manifest.outputs])
    return OnnxBackend(session, [output.name for output in session.get_outputs()])


def _open(path: Path, content: bytes, *, sizes_vary: bool) -> _Session:
    options = _runtime.SessionOptions()
    options.intra_op_num_threads = 1 if len(content) <= _TINY_BYTES else cpu.usable()
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised; its own lines on stderr are not JSON
    options.enable_cpu_mem_arena = not sizes_vary  # it would keep for ever what the longest row needed
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return _runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own exceptions share no base class
        raise StartError(f"{path} cannot be loaded: {' '.join(str(error).split())}") from None


def _check(path: Path, described: list[Input] | list[Output], found: list[_Tensor], kind: str) -> None:
    tensors = {tensor.name: tensor for tensor in found}
    names = [tensor.name for tensor in described]
    if (kind == "input" and sorted(names) != sorted(tensors)) or not set(names) <= set(tensors):
        raise StartError(f"{path} has the {kind}s {sorted(tensors)}, model.json has {sorted(names)}")
    for tensor in described:
        actual = tensors[tensor.name]
        if actual.type != ONNX_TYPES[tensor.datatype]:
            raise StartError(f"{path}: {kind} {tensor.name!r} is {actual.type}, model.json has {tensor.datatype}")
        shape = [size if isinstance(size, int) else -1 for size in actual.shape]
        if not fits(tensor.shape, shape):
            raise StartError(f"{path}: {kind} {tensor.name!r} has shape {shape}, model.json has {tensor.shape}")
