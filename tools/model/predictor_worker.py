"""The process that runs a model folder's own code: `python -m tools.model.predictor_worker <folder> <scratch>`.

Its Python has the server's packages and the folder's. A line of stdin is a task, `<name> <number>`; the answer is one
line, `done` or `failed`, when `<number>.npz`, `<number>.json` or `<number>.error` is in the scratch folder; other lines
before it say how far a task is. What the code itself prints goes to stderr.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
import time
import traceback
from base64 import b64decode
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from msgspec import UNSET
from PIL import Image

from server.errors import StartError
from server.model import signature
from server.model.author_code import digests, load_predictor
from server.model.loaded_model import load_model
from server.predictor import warm_up
from tools.model import npz
from tools.model.tensors import Array, Tensors, row_count

PICTURE = "$picture"
"""The only member of what stands for a picture in a feed: the file in base64."""

_INSTALLED_AS = {
    "PIL": "pillow",
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python-headless",
    "dateutil": "python-dateutil",
    "faiss": "faiss-cpu",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "PyYAML",
}
"""Packages whose name in the index is not the one to import."""
_TIMED_SECONDS = 1.0
_CHUNK_ROWS = 256

Task: TypeAlias = Callable[[Path], None]
"""Does something with `<scratch>/<number>`, to which it adds the suffix of what it reads or writes."""


class _Code:
    """What predictor.py defines, ready to be called."""

    def __init__(self, folder: Path) -> None:
        self.module = load_predictor(folder, digests(folder))
        self.entry = signature.find_entry(self.module)
        made = getattr(self.module, self.entry)
        self.signature = signature.read_signature(made)
        if isinstance(made, type):
            made = made(folder) if inspect.signature(made).parameters else made()
            made = getattr(made, self.signature.method)
        self._call: Callable[..., Any] = made
        self.outputs: list[signature.Slot] = []
        """As its annotations have them, else as its first answers do."""

    def columns(self, inputs: Tensors, rows: int) -> dict[str, Any]:
        """Answer all rows: for each output, an element a row."""
        inputs = self.signature.convert(inputs)
        if self.signature.call != "row":
            positional, named = self.signature.arguments(inputs)
            return self.signature.columns(self._call(*positional, **named), rows)
        answers = [self._call(*positional, **named) for positional, named in self.signature.rows(inputs)]
        return self.signature.split(
            [signature.collect(list(answer)) for answer in answers] if self.signature.yields else answers
        )

    def tensors(self, columns: dict[str, Any]) -> Tensors:
        """Convert the answers; what the annotations leave open is as it is in the first that come."""
        if not self.outputs:
            told = self.signature.outputs or [signature.Slot(name=name) for name in columns]
            self.outputs = [_completed(slot, columns[slot.name]) for slot in told]
        return {
            slot.name: signature.to_tensor(slot.name, columns[slot.name], slot.datatype or "JSON", slot.row_shape or [])
            for slot in self.outputs
        }


def _completed(slot: signature.Slot, values: Any) -> signature.Slot:
    if slot.datatype is not None and slot.row_shape is not None:
        return slot
    seen = signature.describe(slot.name, values)
    return replace(slot, datatype=slot.datatype or seen.datatype, row_shape=slot.row_shape or seen.row_shape)


class _Worker:
    """The tasks. The folder's code is loaded by the first that needs it."""

    def __init__(self, folder: Path, report: Callable[[str], None]) -> None:
        self._folder = folder
        self._report = report
        self._code: _Code | None = None

    def _loaded(self) -> _Code:
        if self._code is None:
            self._code = _Code(self._folder)
        return self._code

    def describe(self, at: Path) -> None:
        """Write how the code is called, what it takes and gives, and its constant EXAMPLE."""
        code = self._loaded()
        about = {
            "entry": code.entry,
            "call": code.signature.call,
            "streams": code.signature.streams,
            "inputs": [_members(slot) for slot in code.signature.inputs],
            "example": signature.builtins(getattr(code.module, "EXAMPLE", None)),
        }
        at.with_suffix(".json").write_text(json.dumps(about))

    def run(self, at: Path) -> None:
        """Answer the rows of `.npz`, which is replaced by the answers; describe the outputs in `.json`."""
        code, feed = self._loaded(), _read(at)
        rows, columns = row_count(feed), dict[str, list[Any]]()
        for start in range(0, rows, _CHUNK_ROWS):
            part = {name: array[start : start + _CHUNK_ROWS] for name, array in feed.items()}
            for name, column in code.columns(part, row_count(part)).items():
                columns.setdefault(name, []).extend(column)
            self._report(f"{min(start + _CHUNK_ROWS, rows)} of {rows}")
        npz.save(at.with_suffix(".npz"), {name: _strings(array) for name, array in code.tensors(columns).items()})
        at.with_suffix(".json").write_text(json.dumps([_members(slot) for slot in code.outputs]))

    def time(self, at: Path) -> None:
        """Write the seconds that the rows of `.npz` take: the best run of a second's."""
        code, feed = self._loaded(), _read(at)
        best, end = float("inf"), time.perf_counter() + _TIMED_SECONDS
        while (start := time.perf_counter()) < end:
            code.columns(feed, row_count(feed))
            best = min(best, time.perf_counter() - start)
        at.with_suffix(".json").write_text(json.dumps(best))

    def approve(self, at: Path) -> None:
        """Have the server load the folder and answer its example; write null, or why it does not."""
        reason = None
        try:
            warm_up(load_model(self._folder))
        except StartError as error:
            reason = str(error)
        at.with_suffix(".json").write_text(json.dumps(reason))

    def sizes(self, at: Path) -> None:
        """Write the bytes of each package that is installed here, by its name."""
        found = {
            each.metadata["Name"]: sum(_size(Path(str(each.locate_file(file)))) for file in each.files or [])
            for each in metadata.distributions()
        }
        at.with_suffix(".json").write_text(json.dumps(found))


def _members(slot: signature.Slot) -> dict[str, Any]:
    members = {
        "name": slot.name,
        "datatype": slot.datatype,
        "row_shape": slot.row_shape,
        "nullable": slot.nullable,
        "picture": slot.picture,
        "array": slot.as_array,
        "json_schema": slot.json_schema,
    }
    return members if slot.default is UNSET else members | {"default": slot.default}


def _read(at: Path) -> Tensors:
    """Read the rows: strings are objects, as in the server, and pictures are pixels."""
    feed = npz.load(at.with_suffix(".npz"))
    return {name: _decoded(array.astype(object) if array.dtype.kind == "U" else array) for name, array in feed.items()}


def _decoded(array: Array) -> Array:
    """Decode what npz.py has no type for: bytes in base64 as {PICTURE: text}."""
    if array.dtype.kind != "O" or not any(isinstance(value, dict) and PICTURE in value for value in array.flat):
        return array
    decoded = np.empty(len(array), dtype=object)
    for row, value in enumerate(array):
        decoded[row] = np.asarray(Image.open(BytesIO(b64decode(value[PICTURE]))).convert("RGB"))
    return decoded


def _strings(array: Array) -> Array:
    """Strings as packaging has them."""
    texts = array.dtype.kind == "O" and all(type(value) is str for value in array.flat)
    return array.astype(np.str_) if texts else array


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0  # listed and not there, as files that pip compiles later


def _explain(error: BaseException, folder: Path) -> str:
    """Name the line of the folder's code that raised it, and what helps."""
    inside = [
        (frame.filename, frame.lineno)
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(folder)
    ]
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).is_relative_to(folder):
        inside.append((error.filename, error.lineno))
    if isinstance(error, StartError | signature.SignatureError | signature.AnswerError | signature.InputError):
        return str(error).replace(f"{folder}/", "")
    where = ""
    if inside:
        file, line = inside[-1]
        where = f"{Path(file).relative_to(folder)}, line {line}: "
    message = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).split())[:600]
    return f"{where}{type(error).__name__}{f': {message}' if message else ''}{_advice(error, folder)}"


def _advice(error: BaseException, folder: Path) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        return f"\n  add the package to requirements.txt: {_INSTALLED_AS.get(package, package)}"
    if isinstance(error, FileNotFoundError) and error.filename and (folder / str(error.filename)).exists():
        return "\n  the server runs elsewhere: open it by Path(__file__).parent, or by the `folder` that __init__ may take"
    return ""


def main(folder: Path, scratch: Path) -> None:
    """Do tasks until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = _Worker(folder, lambda progress: print(progress, file=answers, flush=True))
    tasks: dict[str, Task] = {
        "describe": worker.describe,
        "run": worker.run,
        "time": worker.time,
        "approve": worker.approve,
        "sizes": worker.sizes,
    }
    _forget_this_clone()
    for line in sys.stdin:
        name, number = line.split()
        try:
            tasks[name](scratch / number)
            done = True
        except BaseException as error:  # noqa: BLE001  # also what ends a process: it is told to whoever packages
            raised = error.__context__ if isinstance(error, StartError) and error.__context__ else error
            (scratch / number).with_suffix(".error").write_text(_explain(raised, folder))
            done = False
        print("done" if done else "failed", file=answers, flush=True)


def _forget_this_clone() -> None:
    """Leave the names `tools`, `tests` and the like to the folder's code: in the image they are its own."""
    sys.path.remove(str(Path(__file__).parents[2]))
    for name in [name for name in sys.modules if name.partition(".")[0] == "tools"]:
        del sys.modules[name]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
