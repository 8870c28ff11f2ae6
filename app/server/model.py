"""The model: load it, check it against its manifest, run it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Protocol, cast

# ONNX Runtime's official builds report models and machine to their maker, unless told not to before the import: then
# they write no identifier and send nothing [microsoft/onnxruntime#27379].
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime  # pyright: ignore[reportMissingTypeStubs] - it ships none

from . import cpu
from .codec import Array, Decoder, Encoder
from .manifest import Input, Manifest, Output, read_manifest
from .onnx_file import has_external_data
from .problem import Problem, StartError

_TINY_BYTES = 2**20
"""Up to this size one thread is faster than the hand-over to several."""
_ONNX_TYPES = {
    "BOOL": "tensor(bool)",
    "INT32": "tensor(int32)",
    "INT64": "tensor(int64)",
    "FP32": "tensor(float)",
    "FP64": "tensor(double)",
    "BYTES": "tensor(string)",
}
_WARM_UP_RUNS = 20
_INLINE_SECONDS = 0.0005
_MOST_INLINE_ROWS = 256


class _Tensor(Protocol):
    name: str
    type: str
    shape: list[int | str | None]


class _Session(Protocol):
    def get_inputs(self) -> list[_Tensor]: ...
    def get_outputs(self) -> list[_Tensor]: ...
    def run(self, output_names: list[str], input_feed: dict[str, Array]) -> list[Array]: ...


class _SessionOptions(Protocol):
    intra_op_num_threads: int
    inter_op_num_threads: int
    log_severity_level: int

    def add_session_config_entry(self, key: str, value: str) -> None: ...


class _Runtime(Protocol):
    """The part of onnxruntime, which has no types, that is used here."""

    def SessionOptions(self) -> _SessionOptions: ...  # noqa: N802
    def InferenceSession(  # noqa: N802
        self, content: bytes, options: _SessionOptions, /, *, providers: list[str]
    ) -> _Session: ...


_runtime = cast(_Runtime, onnxruntime)


class Model:
    """A loaded model. `predict` may be called from one thread at a time."""

    def __init__(self, manifest: Manifest, session: _Session) -> None:
        self.manifest = manifest
        self._session = session
        self._input = manifest.inputs[0].name
        self._outputs = [output.name for output in manifest.outputs]
        self._encoder = Encoder(manifest.outputs)

    def predict(self, rows: Array) -> list[Any]:
        """One value a row (a Problem where the model has no answer); a Problem is raised when the run itself fails."""
        try:
            arrays = self._session.run(self._outputs, {self._input: rows})
        except Exception as error:  # ONNX Runtime's own exceptions share no base class
            raise Problem(422, "model_failed", f"the model failed on this input: {error}") from error
        return self._encoder.rows(arrays)

    def warm_up(self) -> int:
        """Run the manifest's example; return how many rows the model can do on the event loop without holding it up.

        0: it is too slow for that even with one row.
        """
        try:
            rows = Decoder(self.manifest.inputs[0], max_rows=2**31).decode(bytes(self.manifest.example)).values
            answers = self.predict(rows)
        except Problem as problem:
            raise StartError(f"the model cannot answer its own example: {problem.message}") from None
        for answer in answers:
            if isinstance(answer, Problem):
                raise StartError(f"the model cannot answer its own example: {answer.message}")
        row, inline = rows[:1], 0
        while (size := max(1, inline * 4)) <= _MOST_INLINE_ROWS and self._seconds(row, size) <= _INLINE_SECONDS:
            inline = size
        return inline

    def _seconds(self, row: Array, size: int) -> float:
        rows = row.repeat(size, axis=0)
        fastest = float("inf")
        for _ in range(_WARM_UP_RUNS):
            start = time.perf_counter()
            self.predict(rows)
            fastest = min(fastest, time.perf_counter() - start)
            if fastest > 20 * _INLINE_SECONDS:
                break
        return fastest


def load_model(folder: Path) -> Model:
    """Read model.json and model.onnx; a StartError says what is missing, broken or does not fit together."""
    manifest = read_manifest(folder / "model.json")
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
    session = _open(path, content)
    _check(path, manifest.inputs, session.get_inputs(), "input")
    _check(path, manifest.outputs, session.get_outputs(), "output")
    return Model(manifest, session)


def _open(path: Path, content: bytes) -> _Session:
    options = _runtime.SessionOptions()
    options.intra_op_num_threads = 1 if len(content) <= _TINY_BYTES else cpu.usable()
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised; its own lines on stderr are not JSON
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
        if actual.type != _ONNX_TYPES[tensor.datatype]:
            raise StartError(f"{path}: {kind} {tensor.name!r} is {actual.type}, model.json has {tensor.datatype}")
        shape = [size if isinstance(size, int) else -1 for size in actual.shape]
        fits = len(shape) == len(tensor.shape) and all(
            size in (-1, wanted) for size, wanted in zip(shape[1:], tensor.shape[1:], strict=True)
        )
        if not fits or shape[0] != -1:
            raise StartError(f"{path}: {kind} {tensor.name!r} has shape {shape}, model.json has {tensor.shape}")
