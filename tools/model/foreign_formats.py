"""Files of models that are not packaged as they are, told by their content, each with the way on."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickletools
import zlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from server.model.onnx_file import Field, fields

_HEAD_BYTES = 4096


def _own_code(*packages: str) -> str:
    return (
        "put it into a folder with a predictor.py that loads it and a requirements.txt with"
        f" {', '.join(packages)}: make model FROM=that-folder"
    )


_SAVED_MODEL = (
    "  python -m tf2onnx.convert --saved-model FOLDER --output model.onnx, then make model FROM=model.onnx;\n"
    f"  or {_own_code('tensorflow-cpu')}"
)
_BY_HEAD: tuple[tuple[bytes, str], ...] = (
    (b"GGUF", f"is a GGUF language model:\n  {_own_code('llama-cpp-python')}"),
    (
        b"\x12\x01\0\0\0\0\0\0",
        "has MXNet parameters:\n  mxnet.onnx.export_model('model-symbol.json', 'model-0000.params', ...), then"
        " make model FROM=model.onnx",
    ),
    (b"7767517\n", "is an ncnn network: package the model that it was made from"),
)
_BY_XML: tuple[tuple[bytes, str], ...] = (
    (
        b"<PMML",
        f"is PMML:\n  {_own_code('pypmml')}, and a packages.txt with default-jre-headless",
    ),
    (b"<net ", f"is an OpenVINO network:\n  {_own_code('openvino')}, with its .bin file beside"),
)
_R = (
    "was saved by R: serve it by R's own server, for which the config key `build` takes a folder with a Dockerfile;\n"
    "  XGBoost and LightGBM in R save files that are packaged as they are: xgb.save(model, 'model.json'),"
    " lgb.save(model, 'model.txt')"
)


def describe(path: Path, head: bytes) -> str | None:
    """Say what the file is and what to do about it, to follow its name; None when it is not known."""
    if head[4:8] == b"TFL3":
        return (
            "is TensorFlow Lite:\n  python -m tf2onnx.convert --tflite model.tflite --output model.onnx, then"
            f" make model FROM=model.onnx;\n  or {_own_code('ai-edge-litert')}"
        )
    if head.startswith((b"RDX2\n", b"RDX3\n", b"X\n\0\0\0", b"A\n")):
        return _R
    for beginning, meaning in _BY_HEAD:
        if head.startswith(beginning):
            return meaning
    for element, meaning in _BY_XML:
        if element in head and head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"<"):
            return meaning
    return _protobuf(path, head)


def in_json(head: bytes) -> str | None:
    """Say what a JSON file is."""
    if b'"arg_nodes"' in head or (b'"op"' in head and b'"nodes"' in head):
        return (
            "is an MXNet network:\n  mxnet.onnx.export_model('model-symbol.json', 'model-0000.params', ...), then"
            " make model FROM=model.onnx"
        )
    if b'"model_type"' in head or b'"architectures"' in head:
        return "is a Hugging Face configuration: name the folder that it is in: make model FROM=that-folder"
    if b'"class_name"' in head and b'"config"' in head:
        return "is a Keras network without its weights: model.save('model.keras') saves both"
    if b'"modelTopology"' in head:
        return "is TensorFlow.js: package the model that it was made from"
    if b'"oblivious_trees"' in head or b'"model_info"' in head:
        return "is a CatBoost model as JSON: model.save_model('model.cbm') saves one that is packaged as it is"
    return None


def of_tensors(names: Iterable[str]) -> str | None:
    """Say what a safetensors file with these names is, where it is no whole model."""
    if any(".lora_" in name or name.startswith(("lora_", "base_model.model.")) for name in names):
        return (
            "has the tensors of a LoRA adapter, which is no model without the one that it adapts. Merge them:\n"
            "  PeftModel.from_pretrained(base, 'adapter').merge_and_unload().save_pretrained('merged'), and the"
            " tokenizer's save_pretrained('merged'); then make model FROM=merged"
        )
    return None


def unpacked(head: bytes, path: Path) -> tuple[str, bytes] | None:
    """The command that unpacks a compressed file, and the first bytes in it; None when it is not compressed."""
    readers = {
        b"\x1f\x8b": ("gzip -dc", gzip.open),
        b"BZh": ("bzip2 -dc", bz2.open),
        b"\xfd7zXZ": ("xz -dc", lzma.open),
    }
    for beginning, (command, opened) in readers.items():
        if head.startswith(beginning):
            with suppress(OSError, EOFError, lzma.LZMAError, zlib.error), opened(path, "rb") as file:
                return command, file.read(_HEAD_BYTES)
            return command, b""
    if head[:2] in (b"\x78\x01", b"\x78\x9c", b"\x78\xda", b"\x78\x5e"):
        with suppress(zlib.error):
            return "zlib-flate -uncompress <", zlib.decompressobj().decompress(head, _HEAD_BYTES)
    return ("lz4 -dc", b"") if head.startswith(b"\x04\x22\x4d\x18") else None


def is_pickle_head(head: bytes) -> bool:
    """Tell a pickle of any protocol by its first opcodes, of which the rest may be missing."""
    if head[:1] == b"\x80" and len(head) > 1 and 2 <= head[1] <= 5:
        return True
    seen = 0
    with suppress(ValueError):
        for opcode, _, _ in pickletools.genops(io.BytesIO(head)):
            seen += 1
            if opcode.name in ("GLOBAL", "INST", "STOP"):
                return seen > 1 or opcode.name != "STOP"
    return False


def _protobuf(path: Path, head: bytes) -> str | None:
    """Tell the messages of other frameworks by their fields."""
    with suppress(ValueError):
        found = dict[int, list[int | memoryview]]()
        for number, value in fields(memoryview(path.read_bytes())):
            found.setdefault(number, []).append(value)
        if path.name == "saved_model.pb" or (set(found) == {1, 2} and head.startswith(b"\x08")):
            return f"is the graph of a TensorFlow SavedModel, without the weights beside it:\n{_SAVED_MODEL}"
        if head.startswith(b"\x08") and any(number >= 200 for number in found):
            return "is Core ML, which runs on Apple's machines only: export the original model to ONNX"
        if head.startswith(b"\n") and set(found) <= {1, 2, 3, 4, 5}:
            first = found[1][0]
            inner = next(iter(fields(first)), None) if isinstance(first, memoryview) else None
            return _graph(inner)
    return None


def _graph(inner: Field | None) -> str | None:
    """Tell a TensorFlow graph, whose nodes start with their names, from Paddle's program, whose blocks have numbers."""
    if inner is None or inner[0] != 1:
        return None
    if isinstance(inner[1], memoryview):
        return (
            "is a frozen TensorFlow graph:\n  python -m tf2onnx.convert --graphdef model.pb --inputs INPUT:0 --outputs"
            f" OUTPUT:0 --output model.onnx, then make model FROM=model.onnx;\n  or {_own_code('tensorflow-cpu')}"
        )
    return (
        "is a Paddle program:\n  paddle2onnx --model_dir FOLDER --model_filename model.pdmodel --params_filename"
        " model.pdiparams --save_file model.onnx, then make model FROM=model.onnx"
    )
