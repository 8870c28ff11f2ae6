from __future__ import annotations

import json
import struct
import time
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from server.errors import Problem
from server.model.manifest import Batching, Image, Input, Manifest, Output
from server.model.tensors import DTYPES
from server.protocol.open_inference import V2, InferRequest, error_body


def manifest(
    inputs: list[Input], outputs: list[Output] | None = None, batching: Batching = "dynamic", **more: Any
) -> Manifest:
    outputs = outputs or [Output(name="y", datatype="FP32", shape=[-1, 2])]
    example = msgspec.Raw(b'{"input":[1,2]}')
    return Manifest(name="m", version="3", inputs=inputs, outputs=outputs, batching=batching, example=example, **more)


def one(datatype: Any = "FP32", shape: list[int] | None = None, batching: Batching = "dynamic", **more: Any) -> V2:
    return V2(manifest([Input(name="x", datatype=datatype, shape=shape or [-1, 2], **more)], batching=batching), 4)


X2 = one()
TWO = V2(
    manifest(
        [Input(name="a", datatype="FP32", shape=[-1, 2]), Input(name="text", datatype="BYTES", shape=[-1])],
        [Output(name="y", datatype="FP32", shape=[-1, 2]), Output(name="label", datatype="BYTES", shape=[-1])],
    ),
    max_rows=4,
)


def tensor(data: Any = (1, 2), shape: Any = (1, 2), datatype: Any = "FP32", name: Any = "x", **more: Any) -> Any:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data, **more}


def body(*inputs: Any, **more: Any) -> bytes:
    return json.dumps({"inputs": inputs, **more}).encode()


def binary(
    *tensors: tuple[str, str, list[int], bytes], tail: bytes = b"", announced: int = 0, **more: Any
) -> tuple[bytes, str]:
    """A binary request and its header; `announced` is added to the first tensor's size."""
    inputs = [
        {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(content)}}
        for name, datatype, shape, content in tensors
    ]
    inputs[0]["parameters"]["binary_data_size"] += announced
    header = json.dumps({"inputs": inputs, **more}).encode()
    return header + b"".join(content for *_, content in tensors) + tail, str(len(header))


def strings(*texts: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def problem(v2: V2, content: bytes, header_length: str | None = None) -> tuple[int, str, str | None]:
    with pytest.raises(Problem) as error:
        v2.decode(content, header_length)
    assert error.value.message
    assert "error" in json.loads(error_body(error.value))
    return error.value.status, error.value.code, error.value.path


# --- metadata


def test_the_server_describes_itself() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert json.loads(X2.server_metadata()) == {
        "name": project["name"],
        "version": project["version"],
        "extensions": ["binary_tensor_data"],
    }


def test_the_model_describes_itself() -> None:
    described = manifest(
        [
            Input(name="x", datatype="FP32", shape=[8, 2], features=["age", "height"], nullable=True),
            Input(name="photo", datatype="FP32", shape=[8, 3, 4, 5], image=Image(std=[1, 1, 2])),
        ],
        [Output(name="y", datatype="INT64", shape=[8], labels=["no", "yes"])],
        batching="fixed",
    )
    metadata = json.loads(V2(described, 4).model_metadata())
    send = metadata["parameters"]["images"]["photo"].pop("send")
    assert "preprocessed" in send
    assert metadata == {
        "name": "m",
        "versions": ["3"],
        "platform": "onnxruntime_onnx",
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [-1, 2]},
            {"name": "photo", "datatype": "FP32", "shape": [-1, 3, 4, 5]},
        ],
        "outputs": [{"name": "y", "datatype": "INT64", "shape": [-1]}],
        "parameters": {
            "batching": "fixed",
            "example": {"input": [1, 2]},
            "features": {"x": ["age", "height"]},
            "labels": {"y": ["no", "yes"]},
            "nullable": ["x"],
            "images": {
                "photo": {
                    "preprocessing": {"mode": "RGB", "layout": "CHW", "scale": 1 / 255, "mean": [], "std": [1, 1, 2]}
                }
            },
        },
    }


def test_a_model_without_rows_has_its_own_shapes() -> None:
    metadata = json.loads(one(shape=[2], batching="none").model_metadata())
    assert metadata["inputs"][0]["shape"] == [2]


# --- JSON requests


@pytest.mark.parametrize("data", [[1, 2, 3, 4], [[1, 2], [3, 4]]], ids=["flat", "nested"])
def test_json_data_is_flat_or_nested(data: Any) -> None:
    request = X2.decode(body(tensor(data, [2, 2]), id="7"), None)
    assert request.inputs["x"].tolist() == [[1, 2], [3, 4]]
    assert request.inputs["x"].dtype == np.float32
    assert (request.rows, request.id, request.outputs) == (2, "7", {"y": False})


def test_a_deeper_shape_is_nested_as_deep() -> None:
    v2 = one("INT32", [-1, -1, 2])
    data = [[[1, 2], [3, 4], [5, 6]]]
    assert v2.decode(body(tensor(data, [1, 3, 2], "INT32")), None).inputs["x"].tolist() == data
    ragged = body(tensor([[[1, 2], [3], [5, 6]]], [1, 3, 2], "INT32"))
    assert problem(v2, ragged) == (422, "wrong_shape", "$.inputs[0].data[0][1]")
    large = body(tensor([[[1, 2], [3, 2**31], [5, 6]]], [1, 3, 2], "INT32"))
    assert problem(v2, large) == (422, "wrong_type", "$.inputs[0].data[0][1][1]")


@pytest.mark.parametrize(
    ("datatype", "values", "too_large"),
    [
        ("BOOL", [True, False], None),
        ("INT8", [-128, 127], 128),
        ("INT16", [-(2**15), 2**15 - 1], -(2**15) - 1),
        ("INT32", [-(2**31), 2**31 - 1], 2**31),
        ("INT64", [-(2**63), 2**63 - 1], 2**63),
        ("UINT8", [0, 255], -1),
        ("UINT16", [0, 2**16 - 1], 2**16),
        ("UINT32", [0, 2**32 - 1], 2**32),
        ("UINT64", [0, 2**64 - 1], 2**64),
        ("FP16", [0.5, 65504.0], 65520),
        ("FP32", [0.5, float(np.finfo(np.float32).max)], 1e39),
        ("FP64", [0.1, 1.7e308], None),
        ("BYTES", ["", 'say "data" \\ \u20ac'], None),
    ],
)
def test_each_datatype_in_both_forms(datatype: Any, values: list[Any], too_large: Any) -> None:
    v2 = V2(
        manifest(
            [Input(name="x", datatype=datatype, shape=[-1, 2])], [Output(name="y", datatype=datatype, shape=[-1, 2])]
        ),
        4,
    )
    from_json = v2.decode(body(tensor(values, [1, 2], datatype)), None).inputs["x"]
    assert from_json.dtype == DTYPES[datatype]
    assert from_json.tolist() == [values]
    packed = (
        strings(*(value.encode() for value in values))
        if datatype == "BYTES"
        else np.array(values, DTYPES[datatype]).tobytes()
    )
    content, length = binary(("x", datatype, [1, 2], packed))
    for padding in range(4):  # wherever the numbers lie in the body
        shifted = content[: int(length)] + b" " * padding + content[int(length) :]
        request = v2.decode(shifted, str(int(length) + padding))
        assert request.inputs["x"].dtype == DTYPES[datatype]
        assert request.inputs["x"].tolist() == [values]
        assert request.inputs["x"].flags.aligned
    for wanted in (False, True):
        headers, answer = v2.encode({"y": from_json}, InferRequest({}, 1, None, {"y": wanted}))
        described, data = split(headers, answer)
        assert described["outputs"][0]["datatype"] == datatype
        assert described["outputs"][0]["shape"] == [1, 2]
        assert (data == packed) if wanted else (described["outputs"][0]["data"] == values)
    if too_large is not None:
        large = body(tensor([values[0], too_large], [1, 2], datatype))
        assert problem(v2, large) == (422, "wrong_type", "$.inputs[0].data[1]")


def test_null_is_a_missing_value_where_there_may_be_one() -> None:
    request = one(nullable=True).decode(body(tensor([None, 2])), None)
    assert np.isnan(request.inputs["x"]).tolist() == [[True, False]]
    assert problem(X2, body(tensor([1, None]))) == (422, "wrong_type", "$.inputs[0].data[1]")


@pytest.mark.parametrize(
    ("shape", "batching", "given", "path"),
    [
        ([-1, -1], "dynamic", [1, 4], "$.inputs[0].shape[1]"),
        ([-1, 4, -1], "dynamic", [1, 4, 4], "$.inputs[0].shape[2]"),
        ([4, -1], "fixed", [1, 2**62], "$.inputs[0].shape[1]"),
        ([-1], "none", [4], "$.inputs[0].shape[0]"),
        ([4, -1], "none", [4, 4], "$.inputs[0].shape[1]"),
    ],
)
def test_a_free_size_has_a_maximum_and_the_rows_another(
    shape: list[int], batching: Batching, given: list[int], path: str
) -> None:
    v2 = one(shape=shape, batching=batching, max_size=3)
    assert problem(v2, body(tensor([0] * 16, given))) == (422, "wrong_shape", path)
    fits = [3 if size == -1 else size for size in shape]
    v2.decode(body(tensor([0] * int(np.prod(fits)), fits)), None)


def test_a_text_has_a_maximum() -> None:
    v2 = one("BYTES", [-1], max_characters=3)
    assert problem(v2, body(tensor(["abc", "abcd"], [2], "BYTES"))) == (422, "wrong_type", "$.inputs[0].data[1]")
    assert problem(v2, *binary(("x", "BYTES", [2], strings(b"abc", b"abcd")))) == (
        422,
        "wrong_type",
        "$.inputs[0].data[1]",
    )
    content, length = binary(("x", "BYTES", [1], strings(b"\xe2\x82\xac" * 3)))
    assert v2.decode(content, length).inputs["x"].tolist() == ["\u20ac" * 3]


def test_a_model_without_rows_gets_one() -> None:
    v2 = one(shape=[2], batching="none")
    request = v2.decode(body(tensor([1, 2], [2])), None)
    assert (request.inputs["x"].tolist(), request.rows) == ([[1, 2]], 1)
    content, length = binary(("x", "FP32", [2], np.array([1, 2], np.float32).tobytes()))
    assert v2.decode(content, length).inputs["x"].shape == (1, 2)
    _, answer = v2.encode({"y": np.array([[3, 4]], np.float32)}, request)
    assert json.loads(answer)["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [2], "data": [3, 4]}]
    assert problem(v2, body(tensor([1, 2], [1, 2]))) == (422, "wrong_shape", "$.inputs[0].shape")


def test_a_scalar_of_a_model_without_rows() -> None:
    texts = manifest(
        [Input(name="x", datatype="INT64", shape=[])], [Output(name="y", datatype="BYTES", shape=[])], batching="none"
    )
    v2 = V2(texts, 4)
    request = v2.decode(body(tensor([5], [], "INT64")), None)
    assert request.inputs["x"].tolist() == [5]
    _, answer = v2.encode({"y": np.array(["five"], object)}, request)
    assert json.loads(answer)["outputs"] == [{"name": "y", "datatype": "BYTES", "shape": [], "data": ["five"]}]


def test_several_inputs_in_any_order() -> None:
    text = tensor(["p", "q"], [2], "BYTES", "text")
    request = TWO.decode(body(text, tensor([1, 2, 3, 4], [2, 2], name="a")), None)
    assert request.inputs["a"].tolist() == [[1, 2], [3, 4]]
    assert request.inputs["text"].tolist() == ["p", "q"]


def test_what_others_write_is_tolerated() -> None:
    given = tensor(parameters={"content_type": "np"})
    request = X2.decode(body(given, model_name="m", parameters={"timeout": 5, "headers": {"a": [1]}}, outputs=[]), None)
    assert request.outputs == {"y": False}
    assert X2.decode(body(tensor(parameters=None), parameters=None, outputs=None, id=None), None).id is None


BAD: list[tuple[str, bytes, int, str, str]] = [
    ("empty body", b"", 400, "empty_body", "$"),
    ("not json", b"x=1", 400, "malformed_json", "$"),
    ("trailing garbage", body(tensor()) + b"x", 400, "malformed_json", "$"),
    ("byte-order mark", b"\xef\xbb\xbf" + body(tensor()), 400, "malformed_json", "$"),
    ("invalid UTF-8", body(tensor()).replace(b'"x"', b'"\xff"'), 400, "malformed_json", "$"),
    ("NaN", body(tensor([1, float("nan")])), 400, "malformed_json", "$"),
    ("Infinity", body(tensor([1, float("-inf")])), 400, "malformed_json", "$"),
    ("not an object", b"[]", 422, "wrong_type", "$"),
    ("no inputs", b"{}", 422, "wrong_type", "$"),
    ("inputs is an object", b'{"inputs": {}}', 422, "wrong_type", "$.inputs"),
    ("empty inputs", body(), 422, "missing_input", "$.inputs"),
    ("no name", b'{"inputs": [{}]}', 422, "wrong_type", "$.inputs[0]"),
    ("a name of another type", body(tensor(name=1)), 422, "wrong_type", "$.inputs[0].name"),
    ("unknown input", body(tensor(), tensor(name="z")), 422, "unknown_input", "$.inputs[1].name"),
    ("an input twice", body(tensor(), tensor()), 422, "duplicate_input", "$.inputs[1].name"),
    ("another datatype", body(tensor(datatype="FP64")), 422, "wrong_type", "$.inputs[0].datatype"),
    ("no such datatype", body(tensor(datatype="float" * 99)), 422, "wrong_type", "$.inputs[0].datatype"),
    ("shape is a number", body(tensor(shape=2)), 422, "wrong_type", "$.inputs[0].shape"),
    ("shape of floats", body(tensor(shape=[1, 2.5])), 422, "wrong_type", "$.inputs[0].shape[1]"),
    ("negative shape", body(tensor(shape=[-1, 2])), 422, "wrong_type", "$.inputs[0].shape[0]"),
    ("no rows", body(tensor([], [0, 2])), 422, "wrong_type", "$.inputs[0].shape[0]"),
    ("another width", body(tensor([1, 2, 3], [1, 3])), 422, "wrong_shape", "$.inputs[0].shape"),
    ("another rank", body(tensor([1, 2], [2])), 422, "wrong_shape", "$.inputs[0].shape"),
    ("a rank of thousands", body(tensor([1, 2], [1] * 9999)), 422, "wrong_shape", "$.inputs[0].shape"),
    ("too many rows", body(tensor([1] * 10, [5, 2])), 413, "too_many_rows", "$.inputs[0].shape"),
    ("absurdly many rows", body(tensor([1, 2], [2**62, 2])), 413, "too_many_rows", "$.inputs[0].shape"),
    ("a size of 5000 digits", body(tensor()).replace(b"[1, 2]", b"[" + b"9" * 5000 + b", 2]"), 422, "wrong_type",
     "$.inputs[0].shape[0]"),
    ("no data", body({"name": "x", "datatype": "FP32", "shape": [1, 2]}), 422, "wrong_type", "$.inputs[0]"),
    ("null data", body(tensor(None)), 422, "wrong_type", "$.inputs[0].data"),
    ("data is an object", body(tensor({"0": 1})), 422, "wrong_type", "$.inputs[0].data"),
    ("too little data", body(tensor([1])), 422, "wrong_shape", "$.inputs[0].data"),
    ("too much data", body(tensor([1, 2, 3])), 422, "wrong_shape", "$.inputs[0].data"),
    ("empty data", body(tensor([])), 422, "wrong_shape", "$.inputs[0].data"),
    ("too little nested data", body(tensor([[1]])), 422, "wrong_shape", "$.inputs[0].data[0]"),
    ("too many nested rows", body(tensor([[1, 2], [3, 4]])), 422, "wrong_shape", "$.inputs[0].data"),
    ("a number among rows", body(tensor([[1, 2], 3], [2, 2])), 422, "wrong_type", "$.inputs[0].data[1]"),
    ("a row among numbers", body(tensor([1, [2]])), 422, "wrong_type", "$.inputs[0].data[1]"),
    ("deeper than the shape", body(tensor([[[1, 2]]])), 422, "wrong_type", "$.inputs[0].data[0][0]"),
    ("a string", body(tensor([1, "2"])), 422, "wrong_type", "$.inputs[0].data[1]"),
    ("a boolean", body(tensor([True, 2])), 422, "wrong_type", "$.inputs[0].data[0]"),
    ("overflow", body(tensor([[1, 2], [1e39, 4]], [2, 2])), 422, "wrong_type", "$.inputs[0].data[1][0]"),
    ("overflow of JSON", body(tensor()).replace(b"[1, 2]}", b"[1, 1e999]}"), 422, "wrong_type", "$.inputs[0].data[1]"),
    ("too deep", b'{"inputs": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", 422, "wrong_type", "$.inputs[0]"),
    ("too deep, ignored", b'{"inputs": [], "q": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", 400, "too_deep", "$"),
    ("a number as id", body(tensor(), id=7), 422, "wrong_type", "$.id"),
    ("unknown output", body(tensor(), outputs=[{"name": "z"}]), 422, "unknown_output", "$.outputs[0].name"),
    ("an output twice", body(tensor(), outputs=[{"name": "y"}] * 2), 422, "duplicate_output", "$.outputs[1].name"),
    ("classification", body(tensor(), outputs=[{"name": "y", "parameters": {"classification": 3}}]), 422,
     "unsupported", "$.outputs[0].parameters"),
    ("binary_data is no boolean", body(tensor(), outputs=[{"name": "y", "parameters": {"binary_data": 1}}]), 422,
     "wrong_type", "$.outputs[0].parameters.binary_data"),
    ("both data and binary", body(tensor(parameters={"binary_data_size": 8})), 422, "wrong_type", "$.inputs[0]"),
    ("negative binary size", body(tensor(parameters={"binary_data_size": -8})), 422, "wrong_type",
     "$.inputs[0].parameters.binary_data_size"),
    ("key twice", body(tensor()).replace(b'"inputs"', b'"inputs": [], "inputs"', 1), 400, "malformed_json",
     "$.inputs"),
    ("data twice", body(tensor()).replace(b'"data"', b'"data": [3, 4], "data"'), 400, "malformed_json",
     "$.inputs[0].data"),
    ("escaped key twice", body(tensor()).replace(b'"data"', b'"d\\u0061ta": [3, 4], "data"'), 400, "malformed_json",
     "$.inputs[0].data"),
    ("ignored key twice", body(tensor(), q={"k": 1}).replace(b'"k": 1', b'"k": 1, "k": 2'), 400, "malformed_json",
     "$.q.k"),
    ("invalid UTF-8, ignored", body(tensor(), q="?").replace(b"?", b"\xff"), 400, "malformed_json", "$"),
    ("lone surrogate, ignored", body(tensor(), q=1).replace(b'"q"', b'"\\ud800"'), 400, "malformed_json", "$"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "status", "code", "path"), [pytest.param(*case[1:], id=case[0]) for case in BAD])
def test_what_is_wrong_and_where(content: bytes, status: int, code: str, path: str) -> None:
    found = problem(X2, content)
    assert found == (status, code, None if code == "empty_body" else path)


def test_every_input_must_be_there_with_as_many_rows() -> None:
    a = tensor([1, 2, 3, 4], [2, 2], name="a")
    assert problem(TWO, body(a)) == (422, "missing_input", "$.inputs")
    one_text = tensor(["p"], [1], "BYTES", "text")
    assert problem(TWO, body(a, one_text)) == (422, "wrong_shape", "$.inputs[1].shape")


def test_strings_are_valid_unicode() -> None:
    v2 = one("BYTES", [-1])
    escaped = body(tensor(["?"], [1], "BYTES")).replace(b"?", b"\\ud800")
    assert problem(v2, escaped)[0] == 400
    assert problem(v2, body(tensor([1], [1], "BYTES"))) == (422, "wrong_type", "$.inputs[0].data[0]")


# --- binary requests

ROW = np.array([1, 2], np.float32).tobytes()


def test_binary_numbers_are_not_copied() -> None:
    content, length = binary(("x", "FP32", [1, 2], ROW))
    gap = -int(length) % 8
    content = content[: int(length)] + b" " * gap + content[int(length) :]
    array = X2.decode(content, str(int(length) + gap)).inputs["x"]
    if np.frombuffer(content, np.uint8).ctypes.data % 4 == 0:
        assert np.shares_memory(array, np.frombuffer(content, np.uint8))
        assert not array.flags.writeable


def test_binary_and_json_inputs_mix() -> None:
    header = {
        "inputs": [
            {"name": "text", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 7}},
            tensor(name="a"),
        ]
    }
    text = json.dumps(header).encode()
    request = TWO.decode(text + strings(b"\xe2\x82\xac"), str(len(text)))
    assert request.inputs["text"].tolist() == ["\u20ac"]
    assert request.inputs["a"].tolist() == [[1, 2]]


@pytest.mark.parametrize("length", ["", "x", "-1", "+5", "1_0", "5.0", " 5", "9" * 9, "9" * 5000, "\u0665", "\u00b2"])
def test_the_header_length_must_be_a_number_within_the_body(length: str) -> None:
    assert problem(X2, body(tensor()), length) == (400, "malformed_binary", "$")


def test_a_header_length_that_cuts_the_json() -> None:
    content, length = binary(("x", "FP32", [1, 2], ROW))
    assert problem(X2, content, str(int(length) - 1)) == (400, "malformed_json", "$")
    assert problem(X2, content, str(int(length) + 1))[:2] == (400, "malformed_json")
    assert problem(X2, content, "0")[:2] == (400, "empty_body")


def test_binary_without_its_header() -> None:
    content, _ = binary(("x", "FP32", [1, 2], ROW))
    assert problem(X2, content)[:2] == (400, "malformed_json")
    content, _ = binary(("x", "FP32", [1, 2], b""), announced=8)
    assert problem(X2, content) == (400, "malformed_binary", "$.inputs[0].parameters.binary_data_size")


SIZE = "$.inputs[0].parameters.binary_data_size"
BAD_BINARY: list[tuple[str, V2, tuple[bytes, str], tuple[int, str, str]]] = [
    ("missing bytes", X2, binary(("x", "FP32", [1, 2], ROW[:-1])), (400, "malformed_binary", SIZE)),
    ("bytes cut off", X2, binary(("x", "FP32", [1, 2], ROW[:-1]), announced=1), (400, "malformed_binary", SIZE)),
    ("absurd size", X2, binary(("x", "FP32", [1, 2], ROW), announced=2**62), (400, "malformed_binary", SIZE)),
    ("too small a size", X2, binary(("x", "FP32", [1, 2], ROW), announced=-4), (400, "malformed_binary", SIZE)),
    ("trailing bytes", X2, binary(("x", "FP32", [1, 2], ROW), tail=b"\0"), (400, "malformed_binary", "$")),
    ("NaN", X2, binary(("x", "FP32", [1, 2], np.array([1, np.nan], np.float32).tobytes())),
     (422, "wrong_type", "$.inputs[0].data[1]")),
    ("infinity", X2, binary(("x", "FP32", [1, 2], np.array([-np.inf, 1], np.float32).tobytes())),
     (422, "wrong_type", "$.inputs[0].data[0]")),
    ("infinity among missing", one("FP64", nullable=True),
     binary(("x", "FP64", [1, 2], np.array([np.nan, np.inf], np.float64).tobytes())),
     (422, "wrong_type", "$.inputs[0].data[1]")),
    ("neither true nor false", one("BOOL"), binary(("x", "BOOL", [1, 2], b"\1\2")),
     (400, "malformed_binary", "$.inputs[0].data[1]")),
    ("too many rows", X2, binary(("x", "FP32", [5, 2], ROW * 5)), (413, "too_many_rows", "$.inputs[0].shape")),
    ("huge free size", one("FP64", [-1, -1], max_size=2**62), binary(("x", "FP64", [1, 2**62], ROW)),
     (400, "malformed_binary", SIZE)),
    ("huge free size of strings", one("BYTES", [-1, -1], max_size=2**62),
     binary(("x", "BYTES", [1, 2**62], strings(b"a"))),
     (400, "malformed_binary", SIZE)),
    ("a string too long", one("BYTES", [-1]), binary(("x", "BYTES", [2], strings(b"ab") + b"\xff\0\0\0c")),
     (400, "malformed_binary", "$.inputs[0].data[1]")),
    ("a length of 4 GB", one("BYTES", [-1]), binary(("x", "BYTES", [1], b"\xff\xff\xff\xff")),
     (400, "malformed_binary", "$.inputs[0].data[0]")),
    ("a length cut short", one("BYTES", [-1]), binary(("x", "BYTES", [2], strings(b"abcd") + b"\1\0")),
     (400, "malformed_binary", "$.inputs[0].data[1]")),
    ("invalid UTF-8", one("BYTES", [-1]), binary(("x", "BYTES", [2], strings(b"a", b"\xff"))),
     (400, "malformed_binary", "$.inputs[0].data[1]")),
    ("bytes behind the strings", one("BYTES", [-1]), binary(("x", "BYTES", [1], strings(b"a") + b"\0")),
     (400, "malformed_binary", SIZE)),
]  # fmt: skip


@pytest.mark.parametrize(("v2", "request_", "expected"), [pytest.param(*case[1:], id=case[0]) for case in BAD_BINARY])
def test_what_is_wrong_in_binary(v2: V2, request_: tuple[bytes, str], expected: tuple[int, str, str]) -> None:
    assert problem(v2, *request_) == expected


def test_binary_nan_is_a_missing_value_where_there_may_be_one() -> None:
    content, length = binary(("x", "FP32", [1, 2], np.array([np.nan, 2], np.float32).tobytes()))
    assert np.isnan(one(nullable=True).decode(content, length).inputs["x"]).tolist() == [[True, False]]


def test_bytes_at_random_are_refused_cleanly() -> None:
    random = np.random.default_rng(6)
    statuses: set[int] = set()
    content, length = binary(("a", "FP32", [1, 2], ROW), ("text", "BYTES", [1], strings(b"abc")))
    for _ in range(3000):
        damaged = bytearray(content)
        for place in random.integers(0, len(damaged), random.integers(1, 4)):
            damaged[place] = random.integers(0, 256)
        cut = bytes(damaged[: random.integers(1, len(damaged) + 1)])
        try:
            TWO.decode(cut, random.choice([length, str(len(damaged))]))
        except Problem as found:
            statuses.add(found.status)
            json.loads(error_body(found))
    assert statuses <= {400, 413, 422}


# --- answers


def split(headers: tuple[tuple[str, str], ...], content: bytes) -> tuple[dict[str, Any], bytes]:
    length = int(dict(headers).get("inference-header-content-length", len(content)))
    return json.loads(content[:length]), content[length:]


OUTPUTS = {"y": np.array([[1, 2], [3, 4]], np.float32), "label": np.array(["p", "\u20ac"], object)}


def asked(**more: Any) -> InferRequest:
    return TWO.decode(
        body(tensor([1, 2, 3, 4], [2, 2], name="a"), tensor(["p", "q"], [2], "BYTES", "text"), **more), None
    )


def test_all_outputs_in_json() -> None:
    headers, content = TWO.encode(OUTPUTS, asked(id="r-1"))
    assert headers == (("content-type", "application/json"),)
    assert json.loads(content) == {
        "model_name": "m",
        "model_version": "3",
        "id": "r-1",
        "outputs": [
            {"name": "y", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]},
            {"name": "label", "datatype": "BYTES", "shape": [2], "data": ["p", "\u20ac"]},
        ],
    }


def test_all_outputs_in_binary() -> None:
    headers, content = TWO.encode(OUTPUTS, asked(parameters={"binary_data_output": True}))
    assert dict(headers)["content-type"] == "application/octet-stream"
    described, data = split(headers, content)
    assert "id" not in described
    assert described["outputs"] == [
        {"name": "y", "datatype": "FP32", "shape": [2, 2], "parameters": {"binary_data_size": 16}},
        {"name": "label", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": 12}},
    ]
    assert data == OUTPUTS["y"].tobytes() + strings(b"p", b"\xe2\x82\xac")


def test_an_output_may_differ_from_the_request() -> None:
    outputs = [{"name": "label", "parameters": {"binary_data": False}}, {"name": "y"}]
    request = asked(outputs=outputs, parameters={"binary_data_output": True})
    assert list(request.outputs.items()) == [("label", False), ("y", True)]
    described, data = split(*TWO.encode(OUTPUTS, request))
    assert [output["name"] for output in described["outputs"]] == ["label", "y"]
    assert described["outputs"][0]["data"] == ["p", "\u20ac"]
    assert data == OUTPUTS["y"].tobytes()


def test_only_the_wanted_outputs_are_answered() -> None:
    request = asked(outputs=[{"name": "label", "parameters": {"binary_data": True}}])
    described, data = split(*TWO.encode(OUTPUTS, request))
    assert len(described["outputs"]) == 1
    assert data == strings(b"p", b"\xe2\x82\xac")


def test_json_has_no_number_for_what_is_not_finite() -> None:
    outputs = OUTPUTS | {"y": np.array([[1, 2], [np.inf, np.nan]], np.float32)}
    with pytest.raises(Problem, match="value 2 of the model's output 'y'") as error:
        TWO.encode(outputs, asked())
    assert (error.value.status, error.value.code) == (422, "non_finite_output")
    _, data = split(*TWO.encode(outputs, asked(parameters={"binary_data_output": True})))
    assert data.startswith(outputs["y"].tobytes())


def test_an_output_that_is_not_contiguous_is_sent_row_by_row() -> None:
    turned = np.array([[1, 3], [2, 4]], np.float32).T
    for more in ({}, {"parameters": {"binary_data_output": True}}):
        described, data = split(*TWO.encode(OUTPUTS | {"y": turned}, asked(**more)))
        numbers = np.frombuffer(data, np.float32, 4).tolist() if data else described["outputs"][0]["data"]
        assert numbers == [1, 2, 3, 4]


def test_an_error_is_one_sentence_with_its_path() -> None:
    assert error_body(Problem(422, "wrong_type", "a string", path="$.id")) == b'{"error":"a string (at $.id)"}'
    assert error_body(Problem(503, "draining", "not ready")) == b'{"error":"not ready"}'


def test_a_megabyte_is_at_least_five_times_faster_in_binary() -> None:
    v2 = V2(
        manifest(
            [Input(name="x", datatype="FP32", shape=[-1, 2**18])],
            [Output(name="y", datatype="FP32", shape=[-1, 2**18])],
        ),
        4,
    )
    values = np.random.default_rng(0).random((1, 2**18), np.float32)
    as_json = (body(tensor(values.ravel().tolist(), [1, 2**18])), None)
    as_binary = binary(("x", "FP32", [1, 2**18], values.tobytes()), parameters={"binary_data_output": True})

    def seconds(content: bytes, length: str | None) -> float:
        start = time.perf_counter()
        request = v2.decode(content, length)
        v2.encode({"y": request.inputs["x"]}, request)
        return time.perf_counter() - start

    assert min(seconds(*as_json) for _ in range(3)) > 5 * min(seconds(*as_binary) for _ in range(3))
