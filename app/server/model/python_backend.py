"""The author's predictor.py: load it, check it against the manifest, call it."""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

from .. import log
from ..errors import Problem, StartError
from . import cpu
from .author_code import load_predictor, raised_by_author, start_error
from .manifest import Input, Manifest, PredictorCode
from .signature import (
    AnswerError,
    InputError,
    Signature,
    SignatureError,
    Slot,
    builtins,
    collect,
    read_signature,
    to_tensor,
)
from .tensors import Tensors

T = TypeVar("T")


class _Rejected(Exception):  # noqa: N818  # an answer to a client
    """The author's code refuses a row."""

    def __init__(self, message: str, row: int | None = None) -> None:
        super().__init__(message)
        self.row = row


class PythonBackend:
    """Predictor, ready to be called."""

    def __init__(self, folder: Path, manifest: Manifest, signature: Signature, entry: Any) -> None:
        """`entry` is the function, or an instance of the class."""
        self._folder = folder
        self._signature = signature
        self._predict: Callable[..., Any] = getattr(entry, signature.method) if signature.method else entry
        self._stream: Callable[..., Any] | None = None
        if signature.stream_method is not None:
            self._stream = getattr(entry, signature.stream_method) if signature.stream_method else entry
        self._outputs = [(each.name, each.datatype, manifest.row_shape(each)) for each in manifest.outputs]
        self.converts = signature.converts
        """Whether `convert` does anything."""

    def convert(self, inputs: Tensors) -> Tensors:
        """Turn one request's decoded JSON into the parameters' types; a Problem names the row and the field at fault."""
        try:
            return self._signature.convert(inputs)
        except InputError as error:
            raise _refused(error) from None

    def run(self, inputs: Tensors) -> Tensors:
        """Answer all rows. Raises a Problem when the author's code refuses them, fails or answers something else."""
        rows = len(next(iter(inputs.values())))
        try:
            return self._run(inputs, rows)
        except InputError as error:
            raise _refused(error) from error
        except _Rejected as rejected:
            row = self._culprit(inputs, rows) if rejected.row is None else rejected.row
            raise Problem(422, "rejected_by_predictor", str(rejected), row=row) from rejected

    def _run(self, inputs: Tensors, rows: int) -> Tensors:
        signature = self._signature
        if signature.call == "row":
            columns = self._checked(lambda: signature.split(self._answers(inputs)))
        else:
            arguments, named = signature.arguments(inputs)
            result = self._call(lambda: self._predict(*arguments, **named))
            columns = self._checked(lambda: signature.columns(result, rows))
        return self._checked(lambda: self._tensors(columns))

    def _answers(self, inputs: Tensors) -> list[Any]:
        """Call the code for each row."""
        answers: list[Any] = []
        for row, (arguments, named) in enumerate(self._signature.rows(inputs)):
            try:
                answers.append(self._call(lambda: self._answer(arguments, named)))  # noqa: B023  # called at once
            except _Rejected as rejected:
                raise _Rejected(str(rejected), row) from rejected
        return answers

    def _answer(self, arguments: list[Any], named: dict[str, Any]) -> Any:
        result = self._predict(*arguments, **named)
        return collect(list(result)) if self._signature.yields else result

    def _tensors(self, columns: dict[str, Any]) -> Tensors:
        if len(columns) == 1 and len(self._outputs) == 1:
            columns = {self._outputs[0][0]: next(iter(columns.values()))}
        lacking = [name for name, _, _ in self._outputs if name not in columns]
        if lacking:
            raise AnswerError(f"predict returned {sorted(columns)} without {', '.join(map(repr, lacking))}")
        return {name: to_tensor(name, columns[name], datatype, shape) for name, datatype, shape in self._outputs}

    def stream(self, inputs: Tensors) -> Iterator[Any]:
        """Yield the answer to the only row of `inputs` piece by piece, as JSON has it. Closing it closes the author's."""
        try:
            arguments, named = next(self._signature.rows(inputs))
        except InputError as error:
            raise _refused(error) from error
        pieces = self._next(lambda: cast(Callable[..., Any], self._stream)(*arguments, **named))
        with contextlib.closing(pieces):
            while (piece := self._next(lambda: next(pieces, _END))) is not _END:
                yield self._checked(lambda: builtins(piece))  # noqa: B023  # called at once

    def _next(self, step: Callable[[], T]) -> T:
        try:
            return self._call(step)
        except _Rejected as rejected:
            raise Problem(422, "rejected_by_predictor", str(rejected), row=0) from rejected

    def _culprit(self, inputs: Tensors, rows: int) -> int | None:
        """Find the first row that is refused alone, by halves; None when each half is taken."""
        first, end = 0, rows
        while end - first > 1:
            middle = (first + end) // 2
            if self._refuses(inputs, first, middle):
                end = middle
            elif self._refuses(inputs, middle, end):
                first = middle
            else:
                return None
        return first

    def _refuses(self, inputs: Tensors, first: int, end: int) -> bool:
        try:
            self._run({name: array[first:end] for name, array in inputs.items()}, end - first)
        except (_Rejected, InputError):
            return True
        except Problem:
            return False
        return False

    def _call(self, call: Callable[[], T]) -> T:
        """Call the author's code: a ValueError of its own is the client's, all else a failure that is logged."""
        try:
            return call()
        except MemoryError:
            raise
        except BaseException as error:  # SystemExit and KeyboardInterrupt end no server either
            if isinstance(error, ValueError) and raised_by_author(error, self._folder):
                raise _Rejected(str(error) or "the model refuses this input") from error
            log.logger.error("predictor_failed", exc_info=error)
            raise Problem(500, "model_failed", "the model's code failed; the server's log says why") from error

    def _checked(self, make: Callable[[], T]) -> T:
        try:
            return make()
        except AnswerError as error:
            log.error("predictor_failed", reason=str(error))
            raise Problem(500, "model_failed", f"the model's code is wrong: {error}") from error


_END = object()


def _refused(error: InputError) -> Problem:
    code = "wrong_type" if error.field else "rejected_by_predictor"
    return Problem(422, code, str(error), row=error.row, field=error.field, inner=error.inner)


def open_model(folder: Path, manifest: Manifest) -> PythonBackend:
    """Load predictor.py; a StartError when that fails, or its signature is not that of model.json."""
    folder = folder.resolve()
    declared = cast(PredictorCode, manifest.predictor)
    threads = str(cpu.usable())
    os.environ.setdefault("OMP_NUM_THREADS", threads)  # else libraries take the host's CPUs, whatever the container has
    module = load_predictor(folder, declared.sha256)
    path = folder / "predictor.py"
    entry = getattr(module, declared.entry, None)
    if entry is None:
        raise StartError(f"{path} does not define {declared.entry}, which model.json calls")
    try:
        signature = read_signature(entry, declared.call)
    except SignatureError as error:
        raise StartError(f"{path}: {error}") from None
    _check(path, manifest, declared, signature)
    try:
        instance = _construct(entry, folder) if isinstance(entry, type) else entry
    except BaseException as error:  # sys.exit() too is a reason not to start
        raise start_error(error, folder) from None
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(int(threads))
    return PythonBackend(folder, manifest, signature, instance)


def _construct(entry: type, folder: Path) -> Any:
    """Make the predictor, with the model folder if it wants it."""
    own = entry.__init__ is not object.__init__  # type: ignore[misc]
    return entry(folder) if own and len(inspect.signature(entry).parameters) else entry()


def _check(path: Path, manifest: Manifest, declared: PredictorCode, signature: Signature) -> None:
    """Raise a StartError where the code and model.json do not agree."""
    again = "package the model again with `make model`"
    if declared.streams != signature.streams:
        told = "streams" if declared.streams else "does not stream"
        raise StartError(f"{path}: model.json says that {declared.entry} {told}, its code does not: {again}")
    if signature.call == "tensors":
        return
    described = {tensor.name: tensor for tensor in manifest.inputs}
    slots = {slot.name: slot for slot in signature.inputs}
    if set(described) != set(slots):
        raise StartError(f"{path} takes {sorted(slots)}, model.json has the inputs {sorted(described)}: {again}")
    for name, slot in slots.items():
        if not _agrees(slot, described[name], manifest.row_shape(described[name])):
            told = f"{described[name].datatype} {manifest.row_shape(described[name])}"
            raise StartError(f"{path} takes {name!r} as {_told(slot)} a row, model.json has {told}: {again}")
    for slot in signature.outputs or []:
        found = next((each for each in manifest.outputs if each.name == slot.name), None)
        if found is None and len(signature.outputs or []) == len(manifest.outputs) == 1:
            found = manifest.outputs[0]
        if found is None or slot.datatype not in (None, found.datatype):
            names = ", ".join(f"{each.name}: {each.datatype}" for each in manifest.outputs)
            raise StartError(f"{path} answers {slot.name!r} as {slot.datatype}, model.json has {names}: {again}")


def _agrees(slot: Slot, tensor: Input, row_shape: list[int]) -> bool:
    if slot.picture and not tensor.image:
        return False
    shape = slot.row_shape
    return (
        slot.datatype in (None, tensor.datatype)
        and (tensor.nullable <= slot.nullable or slot.as_array)
        and (slot.picture or shape is None or len(shape) == len(row_shape))
        and (
            slot.picture or shape is None or all(a in (-1, b) or b == -1 for a, b in zip(shape, row_shape, strict=True))
        )
    )


def _told(slot: Slot) -> str:
    shape = "" if slot.row_shape is None else f" {slot.row_shape}"
    return f"{slot.datatype or 'an array'}{shape}"
