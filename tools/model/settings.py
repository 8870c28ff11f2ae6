"""What the user asked for: NAME=value settings, read and checked, every mistake reported at once."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.model.problem import ModelError
from tools.model.tensors import DATATYPES, Tensor

DESCRIPTIONS = {
    "FROM": "the model file",
    "TO": "the folder to write; default: models/<NAME>",
    "NAME": "the model's name; default: the file's, without its suffix",
    "VERSION": "the model's version; default: 1",
    "DATA": "training inputs, .csv with a header row or .npz: for the profile, the example and the comparison",
    "FEATURES": "the columns that the model takes, in its order: age,income",
    "TARGET": "columns of DATA that are not inputs: species",
    "LABELS": "the classes' names, in the model's order: cat,dog",
    "OUTPUTS": "the outputs' names, in the model's order",
    "CLASS": "a PyTorch network's class: file.py:Class",
    "ARGS": "what CLASS is made with, as JSON: '{\"hidden\": 16}'",
    "KEY": "where in a checkpoint the state dict is: model_state_dict",
    "INPUT": "what a row looks like: 3, 3x224x224, 'ids=INT64:16 mask=BOOL:16'; * is any size",
    "IMAGE": "the input is a picture, as JSON: '{}' or '{\"mean\": [...], \"std\": [...]}'",
    "BATCH": "rows a run: dynamic (default), a number, or none where the model knows no rows",
    "NULLABLE": "yes: values may be missing and become NaN",
    "EXAMPLE": "the example request: '{\"input\": [1, 2, 3]}'; default: a row of DATA, else zeros",
    "HOOKS": "a hooks.py with preprocess or postprocess, which then runs in the server",
    "SHA256": "the digest that the file must have",
    "TRUST": "what may be loaded although it can run code: types of a .skops file, or torchscript",
    "KEEP": "pt2: serve the .pt2 file itself, in the image's torch variant",
    "TOLERANCE": "how far the converted model may be from the original: abs + relative; default: 1e-4",
    "REPLACE": "yes: replace a folder that this command did not write",
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of one run; paths are absolute."""

    source: Path
    folder: Path
    name: str
    version: str = "1"
    data: Path | None = None
    features: list[str] = field(default_factory=list[str])
    target: list[str] = field(default_factory=list[str])
    labels: list[str] = field(default_factory=list[str])
    outputs: list[str] = field(default_factory=list[str])
    class_file: Path | None = None
    class_name: str = ""
    arguments: dict[str, Any] | list[Any] = field(default_factory=dict[str, Any])
    key: str = ""
    inputs: list[Tensor] = field(default_factory=list[Tensor])
    """Names may be empty, where the model has its own."""
    image: dict[str, Any] | None = None
    batch: str | int = "dynamic"
    nullable: bool = False
    example: dict[str, Any] | None = None
    hooks: Path | None = None
    sha256: str = ""
    trust: list[str] = field(default_factory=list[str])
    keep: str = ""
    tolerance: float = 1e-4
    replace: bool = False

    def to_json(self) -> str:
        """For the process that converts."""
        return json.dumps(vars(self) | {"inputs": [vars(tensor) for tensor in self.inputs]}, default=str)

    @staticmethod
    def from_json(text: str) -> Settings:
        """What `to_json` wrote."""
        members = json.loads(text)
        for name in ("source", "folder", "data", "class_file", "hooks"):
            members[name] = Path(members[name]) if members[name] else None
        members["inputs"] = [Tensor.of(tensor) for tensor in members["inputs"]]
        return Settings(**members)


def parse(given: Mapping[str, str], here: Path) -> Settings:
    """The settings, or a ModelError with every mistake in them; relative paths start at `here`."""
    mistakes: list[str] = []
    for name in given:
        if name not in DESCRIPTIONS:
            near = difflib.get_close_matches(name.upper(), DESCRIPTIONS, n=1, cutoff=0.6)
            mistakes.append(f"{name} is no setting" + (f"; {near[0]} is" if near else ""))

    def read(name: str, convert: Callable[[str], Any], default: Any) -> Any:
        text = given.get(name, "").strip()
        if not text:
            return default
        try:
            return convert(text)
        except ValueError as error:
            mistakes.append(f"{name}={text}: {error}")
            return default

    def file(text: str) -> Path:
        path = (here / Path(text).expanduser()).resolve()
        if path.is_dir():
            raise ValueError(_about_folder(path))
        if not path.is_file():
            raise ValueError(f"there is no file {path}")
        return path

    source: Path | None = read("FROM", file, None)
    if "FROM" not in given or not given["FROM"].strip():
        mistakes.append("FROM is missing: name the model file, FROM=path/to/model.pth")
    name: str = read("NAME", _name, re.sub(r"[^\w.-]+", "-", source.stem).strip("-.") if source else "")
    class_file, class_name = read("CLASS", lambda text: _class(text, file), (None, ""))
    members: dict[str, Any] = {
        "version": read("VERSION", _name, "1"),
        "data": read("DATA", file, None),
        "features": read("FEATURES", _names, []),
        "target": read("TARGET", _names, []),
        "labels": read("LABELS", _names, []),
        "outputs": read("OUTPUTS", _names, []),
        "class_file": class_file,
        "class_name": class_name,
        "arguments": read("ARGS", _arguments, {}),
        "key": given.get("KEY", "").strip(),
        "inputs": read("INPUT", inputs, []),
        "image": read("IMAGE", _object, None),
        "batch": read("BATCH", _batch, "dynamic"),
        "nullable": read("NULLABLE", _yes, False),
        "example": read("EXAMPLE", _example, None),
        "hooks": read("HOOKS", file, None),
        "sha256": read("SHA256", _digest, ""),
        "trust": read("TRUST", _names, []),
        "keep": read("KEEP", _keep, ""),
        "tolerance": read("TOLERANCE", _tolerance, 1e-4),
        "replace": read("REPLACE", _yes, False),
    }
    folder = (here / Path(given.get("TO", "").strip() or f"models/{name}").expanduser()).resolve()
    if members["target"] and not members["data"]:
        mistakes.append("TARGET names columns of DATA, but there is no DATA")
    if mistakes or source is None:
        raise ModelError("\n".join(mistakes))
    return Settings(source=source, folder=folder, name=name, **members)


def inputs(text: str) -> list[Tensor]:
    """Tensors from their short form: `[name=][datatype:]sizes`, blank between them; `age=FP32:` is one value a row."""
    return [_tensor(part) for part in re.split(r"[\s;]+", text.strip())]


def _tensor(text: str) -> Tensor:
    name, _, rest = text.rpartition("=")
    datatype, colon, sizes = rest.rpartition(":")
    if not colon and rest.upper() in DATATYPES:
        datatype, sizes = rest, ""
    datatype = (datatype or "FP32").upper()
    if datatype not in DATATYPES:
        raise ValueError(f"{datatype} is none of {', '.join(DATATYPES)}")
    row = [-1 if size in ("*", "-1") else size for size in re.split("[x,]", sizes)] if sizes else []
    if not all(size == -1 or (isinstance(size, str) and size.isdecimal() and int(size) > 0) for size in row):
        raise ValueError(f"{sizes} must be sizes of a row, such as 3 or 3x224x224, without the rows of a batch")
    return Tensor(name=name, datatype=datatype, row=tuple(int(size) for size in row))


def _about_folder(path: Path) -> str:
    if (path / "model.json").is_file():
        return f"{path} is a model folder already: pulumi config set model {path}"
    return f"{path} is a folder: name the file in it"


def _class(text: str, file: Callable[[str], Path]) -> tuple[Path, str]:
    path, _, name = text.rpartition(":")
    if not path.endswith(".py") or not name.isidentifier():
        raise ValueError("must be file.py:Class, the Python file and the class in it that builds the network")
    return file(path), name


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,99}", text, re.ASCII):
        raise ValueError("must be letters, digits and . _ -, at most 100 of them")
    return text


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if "" in names or len(set(names)) < len(names):
        raise ValueError("must be different names with commas between them")
    return names


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON: {error}") from None


def _arguments(text: str) -> dict[str, Any] | list[Any]:
    value = _json(text)
    if not isinstance(value, (dict, list)):
        raise ValueError('must be JSON: {"hidden": 16}, or a list of arguments without names')  # noqa: TRY004 - the caller's
    return value  # pyright: ignore[reportUnknownVariableType] - JSON


def _object(text: str) -> dict[str, Any]:
    value = _json(text)
    if not isinstance(value, dict):
        raise ValueError("must be a JSON object")  # noqa: TRY004 - the caller's
    return value  # pyright: ignore[reportUnknownVariableType] - JSON


def _example(text: str) -> dict[str, Any]:
    value = _object(text)
    if len(value) != 1 or not value.keys() <= {"input", "inputs"}:
        raise ValueError('must be the body of a request: {"input": [1, 2, 3]} or {"inputs": {"age": 4}}')
    return value


def _batch(text: str) -> str | int:
    if text in ("dynamic", "none"):
        return text
    if text.isdecimal() and 0 < int(text) <= 4096:
        return int(text)
    raise ValueError("must be dynamic, none, or the number of rows of every run, at most 4096")


def _yes(text: str) -> bool:
    if text.lower() in ("yes", "true", "1", "no", "false", "0"):
        return text.lower() in ("yes", "true", "1")
    raise ValueError("must be yes or no")


def _digest(text: str) -> str:
    if not re.fullmatch("[0-9a-f]{64}", text.lower()):
        raise ValueError("must be 64 hexadecimal digits, as sha256sum prints them")
    return text.lower()


def _keep(text: str) -> str:
    if text != "pt2":
        raise ValueError("must be pt2")
    return text


def _tolerance(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise ValueError("must be a number of at least 0")
    return value
