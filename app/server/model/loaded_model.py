"""The model: load it, check it against its manifest, run it on any number of rows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..errors import Problem, StartError
from ..protocol.images import ImageReader
from ..protocol.predict_json import Decoder, Encoder
from .hooks import Hooks, load_hooks
from .manifest import Manifest, read_manifest
from .tensors import DTYPES, Array, Inputs, Tensors, fits

_INLINE_SECONDS = 0.0005
_MOST_INLINE_ROWS = 256
_MOST_ROWS = 1024
_LONGEST_RUN_SECONDS = 0.1
"""Of a batch that is gathered: who comes next must not wait longer for the sake of throughput."""
_NEARLY = 1.05
"""A larger batch may take so much more time a row, because it saves what a run costs besides."""
_SEARCH_SECONDS = 0.3
"""For measuring, at the start."""


def _read(reader: ImageReader, row: int, picture: bytes) -> Array:
    try:
        return reader.read(picture)
    except Problem as problem:
        problem.row = row
        raise


class Backend(Protocol):
    """A model as its framework runs it: tensors in, tensors out, rows as its file says."""

    def run(self, inputs: Tensors) -> Tensors:
        """One run. Raises a Problem when the model fails on these inputs."""
        ...


class Model:
    """A loaded model, with what its folder says about it. It is an Engine for the Batcher."""

    def __init__(self, manifest: Manifest, backend: Backend, hooks: Hooks | None) -> None:
        self.manifest = manifest
        self._backend = backend
        self._hooks = hooks
        self._encoder = Encoder(manifest)
        self._row_shapes = (
            {} if hooks and hooks.postprocesses else {each.name: manifest.row_shape(each) for each in manifest.outputs}
        )
        self._images = {
            tensor.name: ImageReader(tensor, manifest.row_shape(tensor)) for tensor in manifest.inputs if tensor.image
        }
        self.prepares = bool(self._images)
        self.best_rows = 1 if manifest.batching == "none" else manifest.fixed_rows or _MOST_ROWS
        self.inline_rows = 0
        self.seconds_per_row = 0.0

    @property
    def shapes_vary(self) -> bool:
        """Whether two requests may have rows of different shapes."""
        return any(-1 in self.manifest.row_shape(tensor) for tensor in self.manifest.inputs)

    def prepare(self, inputs: Inputs) -> Inputs:
        """Pictures become rows of pixels; all else stays as it is."""
        if isinstance(inputs, list):
            return inputs
        prepared = dict(inputs)
        for name, reader in self._images.items():
            if inputs[name].dtype == object:
                prepared[name] = np.stack([_read(reader, row, picture) for row, picture in enumerate(inputs[name])])
        return prepared

    def join(self, inputs: list[Inputs]) -> Tensors:
        """The rows of several requests, one after the other."""
        tensors: list[Tensors] = []
        rows: list[list[Any]] = []
        for each in inputs:
            if isinstance(each, list):
                rows.append(each)
                continue
            if rows:
                tensors.append(self._tensor(rows))
                rows = []
            tensors.append(each)
        if rows:
            tensors.append(self._tensor(rows))
        if len(tensors) == 1:
            return tensors[0]
        return {name: np.concatenate([each[name] for each in tensors]) for name in tensors[0]}

    def _tensor(self, rows: list[list[Any]]) -> Tensors:
        tensor = self.manifest.inputs[0]
        return {tensor.name: np.array(rows, dtype=DTYPES[tensor.datatype])}

    def run(self, inputs: Tensors) -> Tensors:
        """What is answered to these rows."""
        rows = len(next(iter(inputs.values())))
        if self._hooks:
            inputs = self._hooks.preprocess(inputs, rows)
        outputs = self._run_rows(inputs, rows)
        for name, array in outputs.items():
            if array.shape != (rows, *self._row_shapes.get(name, array.shape[1:])):
                self._check_output(name, array, rows)
        return self._hooks.postprocess(outputs, rows) if self._hooks else outputs

    def values(self, outputs: Tensors) -> list[Any]:
        """One JSON value a row, or the Problem that stands in its place."""
        return self._encoder.rows(outputs)

    def _check_output(self, name: str, array: Array, rows: int) -> None:
        wanted = [rows, *self._row_shapes.get(name, array.shape[1:])]
        shape = list(array.shape)
        if not fits(shape, wanted):
            message = f"the model's output {name!r} has the shape {shape} for {rows} rows, not {wanted}"
            raise Problem(500, "model_failed", message)

    def _run_rows(self, inputs: Tensors, rows: int) -> Tensors:
        if self.manifest.batching == "none":
            each = ({name: array[row, ...] for name, array in inputs.items()} for row in range(rows))
            return _joined(np.stack, [self._backend.run(row) for row in each])
        size = self.manifest.fixed_rows or max(self.best_rows, 1)
        if rows <= size and not self.manifest.fixed_rows:
            return self._backend.run(inputs)
        runs = [self._run_part(inputs, first, min(size, rows - first)) for first in range(0, rows, size)]
        return runs[0] if len(runs) == 1 else _joined(np.concatenate, runs)

    def _run_part(self, inputs: Tensors, first: int, rows: int) -> Tensors:
        """Rows from `first` on; for a model of a fixed size the last row fills up what lacks."""
        lacking = (self.manifest.fixed_rows or rows) - rows
        part = {name: array[first : first + rows] for name, array in inputs.items()}
        if not lacking:
            return self._backend.run(part)
        filled = {name: np.concatenate([array, array[-1:].repeat(lacking, axis=0)]) for name, array in part.items()}
        return {name: array[:rows] for name, array in self._backend.run(filled).items()}

    def warm_up(self) -> None:
        """Run the manifest's example, and learn from it how many rows are best run at once, and how many inline."""
        row = self._run_example()
        search_ends = time.perf_counter() + _SEARCH_SECONDS
        most, size = self.best_rows, self.manifest.fixed_rows or 1
        seconds: dict[int, float] = {}
        while size <= most:
            self.best_rows = size
            seconds[size] = latest = self._seconds(row, size)
            if latest * 2 > _LONGEST_RUN_SECONDS or time.perf_counter() + latest * 4 > search_ends:
                break
            size *= 2
        for size, before in seconds.items():  # once more, in case another process has been in the way
            if time.perf_counter() + before < search_ends:
                seconds[size] = min(before, self._seconds(row, size))
        inline = [rows for rows, taken in seconds.items() if taken <= _INLINE_SECONDS and rows <= _MOST_INLINE_ROWS]
        self.inline_rows = 0 if self.prepares else max(inline, default=0)
        per_row = {rows: taken / rows for rows, taken in seconds.items()}
        fastest = min(per_row.values())
        self.best_rows = max(rows for rows, taken in per_row.items() if taken <= fastest * _NEARLY)
        self.seconds_per_row = per_row[self.best_rows]

    def _run_example(self) -> Tensors:
        """The example's first row, after it has been answered."""
        try:
            rows = Decoder(self.manifest, max_rows=2**31).decode(bytes(self.manifest.example))
            inputs = self.join([self.prepare(rows.tensors)])
            answers = self.values(self.run(inputs))
        except Problem as problem:
            where = f" (at {problem.path})" if problem.path else ""
            raise StartError(f"the model cannot answer its own example: {problem.message}{where}") from None
        for answer in answers:
            if isinstance(answer, Problem):
                raise StartError(f"the model cannot answer its own example: {answer.message}")
        return {name: array[:1] for name, array in inputs.items()}

    def _seconds(self, row: Tensors, size: int) -> float:
        """Of a run of `size` rows, all like this one: the fastest of a few."""
        rows = {name: array.repeat(size, axis=0) for name, array in row.items()}
        fastest = math.inf
        start = end = time.perf_counter()
        for _ in range(20):
            try:
                self.run(rows)
            except Problem as problem:
                message = f"the model cannot run {size} rows at once, as its batching says: {problem.message}"
                raise StartError(message) from None
            begun, end = end, time.perf_counter()
            fastest = min(fastest, end - begun)
            if end - start > 20 * _INLINE_SECONDS:
                break
        return fastest


def _joined(join: Callable[[list[Array]], Array], runs: list[Tensors]) -> Tensors:
    try:
        return {name: join([run[name] for run in runs]) for name in runs[0]}
    except ValueError:
        message = "the model's answers to these rows differ in shape: send the rows one by one"
        raise Problem(422, "ragged_output", message) from None


def load_model(folder: Path) -> Model:
    """Read the model folder; a StartError says what is missing, broken or does not fit together."""
    manifest = read_manifest(folder / "model.json")
    hooks = load_hooks(folder, manifest)
    if manifest.format == "pt2":
        from . import torch_backend as backend
    else:
        from . import onnx_backend as backend
    opened = backend.open_model(
        folder,
        manifest,
        check_inputs=hooks is None or not hooks.preprocesses,
        check_outputs=hooks is None or not hooks.postprocesses,
    )
    return Model(manifest, opened, hooks)
