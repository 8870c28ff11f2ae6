"""Files of other frameworks: each is told by its content, with a way on."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import pickle
import struct
import zipfile
import zlib
from pathlib import Path

import pytest

from tools.model.errors import ModelError
from tools.model.formats import Format, about_pickle, detect


def _field(number: int, content: bytes) -> bytes:
    return bytes([*_varint(number << 3 | 2), *_varint(len(content))]) + content


def _number(number: int, value: int) -> bytes:
    return bytes([*_varint(number << 3), *_varint(value)])


def _varint(value: int) -> list[int]:
    return [value] if value < 128 else [value & 127 | 128, *_varint(value >> 7)]


class _Model:
    """Something that a pickle names by its module and class."""


_GRAPH_DEF = _field(1, _field(1, b"input") + _field(2, b"Placeholder")) + _field(4, _number(1, 1900))
_PADDLE = _field(1, _number(1, 0) + _number(2, 0)) + _field(4, _number(1, 0))
_SAVED_MODEL = _number(1, 1) + _field(2, _field(1, b"serve"))
_CORE_ML = _number(1, 7) + _field(2, b"description") + _field(500, b"network")


@pytest.mark.parametrize(
    ("content", "said", "way_on"),
    [
        (b"\x1c\0\0\0TFL3", "is TensorFlow Lite", "python -m tf2onnx.convert --tflite"),
        (b"GGUF\x03\0\0\0", "is a GGUF language model", "llama-cpp-python"),
        (_GRAPH_DEF, "is a frozen TensorFlow graph", "python -m tf2onnx.convert --graphdef"),
        (_SAVED_MODEL, "TensorFlow SavedModel", "python -m tf2onnx.convert --saved-model"),
        (_PADDLE, "is a Paddle program", "paddle2onnx --model_dir"),
        (_CORE_ML, "is Core ML", "export the original model to ONNX"),
        (struct.pack("<QQ", 0x112, 0), "MXNet parameters", "mxnet.onnx.export_model"),
        (b'{"nodes": [{"op": "null"}], "arg_nodes": [0]}', "MXNet network", "mxnet.onnx.export_model"),
        (b'<?xml version="1.0"?>\n<PMML version="4.4">', "is PMML", "pypmml"),
        (b'<?xml version="1.0"?>\n<net name="a" version="11">', "OpenVINO", "make model FROM=that-folder"),
        (gzip.compress(b"X\n\0\0\0\x03\0\x04"), "was saved by R", "`build`"),
        (gzip.compress(b"RDX3\nX\n"), "was saved by R", "xgb.save"),
        (b"A\n3\n262146\n", "was saved by R", "`build`"),
        (b'{"model_type": "bert"}', "Hugging Face configuration", "make model FROM=that-folder"),
        (b'{"class_name": "Sequential", "config": {}}', "Keras network without its weights", "model.keras"),
    ],
)
def test_what_a_file_is_and_the_way_on(tmp_path: Path, content: bytes, said: str, way_on: str) -> None:
    (tmp_path / "model").write_bytes(content)
    with pytest.raises(ModelError) as caught:
        detect(tmp_path / "model")
    assert said in str(caught.value)
    assert way_on in str(caught.value)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress, zlib.compress])
def test_a_pickle_is_told_however_it_is_packed(tmp_path: Path, protocol: int, pack: type[bytes]) -> None:
    file = tmp_path / "model.joblib"
    file.write_bytes(pack(pickle.dumps(_Model(), protocol)))
    assert detect(file) is Format.PICKLE
    assert ("is compressed" in about_pickle(file)) == (pack is not bytes)


def test_another_compressed_file_is_unpacked_by_a_command(tmp_path: Path) -> None:
    (tmp_path / "my model.onnx.gz").write_bytes(gzip.compress(b"anything else"))
    with pytest.raises(ModelError) as caught:
        detect(tmp_path / "my model.onnx.gz")
    unpacked = f"{tmp_path}/my model.onnx"
    assert f"gzip -dc '{unpacked}.gz' > '{unpacked}' && make model FROM='{unpacked}'" in str(caught.value)


@pytest.mark.parametrize(
    ("tensor", "said"),
    [("base_model.model.layers.0.q_proj.lora_A.weight", "LoRA adapter"), ("layers.0.weight", None)],
)
def test_an_adapter_is_no_model(tmp_path: Path, tensor: str, said: str | None) -> None:
    header = json.dumps({tensor: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    if said is None:
        assert detect(tmp_path / "m.safetensors") is Format.SAFETENSORS
    else:
        with pytest.raises(ModelError, match=said):
            detect(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("entry", "said"), [("a.mlpackage/Data/com.apple.CoreML/model.mlmodel", "Core ML"), ("model.ini", "H2O MOJO")]
)
def test_packed_folders_of_others(tmp_path: Path, entry: str, said: str) -> None:
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        archive.writestr("Manifest.json", b"{}")
        archive.writestr(entry, b"")
    with pytest.raises(ModelError, match=said):
        detect(tmp_path / "m.zip")
