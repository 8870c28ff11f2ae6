"""ONNX Runtime as the server uses it: the converted model's outputs, and what they say about rows."""

from __future__ import annotations

import os
from typing import Any, cast

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before the import, as in the server

import numpy as np
import onnxruntime  # pyright: ignore[reportMissingTypeStubs] - it ships none

from server.model.datatypes import ONNX_TYPES
from tools.model.converted import Converted
from tools.model.problem import ModelError
from tools.model.tensors import Tensor, Tensors

_DATATYPES = {onnx: datatype for datatype, onnx in ONNX_TYPES.items()}
_CHUNK = 256
_runtime = cast(Any, onnxruntime)


class Session:
    """The converted model, ready to run."""

    def __init__(self, converted: Converted) -> None:
        options = _runtime.SessionOptions()
        options.log_severity_level = 4
        try:
            self._session = _runtime.InferenceSession(converted.model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's own exceptions share no base class
            raise ModelError(f"ONNX Runtime cannot load the model: {' '.join(str(error).split())[:600]}") from None
        self._batching = converted.batching
        self._batch_rows = converted.batch_rows
        self._names = [output.name for output in self._session.get_outputs()]

    def run(self, feed: Tensors) -> Tensors:
        """The outputs of all rows."""
        rows = len(next(iter(feed.values())))
        size = {"dynamic": _CHUNK, "fixed": self._batch_rows, "none": 1}[self._batching]
        chunks = [self._chunk(feed, start, min(start + size, rows)) for start in range(0, rows, size)]
        return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in self._names}

    def _chunk(self, feed: Tensors, start: int, end: int) -> Tensors:
        indices = np.arange(start, start + self._batch_rows if self._batching == "fixed" else end)
        indices = np.minimum(indices, end - 1)
        arguments = {
            name: _plain(array[start] if self._batching == "none" else array[indices]) for name, array in feed.items()
        }
        try:
            answers = [np.asarray(answer) for answer in self._session.run(self._names, arguments)]
        except Exception as error:  # as above
            raise ModelError(
                f"the model fails on rows {start + 1} to {end}: {' '.join(str(error).split())[:600]}"
            ) from None
        if self._batching == "none":
            return {name: answer[np.newaxis] for name, answer in zip(self._names, answers, strict=True)}
        for name, answer in zip(self._names, answers, strict=True):
            if answer.shape[:1] != (len(indices),):
                raise ModelError(
                    f"output {name} has shape {list(answer.shape)} for {len(indices)} rows, not an answer a row"
                )
        return {name: answer[: end - start] for name, answer in zip(self._names, answers, strict=True)}

    def outputs(self, answers: Tensors) -> list[Tensor]:
        """What the model gives; sizes that its file leaves open and that are all alike in `answers` stay open."""
        tensors: list[Tensor] = []
        for output in self._session.get_outputs():
            if output.type not in _DATATYPES:
                raise ModelError(f"output {output.name} is {output.type}, and the server answers with tensors only")
            shape = [size if isinstance(size, int) else -1 for size in output.shape]
            row = shape if self._batching == "none" else shape[1:]
            if len(row) != answers[output.name].ndim - 1:
                raise ModelError(
                    f"output {output.name} has shape {shape} in its file, but {answers[output.name].shape}"
                )
            tensors.append(Tensor(name=output.name, datatype=_DATATYPES[output.type], row=tuple(row)))
        return tensors


def _plain(array: Any) -> Any:
    """Strings as objects, which is how ONNX Runtime takes them."""
    return np.asarray(array, dtype=object) if array.dtype.kind == "U" else np.ascontiguousarray(array)
