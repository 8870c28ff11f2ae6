"""The whole way: from the settings to a folder that the server has loaded and asked its example."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from server.errors import StartError
from server.model.loaded_model import load_model
from server.model.manifest import read_manifest
from server.model.pt2_file import read_archive
from server.predictor import warm_up
from tools import environment
from tools.model import compare, folder, training_data
from tools.model.conversion import Conversion
from tools.model.converters import CONVERTERS
from tools.model.errors import ModelError
from tools.model.formats import Format, detect
from tools.model.manifest import describe
from tools.model.onnx_session import OnnxSession
from tools.model.settings import Settings
from tools.model.tensors import Tensor, Tensors, datatype_of

ROOT = Path(__file__).resolve().parents[2]
_STATE_DICTS = (Format.STATE_DICT, Format.SAFETENSORS)
_ONLY_FOR = {
    "class": ("class_name", _STATE_DICTS),
    "args": ("arguments", _STATE_DICTS),
    "key": ("key", (Format.STATE_DICT,)),
    "input": ("inputs", (*_STATE_DICTS, Format.TORCHSCRIPT, Format.ONNX)),
    "outputs": ("outputs", (*_STATE_DICTS, Format.TORCHSCRIPT, Format.PT2, Format.ONNX)),
    "trust": ("trust", (Format.SKOPS, Format.TORCHSCRIPT)),
    "keep": ("keep", (Format.PT2,)),
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


def package(settings: Settings) -> Package:
    """Write the folder; a ModelError says why there is none."""
    digest = hashlib.sha256(settings.source.read_bytes()).hexdigest()
    if settings.sha256 and settings.sha256 != digest:
        raise ModelError(f"--sha256 is not that of {settings.source}, which has {digest}")
    found = detect(settings.source)
    _check(settings, found, digest)
    folder.check_replaceable(settings.folder, replace=settings.replace, hooks=settings.hooks is not None)
    table = None
    if settings.data:
        table = training_data.read(settings.data, features=settings.features, target=settings.target)
    conversion = convert(settings, found, table)
    source = {"file": settings.source.name, "format": found.value, "sha256": digest, "packages": conversion.versions}
    return _write(settings, table, conversion, source)


def _check(settings: Settings, found: Format, digest: str) -> None:
    name = settings.source.name
    mistakes = [
        f"--{option} says nothing about a model of this kind: {name} is {found.value}"
        for option, (setting, formats) in _ONLY_FOR.items()
        if getattr(settings, setting) and found not in formats
    ]
    if settings.batching.mode not in _BATCH_MODES.get(found, ("dynamic",)):
        mistakes.append(
            f"--batch {settings.batching.rows or settings.batching.mode}: {name} says itself how many rows it takes"
        )
    if found in _STATE_DICTS and not settings.class_name:
        mistakes.append(
            f"--class is missing: {name} has tensors only; name the class that builds the network and"
            " the Python file it is in, --class net.py:Net"
        )
    if found is Format.TORCHSCRIPT and not (settings.sha256 and "torchscript" in settings.trust):
        mistakes.append(
            f"{name} is TorchScript, a program that can do anything when it is loaded or run.\n"
            "  Safer: save the state dict, torch.save(network.state_dict(), 'model.pth'), and name its --class.\n"
            f"  If you trust whoever made it: --trust torchscript --sha256 {digest}"
        )
    if mistakes:
        raise ModelError(*mistakes)
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
            status = subprocess.run(command, cwd=ROOT, env=variables, stdout=log, stderr=log, check=False).returncode
        error = scratch / "error.txt"
        if error.is_file():
            raise ModelError(error.read_text())
        if status or not (scratch / "result.json").is_file():
            last = (scratch / "log").read_text(errors="replace").strip().splitlines()[-8:]
            ended = f"was ended by signal {-status}" if status < 0 else f"failed with status {status}"
            raise ModelError(f"the process that converts the model {ended}:\n  " + "\n  ".join(last))
        return Conversion.load(scratch)


def _write(
    settings: Settings, table: training_data.Table | None, conversion: Conversion, source: dict[str, Any]
) -> Package:
    if conversion.format == "pt2" and conversion.expected is not None:
        answers = conversion.expected
        outputs = [
            Tensor(name=name, datatype=datatype_of(array.dtype), row_shape=array.shape[1:])
            for name, array in answers.items()
        ]
    else:
        session = OnnxSession(conversion)
        answers = session.run(conversion.feed)
        outputs = session.outputs(answers)
        difference = _compare(settings, conversion, session, answers)
        if difference:
            source["compared_rows"] = difference.rows
            source["largest_difference"] = {"absolute": difference.absolute, "relative": difference.relative}
    manifest = describe(settings, conversion, outputs, answers, table)
    files = {f"model.{conversion.format}": conversion.model}
    if settings.hooks:
        files["hooks.py"] = settings.hooks.read_bytes()
        manifest["hooks"] = {"sha256": hashlib.sha256(files["hooks.py"]).hexdigest()}
    manifest["source"] = source
    files["model.json"] = (json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode()
    folder.write(settings.folder, files, _approve)
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
