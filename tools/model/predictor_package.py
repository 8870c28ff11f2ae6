"""A model that is Python code: locked with what it needs, run in that environment, described and put in place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from infra import model_environment, model_lock
from server.model.author_code import digests
from tools import environment
from tools.console import say
from tools.model import compare, dependencies, folder, predictor_folder, predictor_rows
from tools.model.conversion import Conversion
from tools.model.errors import ModelError
from tools.model.manifest import describe
from tools.model.predictor_session import PredictorSession
from tools.model.settings import Settings
from tools.model.tensors import Tensors, row_count
from tools.model.training_data import Table
from tools.model.waiting import waiting

ROOT = Path(__file__).resolve().parents[2]
_SERVER_LOCK = "app/requirements.lock"
_MAX_SECONDS = 60
"""For the answers to all rows: code that is slower is asked for fewer."""
_MIXED_ROWS = 4
_SAME = 1e-4
"""Largest difference, as a part of the output's largest value, of a row's answers in different company."""


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """A folder of code that was put in place."""

    conversion: Conversion
    """With the inputs and rows that were found out."""
    manifest: dict[str, Any]
    answers: Tensors
    notes: list[str]
    seconds_per_row: float
    """Of a request of one row."""
    dependencies_bytes: int
    """Size of the packages that the image has for it, besides the server's own."""


def read(settings: Settings) -> Conversion:
    """Take the author's folder as it is; what it takes is found out by `write`."""
    found = predictor_folder.files(settings.source)
    requirements = _text(found.get(model_lock.REQUIREMENTS))
    try:
        model_lock.debian_packages(_text(found.get(model_lock.PACKAGES)))
    except ValueError as mistake:
        raise ModelError(f"{settings.source}/{model_lock.PACKAGES}, {mistake}") from None
    return Conversion(
        model=b"",
        format="python",
        files=dict(found),
        call=None,
        requirements=requirements,
        inputs=[],
        feed={},
    )


def _text(file: Path | None) -> str:
    try:
        return file.read_text(encoding="utf-8") if file else ""
    except UnicodeDecodeError as error:
        raise ModelError(f"{file} is not text in UTF-8: {error.reason} at byte {error.start}") from None


def write(settings: Settings, table: Table | None, conversion: Conversion, source: dict[str, Any]) -> Predictor:
    """Write the folder whole, and only when the server has answered its example; ModelError says why it is not."""
    if settings.hooks or settings.requirements:
        name = "--hooks" if settings.hooks else "--requirements"
        raise ModelError(f"{name} is for a model that is ONNX; this one is Python code, which has its own of both")
    in_place = settings.folder == settings.source
    if in_place:
        predictor_folder.check_complete(settings.folder)
    with (folder.completed if in_place else folder.written)(settings.folder) as new:
        folder.fill(new, conversion.files)
        if conversion.requirements and model_lock.REQUIREMENTS not in conversion.files:
            (new / model_lock.REQUIREMENTS).write_text(conversion.requirements)
        what = settings.source.name
        python = ready(new, what)
        with PredictorSession(new, python, what=what) as session:
            made = _run(settings, table, conversion, session, new, source)
        made.manifest["source"] = source | ({} if in_place else {"files": sorted(_files(new))})
        folder.describe(new, made.manifest)
        approve(new, python, what)
    return made


def approve(new: Path, python: Path, what: str) -> None:
    """Have the server load the folder in its environment and answer its example; ModelError when it does not."""
    with PredictorSession(new, python, what=what) as fresh:
        refusal = fresh.refusal()
    if refusal is not None:
        raise ModelError(f"the server would not start with this model: {_without(refusal, new)}")


def ready(new: Path, what: str) -> Path:
    """Lock the requirements of a new folder, and make the environment; its Python."""
    requirements, lock = new / model_lock.REQUIREMENTS, new / model_lock.LOCK
    if not requirements.is_file():
        return environment.separate(ROOT, _SERVER_LOCK) / "python"
    text = requirements.read_text(encoding="utf-8")
    with waiting(f"{what}: locking the packages of requirements.txt"):
        lock.write_bytes(dependencies.lock_requirements(text, what=what, folder=new))
    try:
        return model_environment.ensure(ROOT / _SERVER_LOCK, lock, say=lambda message: say(_without(message, new)))
    except model_environment.ModelEnvironmentError as error:
        raise ModelError(_without(str(error), new)) from None


def _without(message: str, new: Path) -> str:
    return message.replace(f"{new}/", "")


def _files(new: Path) -> list[str]:
    return [file.relative_to(new).as_posix() for file in new.rglob("*") if file.is_file()]


def _run(
    settings: Settings,
    table: Table | None,
    conversion: Conversion,
    session: PredictorSession,
    new: Path,
    source: dict[str, Any],
) -> Predictor:
    """Ask the code for its answers, and describe it by them."""
    signature = session.describe()
    notes = list(conversion.notes)
    example = None
    if conversion.call is None or conversion.call != signature["call"]:
        rows = predictor_rows.rows(settings, signature, conversion.feed, table, new)
        conversion = replace(conversion, call=signature["call"], inputs=rows.inputs, feed=rows.feed)
        example = rows.example
    elif settings.example is None and any(array.dtype.kind == "O" for array in conversion.feed.values()):
        example = predictor_rows.example_of(conversion.inputs, conversion.feed)
    seconds = session.seconds(_part(conversion.feed, 1))
    asked = row_count(conversion.feed)
    if conversion.expected is None and seconds * asked > _MAX_SECONDS:
        fewer = max(_MIXED_ROWS, int(_MAX_SECONDS / seconds))
        if fewer < asked:
            notes.append(f"it takes {seconds:.2g} s a row, so it was run on {fewer} of {asked} rows")
            conversion = replace(conversion, feed=_part(conversion.feed, fewer))
            table = table and replace(table, rows=fewer)
    answers = session.run(conversion.feed)
    outputs = session.outputs(answers)
    if conversion.expected is not None:
        difference = _difference(settings, conversion, session, answers)
        source |= {
            "compared_rows": difference.rows,
            "largest_difference": {"absolute": difference.absolute, "relative": difference.relative},
        }
    if signature["call"] != "row":
        notes += _dependence(session.run, conversion.feed)
    manifest = describe(
        replace(settings, example=example or settings.example), conversion, outputs, answers, table, session.run
    )
    manifest["predictor"] = {
        "entry": signature["entry"],
        "call": signature["call"],
        "streams": signature["streams"],
        "sha256": digests(new),
    }
    return Predictor(
        conversion=conversion,
        manifest=manifest,
        answers=answers,
        notes=notes + _dependency_notes(new),
        seconds_per_row=seconds,
        dependencies_bytes=_dependencies_bytes(session, new),
    )


def _part(feed: Tensors, rows: int) -> Tensors:
    return {name: array[:rows] for name, array in feed.items()}


def _difference(
    settings: Settings, conversion: Conversion, session: PredictorSession, answers: Tensors
) -> compare.Difference:
    """The largest difference of the answers from those of the original, in the process that made it."""
    expected = conversion.expected or {}
    found = compare.difference(expected, answers, settings.tolerance)
    if conversion.probe and conversion.probe_expected:
        probed = session.run(conversion.probe)
        found = found.merge(compare.difference(conversion.probe_expected, probed, settings.tolerance))
    return found


def _dependence(run: Callable[[Tensors], Tensors], feed: Tensors) -> list[str]:
    """Note that answers depend on chance; ModelError when a row's depend on the rows beside it."""

    def comparable(rows: Tensors) -> Tensors:
        return {name: array for name, array in run(rows).items() if array.dtype.kind != "O"}

    found = compare.dependence(comparable, feed, _MIXED_ROWS, _SAME)
    if found == "rows":
        raise ModelError(
            "a row's answer depends on the other rows in its batch, and the server runs rows of several requests"
            " together:\n  where the rows are computed one by one anyway, write predict for the values of a single row"
            " (float for list[float])"
        )
    return ["two runs on the same rows give different answers: it draws random numbers"] if found else []


def _dependencies_bytes(session: PredictorSession, new: Path) -> int:
    """Size of the packages that the server's own lock does not have."""
    if not (new / model_lock.LOCK).is_file():
        return 0
    lock, server = (model_lock.parse(file.read_text()) for file in (new / model_lock.LOCK, ROOT / _SERVER_LOCK))
    beyond = {pin.name for pin in model_lock.beyond_server(lock, [server])}
    sizes = session.package_bytes()
    return sum(size for name, size in sizes.items() if model_lock.canonical(name) in beyond)


def _dependency_notes(new: Path) -> list[str]:
    lock = new / model_lock.LOCK
    return dependencies.notes(lock.read_bytes()) if lock.is_file() else []
