"""The whole way: from the user's settings to a folder that the server has loaded and asked its example."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
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
from tools.model import compare, data, folder, settings
from tools.model.converted import Converted
from tools.model.describe import describe
from tools.model.kinds import Kind, detect
from tools.model.problem import ModelError
from tools.model.runtime import Session
from tools.model.settings import Settings
from tools.model.tensors import Tensor, Tensors, datatype

ROOT = Path(__file__).resolve().parents[2]
_LOCKS = {
    Kind.ONNX: "onnx",
    Kind.STATE_DICT: "torch",
    Kind.SAFETENSORS: "torch",
    Kind.PT2: "torch",
    Kind.TORCHSCRIPT: "torch",
    Kind.SKOPS: "sklearn",
    Kind.XGBOOST: "trees",
    Kind.LIGHTGBM: "trees",
}
_ONLY_FOR = {
    "CLASS": (Kind.STATE_DICT, Kind.SAFETENSORS),
    "ARGS": (Kind.STATE_DICT, Kind.SAFETENSORS),
    "KEY": (Kind.STATE_DICT,),
    "INPUT": (Kind.STATE_DICT, Kind.SAFETENSORS, Kind.TORCHSCRIPT),
    "OUTPUTS": (Kind.STATE_DICT, Kind.SAFETENSORS, Kind.TORCHSCRIPT, Kind.PT2),
    "TRUST": (Kind.SKOPS, Kind.TORCHSCRIPT),
    "KEEP": (Kind.PT2,),
}
"""Settings that say nothing about a file of another format."""

_WITHOUT_ROWS = (("none", Kind.ONNX), ("none", Kind.PT2))


@dataclass(frozen=True, kw_only=True)
class Package:
    """What was written."""

    settings: Settings
    kind: Kind
    converted: Converted
    description: dict[str, Any]
    notes: list[str]


def package(given: Mapping[str, str], here: Path) -> Package:
    """Write the folder; a ModelError says why there is none."""
    chosen = settings.parse(given, here)
    content = chosen.source.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if chosen.sha256 and chosen.sha256 != digest:
        raise ModelError(f"SHA256 is not that of {chosen.source}, which has {digest}")
    kind = detect(chosen.source)
    _check(chosen, kind, given, digest)
    folder.check(chosen.folder, replace=chosen.replace, hooks=chosen.hooks is not None)
    table = data.read(chosen.data, features=chosen.features, target=chosen.target) if chosen.data else None
    converted = convert(chosen, kind, table)
    return _write(chosen, kind, table, converted, digest)


def _check(chosen: Settings, kind: Kind, given: Mapping[str, str], digest: str) -> None:
    mistakes = [
        f"{name} says nothing about a model of this kind: {chosen.source.name} is {kind.value}"
        for name, kinds in _ONLY_FOR.items()
        if given.get(name, "").strip() and kind not in kinds
    ]
    if chosen.batch != "dynamic" and kind not in _ONLY_FOR["INPUT"] and (chosen.batch, kind) not in _WITHOUT_ROWS:
        mistakes.append(f"BATCH={chosen.batch}: {chosen.source.name} says itself how many rows it takes")
    if kind in _ONLY_FOR["CLASS"] and not chosen.class_name:
        mistakes.append(
            f"CLASS is missing: {chosen.source.name} has tensors only; name the class that builds the network and"
            " the Python file it is in, CLASS=net.py:Net"
        )
    if kind is Kind.TORCHSCRIPT and not (chosen.sha256 and "torchscript" in chosen.trust):
        mistakes.append(
            f"{chosen.source.name} is TorchScript, a program that can do anything when it is loaded or run.\n"
            "  Safer: save the state dict, torch.save(network.state_dict(), 'model.pth'), and name the class, CLASS=.\n"
            f"  If you trust whoever made it: TRUST=torchscript SHA256={digest}"
        )
    if mistakes:
        raise ModelError("\n".join(mistakes))
    if kind is Kind.PT2:
        try:
            read_archive(chosen.source)
        except ValueError as reason:
            raise ModelError(f"{chosen.source.name} is refused, and was not loaded: it {reason}") from None


def convert(chosen: Settings, kind: Kind, table: data.Table | None) -> Converted:
    """The model as ONNX, made by a process of its own in the environment of the model's format."""
    programs = environment.separate(ROOT, f"tools/model/requirements-{_LOCKS[kind]}.lock")
    with tempfile.TemporaryDirectory(prefix="model-") as name:
        scratch = Path(name)
        (scratch / "settings.json").write_text(chosen.to_json())
        (scratch / "kind").write_text(kind.value)
        if table:
            table.save(scratch)
        variables = os.environ | {
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'app'}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "TMPDIR": name,  # PyTorch makes a cache there and leaves it
        }
        with (scratch / "log").open("wb") as log:
            command = [str(programs / "python"), "-m", "tools.model.worker", str(scratch)]
            status = subprocess.run(command, cwd=ROOT, env=variables, stdout=log, stderr=log, check=False).returncode
        error = scratch / "error.txt"
        if error.is_file():
            raise ModelError(error.read_text())
        if status or not (scratch / "result.json").is_file():
            said = (scratch / "log").read_text(errors="replace").strip().splitlines()[-8:]
            ended = f"was ended by signal {-status}" if status < 0 else f"failed with status {status}"
            raise ModelError(f"the process that converts the model {ended}:\n  " + "\n  ".join(said))
        return Converted.load(scratch)


def _write(chosen: Settings, kind: Kind, table: data.Table | None, converted: Converted, digest: str) -> Package:
    source: dict[str, Any] = {"file": chosen.source.name, "format": kind.value, "sha256": digest}
    source["packages"] = converted.versions
    if converted.format == "pt2" and converted.expected is not None:
        answers = converted.expected
        outputs = [
            Tensor(name=name, datatype=datatype(array.dtype), row=array.shape[1:]) for name, array in answers.items()
        ]
    else:
        answers, outputs = _served(chosen, converted, source)
    description = describe(chosen, converted, outputs, answers, table)
    files = {f"model.{converted.format}": converted.model}
    if chosen.hooks:
        files["hooks.py"] = chosen.hooks.read_bytes()
        description["hooks"] = {"sha256": hashlib.sha256(files["hooks.py"]).hexdigest()}
    description["source"] = source
    files["model.json"] = (json.dumps(description, indent=2, ensure_ascii=False) + "\n").encode()
    folder.write(chosen.folder, files, _approve)
    notes = [*converted.notes, *_doubts(answers)]
    return Package(settings=chosen, kind=kind, converted=converted, description=description, notes=notes)


def _served(chosen: Settings, converted: Converted, source: dict[str, Any]) -> tuple[Tensors, list[Tensor]]:
    """What the converted model answers and the outputs it has, held against the original; `source` gets the result."""
    session = Session(converted)
    answers = session.run(converted.feed)
    if converted.expected is not None:
        found = compare.difference(converted.expected, answers, chosen.tolerance)
        if converted.probe and converted.probe_expected:
            more = compare.difference(converted.probe_expected, session.run(converted.probe), chosen.tolerance)
            found = found.joined(more)
        source["compared_rows"] = found.rows
        source["largest_difference"] = {"absolute": found.absolute, "relative": found.relative}
    if converted.batching != "none":
        repeat = converted.batch_rows if converted.batching == "fixed" else 1
        compare.check_rows(session.run, converted.feed, answers, chosen.tolerance, repeat)
    return answers, session.outputs(answers)


def _approve(new: Path) -> None:
    """The server itself loads the model and asks it its example; of a .pt2, which needs PyTorch, the description."""
    try:
        if read_manifest(new / "model.json").format == "onnx":
            warm_up(load_model(new))
    except StartError as error:
        raise ModelError(f"the server would not start with this model: {str(error).replace(f'{new}/', '')}") from None


def _doubts(answers: dict[str, Any]) -> list[str]:
    """What is worth knowing about the answers."""
    notes: list[str] = []
    for name, array in answers.items():
        if array.dtype.kind == "f":
            rows = int((~np.isfinite(array)).reshape(len(array), -1).any(axis=1).sum())
            if rows:
                notes.append(
                    f"{name} is not finite in {rows} of {len(array)} rows; such a request is answered with an error"
                )
    return notes
