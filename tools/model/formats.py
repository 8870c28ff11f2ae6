"""The formats of model files, told by their content, whatever their name says."""

from __future__ import annotations

import pickletools
import zipfile
from enum import Enum
from pathlib import Path

from server.model.onnx_file import has_external_data
from tools.model.errors import ModelError

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
    PREDICTOR = "Python code (predictor.py)"


_PICKLE = (
    "is a pickle, which runs code of its author's choice when it is loaded, so it never is.\n"
    "  scikit-learn: save the model with skops: skops.io.dump(model, 'model.skops')\n"
    "  XGBoost: model.save_model('model.json'); LightGBM: model.booster_.save_model('model.txt')\n"
    "  PyTorch: torch.save(network.state_dict(), 'model.pth')"
)
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x78\x01", b"\x78\x9c", b"\x78\xda", b"\x78\x5e")
_OTHERS = (
    (b"\x89HDF", "is HDF5 (Keras): save it as ONNX: model.export('model.onnx', format='onnx')"),
    (b"CBM1", "is CatBoost's own: save it as ONNX: model.save_model('model.onnx', format='onnx')"),
    (b"binf", "is XGBoost's old binary format: model.save_model('model.json')"),
    (b"\x93NUMPY", "holds an array, not a model: such a file can be --data, as .npz"),
    (b"GGUF", "is a GGUF language model, which this server is not for"),
)


def detect(path: Path) -> Format:
    """Tell the format; a ModelError says what the file is instead and how to save the model."""
    if (path / "predictor.py").is_file():
        return Format.PREDICTOR
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
    if head.startswith(_COMPRESSED):
        raise ModelError(f"{path} is compressed; unpack it first. If joblib wrote it, it {_PICKLE}")
    if head[257:262] == b"ustar":
        raise ModelError(f"{path} is a tar file, as PyTorch wrote before 2018: load it there and save it again")
    if head[2:].startswith(_TORCH_MAGIC) and head[0] == 0x80:
        return Format.STATE_DICT
    if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return Format.SAFETENSORS
    if head.lstrip().startswith(b"{"):
        if b"learner" in head:
            return Format.XGBOOST
        raise ModelError(f"{path} looks like JSON, but not like a model that XGBoost saved")
    if head.startswith((b"tree\nversion=", b"tree\r\nversion=")):
        return Format.LIGHTGBM
    if _is_pickle(path, head):
        raise ModelError(f"{path} {_PICKLE}")
    if head.startswith(b"\x08") and _is_onnx(path):
        return Format.ONNX
    known = ".onnx, .pth/.pt, .safetensors, .pt2, .skops, XGBoost's .json/.ubj, LightGBM's .txt"
    raise ModelError(f"{path} is no model that is known here: {known}")


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
        has_external_data(path.read_bytes())
    except ValueError:
        return False
    return True
