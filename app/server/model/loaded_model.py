"""The model: loaded, checked against its manifest, run on any number of rows."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..errors import Problem
from .hooks import Hooks, load_hooks
from .inputs import Inputs, PlainRow, stack
from .manifest import Manifest, read_manifest
from .pixels import PixelReader
from .tensors import Array, Tensors, fits

if TYPE_CHECKING:
    from .python_backend import PythonBackend

MAX_RUN_ROWS = 1024
MAX_RUN_COST = 2**22
"""Largest cost of a batch's rows together, see Model.row_cost: some tens of bytes for each fit the default 512 MiB."""
_CHARACTER_COST = 4
_MIN_CHARACTERS = 64
"""A shorter text counts as much, because the example's, by which runs are timed, may be empty."""


class Backend(Protocol):
    """A model as its framework runs it: tensors in, tensors out, rows as its file says."""

    def run(self, inputs: Tensors) -> Tensors:
        """One run. Raises a Problem when the model fails on these inputs."""
        ...


class Model:
    """A loaded model, with what its folder says about it. It is an Engine for the Batcher."""

    def __init__(
        self, manifest: Manifest, backend: Backend, hooks: Hooks | None, author: PythonBackend | None = None
    ) -> None:
        """`author` is the backend where that is the author's code, which checks its own answers."""
        self.manifest = manifest
        self._backend = backend
        self._hooks = hooks
        self._author = author
        unchecked = author or (hooks and hooks.postprocesses)
        self._row_shapes = {} if unchecked else {each.name: manifest.row_shape(each) for each in manifest.outputs}
        self._pixels = {
            tensor.name: PixelReader(tensor, manifest.row_shape(tensor)) for tensor in manifest.inputs if tensor.image
        }
        self._fixed_rows = manifest.fixed_rows
        self.prepares = bool(self._pixels) or bool(author and author.converts)
        self.may_run_inline = author is None and not self.prepares
        """Whether a short run may hold up the event loop: nobody knows what the author's code may wait for."""
        pixels = sum(math.prod(manifest.row_shape(tensor)) for tensor in manifest.inputs if tensor.image)
        self._max_decoded_rows = max(self._fixed_rows or 1, MAX_RUN_COST // pixels) if pixels else sys.maxsize
        self.sizes_vary = manifest.sizes_vary
        self.max_rows = 1 if manifest.batching == "none" else self._fixed_rows or MAX_RUN_ROWS
        """Rows of one run of the backend, at most."""

    def row_cost(self, inputs: Tensors) -> int:
        """Tell what the largest row holds: its values, or more where it has a long axis of free size.

        Such an axis counts squared, because attention compares each of its positions with each; a text counts by the
        longest one, to which the others are padded.
        """
        values = longest = 0
        for tensor in self.manifest.inputs:
            array, row_shape = inputs[tensor.name], self.manifest.row_shape(tensor)
            width = math.prod(row_shape if tensor.image else array.shape[1:])
            if array.dtype == object and not tensor.image:
                width *= _CHARACTER_COST * max([_MIN_CHARACTERS, *map(len, array.flat)])
            values += width
            sizes = zip(array.shape[1:], row_shape, strict=False)  # a picture is not decoded yet
            longest = max([longest, *(size for size, wanted in sizes if wanted == -1)])
        return max(values, longest**2)

    def prepare(self, inputs: Inputs) -> Inputs:
        """Decode one request's pictures to pixels, unless they are so many that `run` does, and JSON to code's types."""
        if isinstance(inputs, PlainRow):
            return inputs
        if self._author and self._author.converts:
            inputs = self._author.convert(inputs)
        if _rows(inputs) > self._max_decoded_rows:
            return inputs
        return self._decode(inputs, 0)

    def _decode(self, inputs: Tensors, first: int) -> Tensors:
        """Decode the pictures of some of a request's rows, from number `first` on."""
        decoded = dict(inputs)
        for name, reader in self._pixels.items():
            if inputs[name].dtype == object:
                decoded[name] = np.stack([reader.read(picture, row) for row, picture in enumerate(inputs[name], first)])
        return decoded

    def join(self, inputs: list[Inputs]) -> Tensors:
        """Concatenate the rows of several requests, in order."""
        tensors: list[Tensors] = []
        plain: list[list[Any]] = []
        for each in inputs:
            if isinstance(each, dict):
                if plain:
                    tensors.append(stack(plain, self.manifest.inputs[0]))
                    plain = []
                tensors.append(each)
            else:
                plain.append(each.values)
        if plain:
            tensors.append(stack(plain, self.manifest.inputs[0]))
        if len(tensors) == 1:
            return tensors[0]
        return {name: np.concatenate([each[name] for each in tensors]) for name in tensors[0]}

    def run(self, inputs: Tensors, max_rows: int = MAX_RUN_ROWS) -> Tensors:
        """Answer all rows, in runs of at most `max_rows`, which a fixed batch and a model without rows override."""
        rows, size = _rows(inputs), self._max_decoded_rows
        if rows > size:
            return _joined(
                np.concatenate,
                [self.run(self._decode(_part(inputs, first, size), first), max_rows) for first in range(0, rows, size)],
            )
        if self._hooks:
            inputs = self._hooks.preprocess(inputs, rows)
        outputs = self._run_rows(inputs, rows, max_rows)
        for name, array in outputs.items():
            if array.shape != (rows, *self._row_shapes.get(name, array.shape[1:])):
                self._check_output(name, array, rows)
        return self._hooks.postprocess(outputs, rows) if self._hooks else outputs

    @property
    def streams(self) -> bool:
        """Whether `stream` can be asked."""
        return self.manifest.predictor is not None and self.manifest.predictor.streams

    def stream(self, inputs: Inputs) -> Iterator[Any]:
        """Yield the answer to one row piece by piece, each as JSON has it; closing it ends the author's generator.

        Every step may take long, and raises a Problem where the row is refused or the code fails.
        """
        if self._author is None:
            raise Problem(406, "no_stream", "the model does not stream")
        yield from self._author.stream(self.join([self.prepare(inputs)]))

    def _check_output(self, name: str, array: Array, rows: int) -> None:
        wanted = [rows, *self._row_shapes.get(name, array.shape[1:])]
        shape = list(array.shape)
        if not fits(shape, wanted):
            message = f"the model's output {name!r} has the shape {shape} for {rows} rows, not {wanted}"
            raise Problem(500, "model_failed", message)

    def _run_rows(self, inputs: Tensors, rows: int, max_rows: int) -> Tensors:
        if self.manifest.batching == "none":
            each = ({name: array[row, ...] for name, array in inputs.items()} for row in range(rows))
            return _joined(np.stack, [self._backend.run(row) for row in each])
        size = self._fixed_rows or max_rows
        if rows <= size and not self._fixed_rows:
            return self._backend.run(inputs)
        runs = [self._run_part(inputs, first, min(size, rows - first)) for first in range(0, rows, size)]
        return runs[0] if len(runs) == 1 else _joined(np.concatenate, runs)

    def _run_part(self, inputs: Tensors, first: int, rows: int) -> Tensors:
        """Run `rows` rows from `first` on; copies of the last one fill up a fixed batch."""
        lacking = (self._fixed_rows or rows) - rows
        part = _part(inputs, first, rows)
        if not lacking:
            return self._backend.run(part)
        filled = {name: np.concatenate([array, array[-1:].repeat(lacking, axis=0)]) for name, array in part.items()}
        return {name: array[:rows] for name, array in self._backend.run(filled).items()}


def _rows(tensors: Tensors) -> int:
    return len(next(iter(tensors.values())))


def _part(tensors: Tensors, first: int, rows: int) -> Tensors:
    return {name: array[first : first + rows] for name, array in tensors.items()}


def _joined(join: Callable[[list[Array]], Array], runs: list[Tensors]) -> Tensors:
    try:
        return {name: join([run[name] for run in runs]) for name in runs[0]}
    except ValueError:
        message = "the model's answers to these rows differ in shape: send the rows one by one"
        raise Problem(422, "ragged_output", message) from None


def load_model(folder: Path) -> Model:
    """Read the model folder; a StartError says what is missing, broken or does not fit together."""
    manifest = read_manifest(folder / "model.json")
    if manifest.format == "python":
        from . import python_backend

        author = python_backend.open_model(folder, manifest)
        return Model(manifest, author, None, author)
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
