"""The converted model in ONNX Runtime: its outputs, and its answers to any number of rows."""

from __future__ import annotations

import os
from typing import Any, cast

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before the import, as in the server

import numpy as np
import onnxruntime  # pyright: ignore[reportMissingTypeStubs]  # it ships none

from server.model.datatypes import ONNX_TYPES
from tools.model.batching import run_in_batches
from tools.model.conversion import Conversion
from tools.model.errors import ModelError, explained
from tools.model.tensors import Array, Tensor, Tensors, row_count

_DATATYPES: dict[str, str] = {onnx_type: datatype for datatype, onnx_type in ONNX_TYPES.items()}
_CHUNK_ROWS = 256
_runtime = cast(Any, onnxruntime)


class OnnxSession:
    """The converted model, ready to run."""

    def __init__(self, conversion: Conversion) -> None:
        options = _runtime.SessionOptions()
        options.log_severity_level = 4
        with explained("ONNX Runtime cannot load the model"):
            self._session = _runtime.InferenceSession(conversion.model, options, providers=["CPUExecutionProvider"])
        self._batching = conversion.batching
        self._names = [output.name for output in self._session.get_outputs()]

    def run(self, feed: Tensors) -> Tensors:
        """Answer all rows."""
        return run_in_batches(self._run, feed, row_count(feed), self._batching, _CHUNK_ROWS)

    def _run(self, feed: Tensors, rows: range) -> Tensors:
        with explained(f"the model fails on rows {rows.start + 1} to {rows.stop}"):
            outputs = self._session.run(self._names, {name: _native(array) for name, array in feed.items()})
        return {name: np.asarray(output) for name, output in zip(self._names, outputs, strict=True)}

    def outputs(self, answers: Tensors) -> list[Tensor]:
        """Describe what the model gives; sizes that its file leaves open stay open, even if all alike in `answers`."""
        tensors: list[Tensor] = []
        for output in self._session.get_outputs():
            if output.type not in _DATATYPES:
                raise ModelError(f"output {output.name} is {output.type}, and the server answers with tensors only")
            shape = tuple(size if isinstance(size, int) else -1 for size in output.shape)
            row_shape = self._batching.row_shape(shape)
            if len(row_shape) != answers[output.name].ndim - 1:
                raise ModelError(
                    f"output {output.name} has shape {list(shape)} in its file, but {answers[output.name].shape}"
                )
            tensors.append(Tensor(name=output.name, datatype=_DATATYPES[output.type], row_shape=row_shape))
        return tensors


def _native(array: Array) -> Array:
    """Convert strings to objects, which is how ONNX Runtime takes them."""
    return np.asarray(array, dtype=object) if array.dtype.kind == "U" else np.ascontiguousarray(array)
