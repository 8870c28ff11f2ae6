"""Where an ONNX model's rows are, and which free sizes it takes: found out by running it.

A file says too little: a free size may be the rows or anything else, the rows need not come first, and a declared shape
need not be the real one. So each reading of the shapes is tried, on a few rows, until one gives an answer for each row
that does not depend on the others.
"""

from __future__ import annotations

import itertools
import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import numpy as np

from server.model.manifest import DEFAULT_MAX_SIZE
from tools.model import compare, training_data
from tools.model.batching import Batching
from tools.model.converters.onnx_graph import Sizes
from tools.model.errors import ModelError, one_line
from tools.model.tensors import Tensor, Tensors, row_count
from tools.model.training_data import Table

_MIXED_SIZES = (8, 1, 64)
"""Tried for each of several free sizes, where no size is right for all of them."""
_MAX_MIXED = 3
_TRIAL_SECONDS = 60
_PROBE_SECONDS = 0.25
"""No size is doubled after a run that took so long."""
_TRIED_ROWS = 3
_MAX_READINGS = 64
_BATCH_NAME = re.compile(r"batch|^(n|b|bs|rows|samples)$", re.IGNORECASE)


@dataclass(frozen=True)
class Reading:
    """One way to read the shapes."""

    batching: Batching
    axes: dict[str, int | None]
    """The rows' axis in each input; None where it has none, so that a run has one row."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A reading under which the model runs."""

    batching: Batching
    axes: dict[str, int | None]
    """The rows' axis in each input and output."""
    inputs: list[Tensor]
    made_up: dict[str, tuple[int, ...]]
    """Row shapes for made-up rows."""
    output_rows: dict[str, tuple[int, ...]]
    """Row shapes of the outputs; -1 is any size."""
    dependence: compare.Dependence | None


class Session:
    """The model in ONNX Runtime."""

    def __init__(self, content: bytes) -> None:
        runtime: Any = import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.log_severity_level = 4
        self._session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self._names = [output.name for output in self._session.get_outputs()]

    def run(self, reading: Reading, feed: Tensors, rows: int) -> Tensors:
        """Answer the first rows in one run, as the model arranges them."""
        arranged: Tensors = {}
        for name, array in feed.items():
            axis = None if reading.batching.mode == "none" else reading.axes[name]
            moved = array[0] if axis is None else np.moveaxis(array[:rows], 0, axis)
            arranged[name] = np.asarray(moved, object) if array.dtype.kind == "U" else np.ascontiguousarray(moved)
            if moved.ndim == 0:  # ascontiguousarray gives it an axis
                arranged[name] = np.asarray(moved, arranged[name].dtype)
        try:
            answers = self._session.run(self._names, arranged)
        except Exception as error:  # ONNX Runtime's own exceptions share no base class
            raise ModelError(one_line(error)) from None
        return {name: np.asarray(answer) for name, answer in zip(self._names, answers, strict=True)}


def readings(inputs: Mapping[str, Sizes], asked: Batching) -> list[Reading]:
    """List the ways to read the shapes, the likeliest first."""
    if asked.mode == "none":
        return [Reading(asked, {})]
    found: list[Reading] = []
    firsts = {shape[0] if shape else 0 for shape in inputs.values()}
    [rows] = firsts if len(firsts) == 1 else [0]
    if isinstance(rows, int) and rows:
        if rows == 1 or any(len(shape) > 1 for shape in inputs.values()):
            found.append(Reading(Batching("fixed", rows), dict.fromkeys(inputs, 0)))
    else:
        found += _free_rows(inputs)
    if not found and any(1 in shape for shape in inputs.values()):
        axes = {name: shape.index(1) if 1 in shape else None for name, shape in inputs.items()}
        found.append(Reading(Batching("fixed", 1), axes))
    return [*found, Reading(Batching("none"), {})]


def _free_rows(inputs: Mapping[str, Sizes]) -> list[Reading]:
    """Read one free size of each input as its rows; the same symbol is the same size."""
    free: list[list[int | None]] = [
        [axis for axis, size in enumerate(shape) if isinstance(size, str)] or [None] for shape in inputs.values()
    ]
    ranked: list[tuple[bool, int, Reading]] = []
    for choice in itertools.islice(itertools.product(*free), _MAX_READINGS):
        axes = dict(zip(inputs, choice, strict=True))
        rows = {name: inputs[name][axis] for name, axis in axes.items() if axis is not None}
        if rows and not any(
            symbol in shape and rows.get(name) != symbol for symbol in rows.values() for name, shape in inputs.items()
        ):
            named = all(_BATCH_NAME.search(str(symbol)) for symbol in rows.values())
            ranked.append((not named, sum(axis or 0 for axis in choice), Reading(Batching(), axes)))
    return [reading for _, _, reading in sorted(ranked, key=lambda each: each[:2])]


@dataclass(frozen=True, kw_only=True)
class Search:
    """What is known before the model runs."""

    session: Session
    inputs: Mapping[str, Sizes]
    """Declared shapes, or those that --input gives."""
    outputs: Mapping[str, Sizes]
    tensors: list[Tensor]
    """The inputs; their row shapes follow from the reading."""
    asked: Batching
    table: Table | None

    def layout(self) -> Layout:
        """Find the first reading that gives independent rows, else the first that runs; a ModelError if none does."""
        dependent: Layout | None = None
        failure: ModelError | None = None
        for reading in readings(self.inputs, self.asked):
            if dependent and dependent.batching.mode == "dynamic" and reading.batching.mode == "none":
                break
            try:
                layout = self._try(reading)
            except ModelError as error:
                failure = failure or error
                continue
            if layout.dependence != "rows":
                return layout
            dependent = dependent or layout
        if dependent is None:
            raise failure or ModelError("the model runs in no way that is known")
        return dependent

    def _try(self, reading: Reading) -> Layout:
        shapes = {name: _row(reading, name, shape) for name, shape in self.inputs.items()}
        tensors = [
            replace(tensor, row_shape=tuple(size if isinstance(size, int) else -1 for size in shapes[tensor.name]))
            for tensor in self.tensors
        ]
        tensors = training_data.with_features(self.table, tensors)
        if self.table:
            return self._run(reading, tensors, {}, training_data.feed(self.table, tensors))
        tried: list[int] = []
        failure: ModelError | None = None
        ends = time.monotonic() + _TRIAL_SECONDS
        for sizes in _size_choices(shapes):
            made_up = {name: tuple(_size(size, sizes) for size in shape) for name, shape in shapes.items()}
            too_large = tried and sum(map(math.prod, made_up.values())) > training_data.MAX_TRIED_VALUES
            if too_large or time.monotonic() > ends:
                continue
            try:
                layout = self._run(reading, tensors, made_up, training_data.made_up(tensors, made_up, _TRIED_ROWS))
            except ModelError as error:
                failure = error
                tried += sizes.values()
                continue
            return replace(layout, inputs=self._bounded(reading, layout, shapes, sizes))
        raise self._explained(failure, tensors, list(dict.fromkeys(tried)))

    def _explained(self, failure: ModelError | None, tensors: list[Tensor], tried: list[int]) -> ModelError:
        if not tried:
            return ModelError(f"the model fails on rows of {', '.join(map(str, tensors))}: {failure}")
        example = " ".join(f"{each.name}={each.datatype}:{_example_sizes(each)}" for each in tensors)
        return ModelError(
            f"the model runs with none of the sizes {', '.join(map(str, tried))} for what is free in a row of"
            f" {', '.join(map(str, tensors))}: {failure}\n"
            f"  Say a row's sizes that it takes, --input '{example}' with numbers for SIZE, or give real rows:"
            " --data rows.npz"
        )

    def _run(
        self, reading: Reading, tensors: list[Tensor], made_up: dict[str, tuple[int, ...]], feed: Tensors
    ) -> Layout:
        session, mode = self.session, reading.batching.mode
        drawn = np.linspace(0, row_count(feed) - 1, max(_TRIED_ROWS, reading.batching.rows)).astype(int)
        some = {name: array[drawn] for name, array in feed.items()}
        if mode == "none":
            answers = session.run(reading, some, 1)
            shapes = {name: self._output_shape(name, answers[name].shape) for name in answers}
            return _layout(reading, tensors, made_up, {}, shapes, None)
        rows = reading.batching.rows or _TRIED_ROWS
        answers = session.run(reading, some, rows)
        if mode == "dynamic":
            fewer = session.run(reading, some, rows - 1)
            axes = {name: _grown(fewer[name].shape, array.shape, rows) for name, array in answers.items()}
            answers = fewer if None in {*reading.axes.values(), *axes.values()} else answers
        elif rows == 1:
            axes = {name: array.shape.index(1) if 1 in array.shape else None for name, array in answers.items()}
        else:
            axes = {name: 0 if array.shape[:1] == (rows,) else None for name, array in answers.items()}
        if rows > 1 and set(axes.values()) == {None}:
            raise ModelError(_without_rows(answers, rows))
        if None in reading.axes.values() or None in axes.values():
            if mode == "fixed" and rows > 1:
                raise ModelError(_without_rows(answers, rows))
            reading = Reading(Batching("fixed", 1), reading.axes)
            answers = session.run(reading, some, 1)
        row_shapes = {name: self._output_shape(name, array.shape, axes[name]) for name, array in answers.items()}
        return _layout(reading, tensors, made_up, axes, row_shapes, self._dependence(reading, axes, some))

    def _dependence(self, reading: Reading, axes: Mapping[str, int | None], feed: Tensors) -> compare.Dependence | None:
        if reading.batching.rows == 1:
            return None

        def run(rows: Tensors) -> Tensors:
            answers = self.session.run(reading, rows, row_count(rows))
            return {name: np.moveaxis(array, axes[name] or 0, 0) for name, array in answers.items()}

        return compare.dependence(run, feed, reading.batching.rows or _TRIED_ROWS)

    def _output_shape(self, name: str, found: tuple[int, ...], axis: int | None = None) -> tuple[int, ...]:
        """A row's shape as declared, where the answer has it; where it has another, as in the answer."""
        declared = self.outputs[name]
        if len(declared) == len(found):
            shape = [wanted if wanted == size else -1 for wanted, size in zip(declared, found, strict=True)]
        else:
            free = any(-1 in tensor.row_shape for tensor in self.tensors)
            shape = [-1 if free else size for size in found]
        if axis is not None:
            del shape[axis]
        return tuple(size if isinstance(size, int) else -1 for size in shape)

    def _bounded(
        self, reading: Reading, layout: Layout, shapes: Mapping[str, Sizes], sizes: Mapping[str, int]
    ) -> list[Tensor]:
        """Find the largest free size, where that is below the default maximum: all are raised together.

        Not with a number beside them, such as a sampling rate, which may decide what sizes run: it is made up here.
        """
        if not sizes or len(set(sizes.values())) > 1 or any(not tensor.row_shape for tensor in layout.inputs):
            return layout.inputs

        def runs(size: int) -> bool | None:
            """Run one row; None where that is too large to try."""
            made_up = {
                name: tuple(_size(each, dict.fromkeys(sizes, size)) for each in shape) for name, shape in shapes.items()
            }
            if sum(map(math.prod, made_up.values())) > training_data.MAX_TRIED_VALUES:
                return None
            start = time.monotonic()
            try:
                self.session.run(reading, training_data.made_up(layout.inputs, made_up, 1), 1)
            except ModelError:
                return False
            return True if time.monotonic() - start < _PROBE_SECONDS else None

        largest, failing = next(iter(sizes.values())), 0
        if reading.batching.rows > 1:
            return layout.inputs
        while largest < DEFAULT_MAX_SIZE and not failing:
            taken = runs(min(largest * 2, DEFAULT_MAX_SIZE))
            if taken is None:
                return layout.inputs
            if taken:
                largest = min(largest * 2, DEFAULT_MAX_SIZE)
            else:
                failing = min(largest * 2, DEFAULT_MAX_SIZE)
        while failing - largest > 1:
            middle = (largest + failing) // 2
            if runs(middle):
                largest = middle
            else:
                failing = middle
        if not failing:
            return layout.inputs
        return [replace(tensor, max_size=largest if -1 in tensor.row_shape else None) for tensor in layout.inputs]


def _example_sizes(tensor: Tensor) -> str:
    return "x".join("SIZE" if size == -1 else str(size) for size in tensor.row_shape)


def _layout(
    reading: Reading,
    tensors: list[Tensor],
    made_up: dict[str, tuple[int, ...]],
    axes: dict[str, int | None],
    output_rows: dict[str, tuple[int, ...]],
    dependence: compare.Dependence | None,
) -> Layout:
    return Layout(
        batching=reading.batching,
        axes=reading.axes | axes,
        inputs=tensors,
        made_up=made_up,
        output_rows=output_rows,
        dependence=dependence,
    )


def _row(reading: Reading, name: str, shape: Sizes) -> Sizes:
    axis = None if reading.batching.mode == "none" else reading.axes[name]
    return shape if axis is None else (*shape[:axis], *shape[axis + 1 :])


def _grown(fewer: tuple[int, ...], more: tuple[int, ...], rows: int) -> int | None:
    """The first axis that has as many values as the run had rows, in both runs."""
    if len(fewer) != len(more):
        return None
    pairs = enumerate(zip(fewer, more, strict=True))
    return next((axis for axis, sizes in pairs if sizes == (rows - 1, rows)), None)


def _without_rows(answers: Tensors, rows: int) -> str:
    shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in answers.items())
    return (
        f"the outputs have no answer a row: {shapes} for {rows} rows; if the model takes one row a run without a batch,"
        " --batch none"
    )


def _size_choices(shapes: Mapping[str, Sizes]) -> Iterator[dict[str, int]]:
    """Sizes to try for each symbol: the same for all, then mixed ones."""
    symbols = list(
        dict.fromkeys(
            part for shape in shapes.values() for size in shape if isinstance(size, str) for part in _parts(size)
        )
    )
    symbols = [symbol for symbol in symbols if not symbol.isdecimal()]
    if not symbols:
        yield {}
        return
    for size in training_data.TRIED_SIZES:
        yield dict.fromkeys(symbols, size)
    if 1 < len(symbols) <= _MAX_MIXED:
        for mixed in itertools.product(_MIXED_SIZES, repeat=len(symbols)):
            if len(set(mixed)) > 1:
                yield dict(zip(symbols, mixed, strict=True))


def _parts(symbol: str) -> list[str]:
    """The terms of a sum, such as `past_length + length`, which exporters of language models write."""
    return [part.strip() for part in symbol.split("+")]


def _size(size: int | str, sizes: Mapping[str, int]) -> int:
    if isinstance(size, int):
        return size
    return sum(int(part) if part.isdecimal() else sizes[part] for part in _parts(size))
