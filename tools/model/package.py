"""The whole way: from the settings to a folder that the server has loaded and asked its example."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from server.errors import StartError
from server.model.loaded_model import load_model
from server.model.manifest import read_manifest
from server.model.pt2_file import read_archive
from server.predictor import warm_up
from tools import environment
from tools.model import compare, folder, huggingface_folder, pickles, predictor_folder, predictor_package, training_data
from tools.model.conversion import Conversion
from tools.model.converters import CONVERTERS
from tools.model.errors import ConversionError, ModelError
from tools.model.formats import Format, about_pickle, detect
from tools.model.manifest import describe
from tools.model.onnx_session import OnnxSession
from tools.model.predictor_folder import file_digest
from tools.model.settings import PLACEHOLDERS, Settings
from tools.model.source_folder import model_of
from tools.model.tensors import Tensor, Tensors, datatype_of
from tools.model.waiting import waiting

ROOT = Path(__file__).resolve().parents[2]
_STATE_DICTS = (Format.STATE_DICT, Format.SAFETENSORS)
_LIBRARIES = (Format.SKOPS, Format.XGBOOST, Format.LIGHTGBM, Format.CATBOOST, Format.HUGGINGFACE)
"""Formats whose own library can serve the model."""
_ONLY_FOR = {
    "class": ("class_name", _STATE_DICTS),
    "args": ("arguments", _STATE_DICTS),
    "key": ("key", (Format.STATE_DICT,)),
    "input": ("inputs", (*_STATE_DICTS, Format.TORCHSCRIPT, Format.ONNX, Format.PREDICTOR)),
    "outputs": ("outputs", (*_STATE_DICTS, Format.TORCHSCRIPT, Format.PT2, Format.ONNX)),
    "trust": ("trust", (Format.SKOPS, Format.TORCHSCRIPT)),
    "image": ("image", tuple(each for each in Format if each is not Format.PREDICTOR)),
    "task": ("task", (Format.HUGGINGFACE,)),
    "keep": ("keep", (Format.PT2, *_LIBRARIES)),
}
"""The setting of each option that says nothing about a file of another format, and the formats that it is for."""
_BATCH_MODES = {
    **dict.fromkeys((*_STATE_DICTS, Format.TORCHSCRIPT, Format.ONNX, Format.PT2), ("dynamic", "fixed", "none")),
}
"""The modes that may be asked for; files of other formats say themselves how many rows they take."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """A model folder that was written."""

    settings: Settings
    conversion: Conversion
    manifest: dict[str, Any]
    notes: list[str]
    predictor: predictor_package.Predictor | None = None
    """Of format "python"."""

    @property
    def bytes(self) -> int:
        """Size of the model: of its file, or of all that its code needs in the folder."""
        contents = [self.conversion.model, *self.conversion.files.values()]
        return sum(len(each) if isinstance(each, bytes) else each.stat().st_size for each in contents)


def package(settings: Settings) -> Package:
    """Write the folder; a ModelError says why there is none."""
    settings = replace(settings, source=model_of(settings.source))
    found = detect(settings.source)
    digest = _digest(settings.source)
    if settings.sha256 and settings.sha256 != digest:
        raise ModelError(f"--sha256 is not that of {settings.source}, which has {digest}")
    if found is Format.PICKLE:
        return _unpickled(settings, digest)
    _check(settings, found, digest)
    if settings.folder != settings.source:
        _check_folder(settings)
    table = None
    if settings.data:
        table = training_data.read(settings.data, features=settings.features, target=settings.target)
    conversion = predictor_package.read(settings) if found is Format.PREDICTOR else convert(settings, found, table)
    source = {"file": settings.source.name, "format": found.value, "sha256": digest, "packages": conversion.versions}
    if conversion.format == "python":
        return _written(settings, predictor_package.write(settings, table, conversion, source))
    if settings.keep == "library":
        raise ModelError(f"--keep library: {found.value} models are served as ONNX only")
    try:
        return _write(settings, table, conversion, source)
    except ConversionError as reason:
        if settings.keep or found not in _LIBRARIES:
            raise
        kept = convert(replace(settings, keep="library"), found, table)
        if kept.format != "python":
            raise
        notes = [f"kept with its own library, because {reason}", *kept.notes]
        return _written(settings, predictor_package.write(settings, table, replace(kept, notes=notes), source))


def _unpickled(settings: Settings, digest: str) -> Package:
    """Package what a pickle holds, after the sandbox has saved it as data."""
    name = settings.source.name
    if not settings.sha256 or "pickle" not in settings.trust:
        raise ModelError(
            f"{about_pickle(settings.source)}\n"
            "  Safer: do that where it was trained. If you trust whoever made it, it is loaded in a sandbox here,\n"
            f"  without network, home and privileges, and saved again as above: --trust pickle --sha256 {digest}",
            needs={"trust": ",".join([*settings.trust, "pickle"]), "sha256": digest},
        )
    with tempfile.TemporaryDirectory(prefix="model-pickle-") as scratch:
        lock = f"tools/model/requirements-{pickles.lock_for(settings.source)}.lock"
        python = environment.separate(ROOT, lock) / "python"
        with waiting(f"{name}: loading it in the sandbox, and saving it again"):
            saved = pickles.save_again(python, settings.source, Path(scratch))
        rest = [each for each in settings.trust if each != "pickle"]
        made = package(replace(settings, source=saved, trust=rest, sha256=""))
    note = f"{name}, sha256 {digest}, was loaded in a sandbox and saved again as {saved.name}"
    return replace(made, notes=[note, *made.notes])


def _written(settings: Settings, made: predictor_package.Predictor) -> Package:
    return Package(
        settings=settings,
        conversion=made.conversion,
        manifest=made.manifest,
        notes=[*made.notes, *_infinite(made.answers)],
        predictor=made,
    )


def _digest(source: Path) -> str:
    """SHA-256 of the model: of a folder, over its files."""
    if source.is_dir():
        own = (source / "predictor.py").is_file()
        return predictor_folder.digest((predictor_folder if own else huggingface_folder).files(source))
    return file_digest(source)


def _check_folder(settings: Settings) -> None:
    if settings.source.is_dir() and settings.folder.is_relative_to(settings.source):
        raise ModelError(f"--to {settings.folder} lies in the model's own folder: name one elsewhere")
    given = {"hooks.py": settings.hooks, "requirements.txt": settings.requirements}
    folder.check_replaceable(
        settings.folder, replace=settings.replace, given=frozenset(name for name, file in given.items() if file)
    )


def _check(settings: Settings, found: Format, digest: str) -> None:
    name = settings.source.name
    needs: dict[str, str] = {}
    mistakes = [
        f"--{option} says nothing about a model of this kind: {name} is {found.value}"
        for option, (setting, formats) in _ONLY_FOR.items()
        if getattr(settings, setting) and found not in formats
    ]
    if (settings.keep == "library" and found is Format.PT2) or (settings.keep == "pt2" and found in _LIBRARIES):
        mistakes.append(f"--keep {settings.keep} says nothing about {found.value}")
    if settings.requirements and not settings.hooks:
        mistakes.append("--requirements is for --hooks; a folder with predictor.py has its own requirements.txt")
    if settings.batching.mode not in _BATCH_MODES.get(found, ("dynamic",)):
        mistakes.append(
            f"--batch {settings.batching.rows or settings.batching.mode}: {name} says itself how many rows it takes"
        )
    if found in _STATE_DICTS and not settings.class_name:
        mistakes.append(
            f"--class is missing: {name} has tensors only; name the class that builds the network and"
            " the Python file it is in, --class net.py:Net"
        )
        needs["class"] = PLACEHOLDERS["class"]
    if found is Format.TORCHSCRIPT and not (settings.sha256 and "torchscript" in settings.trust):
        mistakes.append(
            f"{name} is TorchScript, a program that can do anything when it is loaded or run.\n"
            "  Safer: save the state dict, torch.save(network.state_dict(), 'model.pth'), and name its --class.\n"
            f"  If you trust whoever made it: --trust torchscript --sha256 {digest}"
        )
        needs |= {"trust": "torchscript", "sha256": digest}
        if not settings.inputs and not settings.data:
            mistakes.append(
                "--input is missing: say what a row looks like, --input 3 or --input 3x224x224, or give --data"
            )
            needs["input"] = PLACEHOLDERS["input"]
    if mistakes:
        raise ModelError(*mistakes, needs=needs)
    if found is Format.HUGGINGFACE:
        huggingface_folder.read(settings.source, settings.task)
    if found is Format.PT2:
        try:
            read_archive(settings.source)
        except ValueError as reason:
            raise ModelError(f"{name} is refused, and was not loaded: it {reason}") from None


def convert(settings: Settings, found: Format, table: training_data.Table | None) -> Conversion:
    """Turn the model into ONNX, by a process of its own in the environment of the model's format."""
    lock = f"tools/model/requirements-{CONVERTERS[found].lock}.lock"
    python = environment.separate(ROOT, lock) / "python"
    with tempfile.TemporaryDirectory(prefix="model-") as name:
        scratch = Path(name)
        (scratch / "settings.json").write_text(settings.to_json())
        (scratch / "format").write_text(found.value)
        if table:
            table.save(scratch)
        variables = os.environ | {
            # That environment has the format's packages only: this is where its Python finds this clone's own code.
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'app'}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "TMPDIR": name,  # PyTorch makes a cache there and leaves it
        }
        with (scratch / "log").open("wb") as log:
            command = [str(python), "-m", "tools.model.worker", str(scratch)]
            with waiting(f"{settings.source.name}: reading and converting it ({found.value})"):
                done = subprocess.run(command, cwd=ROOT, env=variables, stdout=log, stderr=log, check=False)
        status, error = done.returncode, scratch / "error.json"
        if error.is_file():
            told = json.loads(error.read_text())
            raise ModelError(*told["mistakes"], needs=told["needs"])
        if status or not (scratch / "result.json").is_file():
            last = (scratch / "log").read_text(errors="replace").strip().splitlines()[-8:]
            ended = f"was ended by signal {-status}" if status < 0 else f"failed with status {status}"
            raise ModelError(f"the process that converts the model {ended}:\n  " + "\n  ".join(last))
        return Conversion.load(scratch)


def _write(
    settings: Settings, table: training_data.Table | None, conversion: Conversion, source: dict[str, Any]
) -> Package:
    run = None
    if conversion.format == "pt2" and conversion.expected is not None:
        answers = conversion.expected
        outputs = [
            Tensor(name=name, datatype=datatype_of(array.dtype), row_shape=array.shape[1:])
            for name, array in answers.items()
        ]
    else:
        session = OnnxSession(conversion)
        run = session.run
        answers = session.run(conversion.feed)
        outputs = session.outputs(answers)
        difference = _compare(settings, conversion, session, answers)
        if difference:
            source["compared_rows"] = difference.rows
            source["largest_difference"] = {"absolute": difference.absolute, "relative": difference.relative}
    manifest = describe(settings, conversion, outputs, answers, table, run)
    files: dict[str, bytes | Path] = {f"model.{conversion.format}": conversion.model}
    if settings.hooks:
        files["hooks.py"] = hooks = settings.hooks.read_bytes()
        manifest["hooks"] = {"sha256": hashlib.sha256(hooks).hexdigest()}
    if settings.requirements:
        files["requirements.txt"] = settings.requirements.read_bytes()
    manifest["source"] = source
    with folder.written(settings.folder) as new:
        folder.fill(new, files)
        folder.describe(new, manifest)
        _approve(new)
    notes = [*conversion.notes, *_infinite(answers)]
    return Package(settings=settings, conversion=conversion, manifest=manifest, notes=notes)


def _compare(
    settings: Settings, conversion: Conversion, session: OnnxSession, answers: Tensors
) -> compare.Difference | None:
    """The converted model's largest difference from the original; None where nothing was converted."""
    found = None
    if conversion.expected is not None:
        found = compare.difference(conversion.expected, answers, settings.tolerance)
        if conversion.probe and conversion.probe_expected:
            probed = session.run(conversion.probe)
            found = found.merge(compare.difference(conversion.probe_expected, probed, settings.tolerance))
    if conversion.batching.mode != "none":
        repeat = conversion.batching.run_rows(1)
        compare.check_independence(session.run, conversion.feed, answers, settings.tolerance, repeat)
    return found


def _approve(new: Path) -> None:
    """Have the server load the model and answer its example; of a .pt2, which needs PyTorch, read the manifest."""
    if (new / "requirements.txt").is_file():
        predictor_package.approve(new, predictor_package.ready(new, "hooks.py"), "hooks.py")
        return
    try:
        if read_manifest(new / "model.json").format == "onnx":
            warm_up(load_model(new))
    except StartError as error:
        raise ModelError(f"the server would not start with this model: {str(error).replace(f'{new}/', '')}") from None


def _infinite(answers: Tensors) -> list[str]:
    """Notes on outputs that are not finite."""
    notes: list[str] = []
    for name, array in answers.items():
        if array.dtype.kind == "f":
            rows = int((~np.isfinite(array)).reshape(len(array), -1).any(axis=1).sum())
            if rows:
                notes.append(
                    f"{name} is not finite in {rows} of {len(array)} rows; such a request is answered with an error"
                )
    return notes
