"""The command's options, read and checked: every mistake is reported at once."""

from __future__ import annotations

import argparse
import difflib
import json
import math
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from infra.git_lfs import is_pointer
from tools.model.batching import Batching
from tools.model.errors import ModelError
from tools.model.tensors import DATATYPES, Tensor

_MAX_BATCH_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One run's settings; the options' help says what they mean. Paths are absolute."""

    source: Path
    folder: Path
    name: str
    version: str
    data: Path | None
    features: list[str]
    target: list[str]
    labels: list[str]
    outputs: list[str]
    class_file: Path | None
    class_name: str
    arguments: dict[str, Any] | list[Any]
    key: str
    inputs: list[Tensor]
    """Names may be empty, where the model has its own."""
    image: dict[str, Any] | None
    batching: Batching
    nullable: bool
    example: dict[str, Any] | None
    hooks: Path | None
    requirements: Path | None
    """Of hooks.py, where there is one; a folder with predictor.py has its own."""
    max_size: int | None
    max_characters: int | None
    sha256: str
    trust: list[str]
    keep: str
    tolerance: float
    replace: bool

    def to_json(self) -> str:
        """Serialise them for the process that converts."""
        return json.dumps(asdict(self), default=str)

    @staticmethod
    def from_json(text: str) -> Settings:
        """Read what `to_json` wrote."""
        members = json.loads(text)
        for name in ("source", "folder", "data", "class_file", "hooks", "requirements"):
            members[name] = Path(members[name]) if members[name] else None
        members["inputs"] = [Tensor.from_json(tensor) for tensor in members["inputs"]]
        members["batching"] = Batching(**members["batching"])
        return Settings(**members)


def parse(arguments: Sequence[str], here: Path) -> Settings:
    """Read the command's arguments, or raise a ModelError with every mistake; relative paths start at `here`."""
    reader = parser(here)
    found, unknown = reader.parse_known_args(arguments)
    for argument in unknown:
        near = difflib.get_close_matches(argument.partition("=")[0].strip("-"), reader.names, n=1)
        reader.mistakes.append(f"unrecognized argument: {argument}" + (f"; did you mean --{near[0]}?" if near else ""))
    members: dict[str, Any] = vars(found)
    if found.source == "":
        reader.mistakes.append("MODEL is missing: name the model file, path/to/model.pth, or the folder with predictor.py")
    if members["target"] and not members["data"]:
        reader.mistakes.append("--target names columns of --data, but there is no --data")
    if reader.mistakes:
        raise ModelError(*reader.mistakes)
    members["sha256"] = members["sha256"].lower()
    members["class_file"], members["class_name"] = members.pop("network")
    source = members["source"]
    name = source.name if source.is_dir() else source.stem
    members["name"] = members["name"] or re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).strip("-.") or "model"
    members["folder"] = members["folder"] or (here / "models" / members["name"]).resolve()
    return Settings(**members)


class _Parser(argparse.ArgumentParser):
    """Notes a value that its option refuses and reads on."""

    def __init__(self, **about: Any) -> None:
        super().__init__(allow_abbrev=False, **about)
        self.mistakes: list[str] = []
        self.names: list[str] = []

    def option(self, name: str, convert: Callable[[str], Any], text: str, **more: Any) -> None:
        """Add an option; an empty value counts as not given, and a ValueError of `convert` as a mistake."""

        def read(value: str) -> Any:
            try:
                return convert(value.strip()) if value.strip() else more.get("default")
            except ValueError as error:
                self.mistakes.append(f"{name} {value}: {error}")
                return None

        self.names.append(name.strip("-"))
        more.setdefault("metavar", name.strip("-").upper())
        self.add_argument(*([name] if name.startswith("-") else []), type=read, help=text, **more)

    def error(self, message: str) -> NoReturn:
        """Report what was noted as well, where argparse cannot read on."""
        raise ModelError(*self.mistakes, message)


def parser(here: Path) -> _Parser:
    """Make the command's parser; relative paths start at `here`."""
    made = _Parser(
        prog="python -m tools.model",
        usage="%(prog)s MODEL [--option value ...]",
        description="Package a model file for the server; docs/models.md has examples.",
        epilog="`make model FROM=model.pth CLASS=net.py:Net` is the same command: FROM is MODEL, CLASS is --class.",
    )

    def path(text: str) -> Path:
        return (here / Path(text).expanduser()).resolve()

    def file(text: str) -> Path:
        found = path(text)
        if found.is_dir():
            raise ValueError(f"{found} is a folder: name the file in it")
        if not found.is_file():
            raise ValueError(f"there is no file {found}")
        if is_pointer(found):
            raise ValueError(f"{found} is a Git LFS pointer, not the file itself; run `git lfs pull`, which fetches it")
        return found

    def model(text: str) -> Path:
        return path(text) if path(text).is_dir() else file(text)

    add = made.option
    name = _matching(r"[A-Za-z0-9][\w.-]{0,99}", "letters, digits and . _ -, at most 100 of them")
    digest = _matching("[0-9a-fA-F]{64}", "64 hexadecimal digits, as sha256sum prints them")
    arguments = partial(_json, kinds=(dict, list), rule='JSON: {"hidden": 16}, or a list of arguments without names')
    none: list[str] = []
    flag: dict[str, Any] = {"nargs": "?", "const": True, "default": False, "metavar": "yes"}
    about = "the model file, or a folder with predictor.py and what that needs"
    add("MODEL", model, about, dest="source", nargs="?", default="")
    add("--to", path, "the folder to write; default: models/<name>", dest="folder")
    add("--name", name, "the model's name; default: the file's, without its suffix")
    add("--version", name, "the model's version; default: 1", default="1")
    add("--data", file, "training inputs, .csv with a header row or .npz: for profile, example and comparison")
    add("--features", _names, "the columns that the model takes, in its order: age,income", default=none)
    add("--target", _names, "columns of --data that are not inputs: species", default=none)
    add("--labels", _names, "the classes' names, in the model's order: cat,dog", default=none)
    add("--outputs", _names, "the outputs' names, in the model's order", default=none)
    network = partial(_class, file)
    add("--class", network, "a PyTorch network's class: file.py:Class", dest="network", default=(None, ""))
    add("--args", arguments, "what --class is made with: '{\"hidden\": 16}'", dest="arguments", default={})
    add("--key", str, "where in a checkpoint the state dict is: model_state_dict", default="")
    shape = "what a row looks like: 3, 3x224x224, 'ids=INT64:16 mask=BOOL:16'; * is any size"
    add("--input", inputs, shape, dest="inputs", default=[])
    add("--image", _json, "the input is a picture: '{}' or '{\"mean\": [...], \"std\": [...]}'")
    rows = "rows a run: dynamic (default), a number, or none where the model knows no rows"
    add("--batch", _batch, rows, dest="batching", default=Batching())
    add("--nullable", _yes, "values may be missing and become NaN", **flag)
    add("--example", _example, "the example request: '{\"input\": [1, 2, 3]}'; default: a row of --data, else zeros")
    add("--hooks", file, "a hooks.py with preprocess or postprocess, which then runs in the server")
    add("--requirements", file, "the requirements.txt of --hooks: packages that it needs besides the server's")
    add("--max-size", _at_least_one, "the largest size of a free axis; default: as in --data, else 2048")
    add("--max-characters", _at_least_one, "the longest text; default: with room for those in --data, else 65536")
    add("--sha256", digest, "the digest that the file must have", default="")
    trusted = "what may be loaded although it can run code: types of a .skops file, or torchscript"
    add("--trust", _names, trusted, default=none)
    keep = "what is served: onnx, or an error; library: the original's own; pt2: the .pt2 file itself, by PyTorch"
    add("--keep", _matching("onnx|library|pt2", "onnx, library or pt2"), keep, default="")
    tolerance = "how far the converted model may be from the original: abs + relative; default: 1e-4"
    add("--tolerance", _tolerance, tolerance, default=1e-4)
    add("--replace", _yes, "replace a folder that this command did not write", **flag)
    return made


def inputs(text: str) -> list[Tensor]:
    """Read tensors in short form: `[name=][datatype:]sizes`, a blank between them; `age=FP32:` is one value a row."""
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
    return Tensor(name=name, datatype=datatype, row_shape=tuple(int(size) for size in row))


def serve_command(folder: Path) -> str:
    """Write the command that serves a model folder in stack local: it works in a fresh clone, and in any shell."""
    return (
        'eval "$(make -s env)" && pulumi stack select --create local'
        f" && pulumi config set model {shlex.quote(str(folder))} --stack local && make up STACK=local"
    )


def _class(file: Callable[[str], Path], text: str) -> tuple[Path, str]:
    path, _, name = text.rpartition(":")
    if not path.endswith(".py") or not name.isidentifier():
        raise ValueError("must be file.py:Class, the Python file and the class in it that builds the network")
    return file(path), name


def _matching(pattern: str, rule: str) -> Callable[[str], str]:
    """Make a reader of texts that match the pattern; others break the rule."""

    def read(text: str) -> str:
        if not re.fullmatch(pattern, text, re.ASCII):
            raise ValueError(f"must be {rule}")
        return text

    return read


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if "" in names or len(set(names)) < len(names):
        raise ValueError("must be different names with commas between them")
    return names


def _json(text: str, kinds: type | tuple[type, ...] = dict, rule: str = "a JSON object") -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON: {error}") from None
    if not isinstance(value, kinds):
        raise ValueError(f"must be {rule}")  # noqa: TRY004  # a ValueError is a mistake of the user's
    return value


def _example(text: str) -> dict[str, Any]:
    value: dict[str, Any] = _json(text)
    if len(value) != 1 or not value.keys() <= {"input", "inputs"}:
        raise ValueError('must be the body of a request: {"input": [1, 2, 3]} or {"inputs": {"age": 4}}')
    return value


def _batch(text: str) -> Batching:
    if text == "dynamic" or text == "none":
        return Batching(text)
    if text.isdecimal() and 0 < int(text) <= _MAX_BATCH_ROWS:
        return Batching("fixed", int(text))
    raise ValueError(f"must be dynamic, none, or the number of rows of every run, at most {_MAX_BATCH_ROWS}")


def _yes(text: str) -> bool:
    if text.lower() in ("yes", "true", "1", "no", "false", "0"):
        return text.lower() in ("yes", "true", "1")
    raise ValueError("must be yes or no")


def _at_least_one(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise ValueError("must be a whole number of at least 1")
    return int(text)


def _tolerance(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise ValueError("must be a number of at least 0")
    return value
