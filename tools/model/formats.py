"""The formats of model files, told by their content, whatever their name says."""

from __future__ import annotations

import json
import pickletools
import shlex
import zipfile
from enum import Enum
from pathlib import Path

from server.model.onnx_file import has_graph
from tools.model import foreign_formats
from tools.model.errors import ModelError
from tools.model.huggingface_folder import is_huggingface

_TORCH_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The start of the pickles in PyTorch's own files before 1.6, after the protocol."""
_HEAD_BYTES = 4096


class Format(Enum):
    """A format that can be packaged; the value is what people call it."""

    ONNX = "ONNX"
    STATE_DICT = "PyTorch state dict"
    SAFETENSORS = "safetensors state dict"
    PT2 = "torch.export archive"
    TORCHSCRIPT = "TorchScript"
    SKOPS = "scikit-learn (skops)"
    XGBOOST = "XGBoost"
    LIGHTGBM = "LightGBM"
    CATBOOST = "CatBoost"
    PICKLE = "a pickle"
    HUGGINGFACE = "Hugging Face"
    PREDICTOR = "Python code (predictor.py)"


_PICKLE = (
    "is a pickle, which runs code of its author's choice when it is loaded, so it never is unasked.\n"
    "  scikit-learn: save the model with skops: skops.io.dump(model, 'model.skops')\n"
    "  XGBoost: model.save_model('model.json'); LightGBM: model.booster_.save_model('model.txt')\n"
    "  PyTorch: torch.save(network.state_dict(), 'model.pth')"
)
_OTHERS = (
    (b"\x89HDF", "is HDF5 (Keras): save it as ONNX: model.export('model.onnx', format='onnx')"),
    (b"binf", "is XGBoost's old binary format: model.save_model('model.json') in XGBoost 2 or before, which reads it"),
    (b"\x93NUMPY", "holds an array, not a model: such a file can be --data, as .npz"),
)


def detect(path: Path) -> Format:
    """Tell the format; a ModelError says what the file is instead and how to save the model."""
    if (path / "predictor.py").is_file():
        return Format.PREDICTOR
    if is_huggingface(path):
        return Format.HUGGINGFACE
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from None
    if not head:
        raise ModelError(f"{path} is empty")
    if head.startswith(b"PK\x03\x04"):
        return _zip(path)
    for beginning, meaning in _OTHERS:
        if head.startswith(beginning):
            raise ModelError(f"{path} {meaning}")
    if _is_packed_pickle(path, head):
        return Format.PICKLE
    if packed := foreign_formats.unpacked(head, path):
        raise ModelError(f"{path} {_about_packed(path, *packed)}")
    if head[257:262] == b"ustar":
        raise ModelError(f"{path} is a tar file, as PyTorch wrote before 2018: load it there and save it again")
    if head[2:].startswith(_TORCH_MAGIC) and head[0] == 0x80:
        return Format.STATE_DICT
    if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return _safetensors(path)
    if head.lstrip().startswith(b"{"):
        if b"learner" in head:
            return Format.XGBOOST
        meaning = foreign_formats.in_json(head)
        raise ModelError(f"{path} {meaning or 'looks like JSON, but not like a model that XGBoost saved'}")
    if head.startswith(b"CBM1"):
        return Format.CATBOOST
    if head.startswith((b"tree\nversion=", b"tree\r\nversion=")):
        return Format.LIGHTGBM
    if _is_pickle(path, head):
        return Format.PICKLE
    if head.startswith(b"\x08") and _is_onnx(path):
        return Format.ONNX
    if meaning := foreign_formats.describe(path, head):
        raise ModelError(f"{path} {meaning}")
    known = ".onnx, .pth/.pt, .safetensors, .pt2, .skops, XGBoost's .json/.ubj, LightGBM's .txt, .cbm"
    raise ModelError(f"{path} is no model that is known here: {known}")


def about_pickle(path: Path) -> str:
    """Say why a pickle is not loaded, and how to save the model instead."""
    with path.open("rb") as file:
        packed = _is_packed_pickle(path, file.read(_HEAD_BYTES))
    return f"{path} {'is compressed, as joblib does it, and ' if packed else ''}{_PICKLE}"


def _is_packed_pickle(path: Path, head: bytes) -> bool:
    command, inside = foreign_formats.unpacked(head, path) or ("", b"")
    return bool(command) and (foreign_formats.is_pickle_head(inside) or command.startswith(("zlib", "lz4")))


def _about_packed(path: Path, command: str, inside: bytes) -> str:
    meaning = foreign_formats.describe(path, inside)
    if meaning:
        return meaning
    if inside[257:262] == b"ustar":
        return f"is a packed folder: unpack it, tar -xf {shlex.quote(str(path))}, and name the model file in it"
    target = path.with_suffix("") if path.suffix in (".gz", ".bz2", ".xz") else path.with_name(f"{path.name}.unpacked")
    unpack = f"{command} {shlex.quote(str(path))} > {shlex.quote(str(target))}"
    return f"is compressed; unpack it first:\n  {unpack} && make model FROM={shlex.quote(str(target))}"


def _safetensors(path: Path) -> Format:
    """Tell whole networks from adapters by the tensors' names, which are in the header."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        try:
            names = list(json.loads(file.read(size)))
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{path} is a damaged safetensors file: {error}") from None
    if meaning := foreign_formats.of_tensors(names):
        raise ModelError(f"{path} {meaning}")
    return Format.SAFETENSORS


def _zip(path: Path) -> Format:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise ModelError(f"{path} is a damaged zip file: {error}") from None
    files = {name.partition("/")[2] for name in names} | set(names)
    if "archive_format" in files or any(name.startswith("models/") for name in files):
        return Format.PT2
    if "serialized_exported_program.json" in files:
        raise ModelError(
            f"{path} was saved by torch.export.save of a PyTorch before 2.8: save it again with a newer one"
        )
    if "constants.pkl" in files:
        return Format.TORCHSCRIPT
    if "data.pkl" in files:
        return Format.STATE_DICT
    if "schema.json" in files:
        return Format.SKOPS
    if all(name.endswith(".npy") for name in names):
        raise ModelError(f"{path} holds arrays, not a model: such a file can be --data")
    if "config.json" in files and any(name.endswith(".h5") for name in names):
        raise ModelError(f"{path} is Keras: save it as ONNX: model.export('model.onnx', format='onnx')")
    if "Manifest.json" in files and any(name.endswith(".mlmodel") for name in names):
        raise ModelError(f"{path} is Core ML, which runs on Apple's machines only: export the original model to ONNX")
    if "model.ini" in files:
        raise ModelError(
            f"{path} is an H2O MOJO, which needs Java: the config key `build` takes a folder with your own Dockerfile"
        )
    raise ModelError(f"{path} is a zip file, but none that holds a model known here")


def _is_pickle(path: Path, head: bytes) -> bool:
    """Tell protocol 2 and later by the first bytes; earlier ones are text that only a whole read can tell."""
    if head[0] == 0x80 and 2 <= head[1] <= 5:
        return True
    if head[0] not in b"(]}cC":
        return False
    try:
        return any(opcode.name == "STOP" for opcode, _, _ in pickletools.genops(path.read_bytes()))
    except ValueError:
        return False


def _is_onnx(path: Path) -> bool:
    try:
        return has_graph(path.read_bytes())
    except ValueError:
        return False
