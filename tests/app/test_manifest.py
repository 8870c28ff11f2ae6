from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from server.errors import StartError
from server.model.manifest import Input, Output, columns, parse_manifest, read_manifest
from tests.app.harness import IRIS, MODEL, tensor

X = tensor("x", "FP32", [-1, 3])
Y = tensor("y", "INT64", [-1])
NUMERIC = {"kind": "numeric", "min": 0, "max": 1, "edges": [0.5], "counts": [1, 2]}
CATEGORICAL = {"kind": "categorical", "categories": {"a": 1}}


def picture(shape: tuple[int, ...] = (-1, 3, 4, 5), datatype: str = "FP32", **image: Any) -> dict[str, Any]:
    return {"inputs": [tensor("x", datatype, list(shape), image=image)]}


def text(**changes: Any) -> bytes:
    members = {"name": "m", "version": "1", "inputs": [X], "outputs": [Y], "example": {"input": [1, 2, 3]}}
    return json.dumps(members | changes).encode()


def profile(features: dict[str, Any] | None = None, outputs: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"profile": {"rows": 3, "features": features or {}, "outputs": outputs or {}}}


CODE: dict[str, Any] = {"format": "python", "predictor": {"call": "batch", "sha256": {}}}

FITS: list[dict[str, Any]] = [
    {"more": {"of": "the author's"}, "inputs": [X | {"note": "own"}]},
    {"inputs": [X | {"features": ["a", "b", "c"], "nullable": True}]},
    {"inputs": [tensor("x", "FP32", [-1, -1, 3])]},
    {"inputs": [tensor("x", "FP32", [-1])]},
    {"outputs": [Y | {"labels": ["no", 'the "other"']}]},
    {"outputs": [tensor("y", "BYTES", [-1, 2], labels=["a", "b"])]},
    {"batching": "fixed", "inputs": [tensor("x", "FP32", [8, 3])], "outputs": [tensor("y", "FP32", [8])]},
    {"batching": "none", "inputs": [tensor("x", "FP32", [3])], "outputs": [tensor("y", "FP32", [])]},
    picture(),
    picture(mean=[0, 0, 0], std=[1, 2, 3], scale=1),
    picture((-1, 4, 5, 1), "UINT8", mode="L", layout="HWC"),
    profile({"x[0]": NUMERIC, "x[2]": NUMERIC | {"missing": 3}}, {"y": CATEGORICAL}),
    profile({"x[1]": NUMERIC | {"edges": [], "counts": [0]}}),
    CODE | {"inputs": [tensor("x", "JSON", [-1], json_schema={"type": "object"})]},
    CODE | {"inputs": [tensor("x", "BYTES", [-1], nullable=True, default=None)]},
    CODE | picture((-1, -1, -1, 3), "UINT8", layout="HWC"),
]


@pytest.mark.parametrize("changes", FITS)
def test_what_fits(changes: dict[str, Any]) -> None:
    assert parse_manifest(text(**changes)).name == "m"


@pytest.mark.parametrize(
    ("given", "example", "maxima"),
    [
        ({}, [1, 2, 3], (2048, 65536)),
        ({"max_size": 5, "max_characters": 7}, [1, 2, 3], (5, 7)),
        ({}, [0] * 3000, (3000, 65536)),  # what a folder from before there were maxima must answer
        ({"max_size": 2}, [[1, 2, 3], [4, 5]], (3, 65536)),
        ({"max_characters": 3}, ["four", "a"], (2048, 4)),
    ],
)
def test_the_maxima_of_what_is_free_leave_room_for_the_example(
    given: dict[str, int], example: Any, maxima: tuple[int, int]
) -> None:
    for body in ({"input": example}, {"inputs": [{"x": example}]}):
        found = parse_manifest(text(inputs=[tensor("x", "BYTES", [-1, -1], **given)], example=body)).inputs[0]
        assert (found.max_size, found.max_characters) == maxima


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"name": ""}, "name and version must not be empty"),
    ({"version": ""}, "name and version must not be empty"),
    ({"name": 1}, "this is not a model description: Expected `str`, got `int` - at `$.name`"),
    ({"format": "pth"}, "this is not a model description: Invalid enum value 'pth' - at `$.format`"),
    ({"batching": "auto"}, "this is not a model description: Invalid enum value 'auto' - at `$.batching`"),
    (
        {"inputs": [X | {"max_size": 0}]},
        "this is not a model description: Expected `int` >= 1 - at `$.inputs[0].max_size`",
    ),
    ({"inputs": []}, "inputs must name at least one tensor, each by a name of its own"),
    ({"outputs": []}, "outputs must name at least one tensor, each by a name of its own"),
    ({"inputs": [X, X]}, "inputs must name at least one tensor, each by a name of its own"),
    ({"outputs": [Y | {"name": ""}]}, "outputs must name at least one tensor, each by a name of its own"),
    ({"inputs": [X | {"name": 'a"b'}]}, "the name 'a\"b' must have no quotation mark, backslash or control character"),
    (
        {"outputs": [Y | {"name": "a\\b"}]},
        r"the name 'a\\b' must have no quotation mark, backslash or control character",
    ),
    (
        {"outputs": [tensor("y", "FP32", [-1, 2], labels=["a\nb", "c"])]},
        r"the name 'a\nb' must have no quotation mark, backslash or control character",
    ),
    (
        {"inputs": [X | {"datatype": "FP31"}]},
        "this is not a model description: Invalid enum value 'FP31' - at `$.inputs[0].datatype`",
    ),
    (
        {"inputs": [X | {"shape": [-1, 0]}]},
        "the shape of input 'x' has sizes that are neither positive nor -1: [-1, 0]",
    ),
    ({"outputs": [Y | {"shape": [-2]}]}, "the shape of output 'y' has sizes that are neither positive nor -1: [-2]"),
    (
        {"inputs": [X | {"shape": [3]}]},
        "the shape of input 'x' must start with -1 (rows), not be [3], unless batching is fixed or none",
    ),
    (
        {"outputs": [Y | {"shape": []}]},
        "the shape of output 'y' must start with -1 (rows), not be [], unless batching is fixed or none",
    ),
    (
        {"batching": "fixed", "inputs": [X | {"shape": []}]},
        "the shape of input 'x' must start with the batch's size like all others, not be []",
    ),
    (
        {"batching": "fixed", "inputs": [X | {"shape": [8, 3]}]},
        "the shape of output 'y' must start with the batch's size like all others, not be [-1]",
    ),
    (
        {"batching": "fixed"},
        "the shape of input 'x' must start with the batch's size, not be [-1, 3], when batching is fixed",
    ),
    ({"inputs": [X | {"features": ["a"]}]}, "input 'x' has 1 features but rows of shape [3]"),
    (
        {"inputs": [tensor("x", "FP32", [-1, 3, 1], features=["a", "b", "c"])]},
        "input 'x' has 3 features but rows of shape [3, 1]",
    ),
    ({"inputs": [X | {"features": ["a", "b", "a"]}]}, "input 'x' has a feature twice"),
    (
        {"inputs": [tensor("x", "INT64", [-1, 3], nullable=True)]},
        "input 'x' is nullable, so its datatype must be a float, not INT64",
    ),
    (picture((-1, 3, 4)), "input 'x' is an image of RGB in CHW, but its rows are [3, 4]"),
    (picture((-1, 4, 5, 3)), "input 'x' is an image of RGB in CHW, but its rows are [4, 5, 3]"),
    (picture((-1, 3, 4, 5), layout="HWC"), "input 'x' is an image of RGB in HWC, but its rows are [3, 4, 5]"),
    (picture((-1, 3, -1, 5)), "input 'x' is an image of RGB in CHW, but its rows are [3, -1, 5]"),
    (picture((-1, 3, 4, 5), mode="L"), "input 'x' is an image of L in CHW, but its rows are [3, 4, 5]"),
    (picture(datatype="FP16"), "input 'x' is an image, so its datatype must be FP32 or UINT8, not FP16"),
    (picture(mean=[1, 2]), "the image's mean and std of input 'x' must be 3 numbers, std above zero"),
    (picture(std=[1, 0, 1]), "the image's mean and std of input 'x' must be 3 numbers, std above zero"),
    (picture(std=[1, -1, 1]), "the image's mean and std of input 'x' must be 3 numbers, std above zero"),
    (
        picture(datatype="UINT8", std=[1, 1, 1]),
        "input 'x' is an image in UINT8, which leaves pixels as they are: no mean and std",
    ),
    ({"outputs": [Y | {"labels": ["a", "b", "a"]}]}, "output 'y' has a label twice"),
    (
        {"outputs": [tensor("y", "FP32", [-1, 2], labels=["a", "b", "c"])]},
        "output 'y' has 3 labels but rows of shape [2]",
    ),
    (
        {"outputs": [tensor("y", "FP32", [-1], labels=["a"])]},
        "output 'y' has labels, so its datatype must be an integer",
    ),
    (profile({"y": NUMERIC}), "the profile names feature 'y', which is not one column of the features"),
    (profile(outputs={"x[0]": NUMERIC}), "the profile names output 'x[0]', which is not one column of the outputs"),
    (
        {"inputs": [tensor("x[0]", "FP32", [-1]), X]} | profile({"x[0]": NUMERIC}),
        "the profile names feature 'x[0]', which is not one column of the features",
    ),
    (
        profile({"x[0]": CATEGORICAL | {"categories": {}}}),
        "the profile of 'x[0]' must have categories with counts of at least 0",
    ),
    (
        profile({"x[0]": CATEGORICAL | {"categories": {"a": -1}}}),
        "the profile of 'x[0]' must have categories with counts of at least 0",
    ),
    (profile({"x[0]": NUMERIC | {"counts": [1]}}), "the profile of 'x[0]' must have one count more than it has edges"),
    (
        profile({"x[0]": NUMERIC | {"counts": [1, -1]}}),
        "the profile of 'x[0]' must have one count more than it has edges",
    ),
    (
        profile({"x[0]": NUMERIC | {"edges": [1, 1], "counts": [1, 2, 3]}}),
        "the edges in the profile of 'x[0]' must rise",
    ),
    (
        profile({"x[0]": {"min": 0}}),
        "this is not a model description: Object missing required field `kind` - at `$.profile.features[...]`",
    ),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_what_does_not_fit_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - compared below
        parse_manifest(text(**changes))
    assert str(error.value) == message


WRONG_CODE: list[tuple[dict[str, Any], str]] = [
    ({"format": "python"}, 'predictor says how the code of format "python" is called'),
    ({"predictor": CODE["predictor"]}, 'predictor says how the code of format "python" is called'),
    ({"inputs": [tensor("x", "JSON", [-1])]}, "input 'x' is JSON, which is for format \"python\""),
    (CODE | {"inputs": [tensor("x", "JSON", [-1, 2])]}, "input 'x' is JSON.*in the shape"),
    ({"inputs": [tensor("x", "BYTES", [-1], nullable=True)]}, "must be a float, not BYTES"),
    ({"inputs": [tensor("x", "FP32", [-1], default=1)]}, "input 'x' has a default"),
    (picture((-1, -1, -1, 3), "UINT8", layout="HWC"), "is an image of RGB in HWC, but its rows are"),
    (CODE | {"batching": "none", "inputs": [tensor("x", "FP32", [])]}, "its batching is dynamic, not none"),
    (CODE | {"hooks": {"sha256": "0"}}, 'format "python" has no hooks'),
    (CODE | profile({"x": CATEGORICAL}) | {"inputs": [tensor("x", "JSON", [-1])]}, "not one column"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG_CODE)
def test_what_only_code_takes_is_for_code(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_manifest(text(**changes))


@pytest.mark.parametrize(
    ("inputs", "least"),
    [
        ([X], 3),
        ([tensor("x", "BYTES", [-1, -1], max_size=10, max_characters=1000)], 10_000),
        ([tensor("x", "FP64", [-1, -1], max_size=1000)], 20_000),
        (picture()["inputs"], 12 * 2**20),
    ],
)
def test_a_row_may_have_what_its_maxima_allow(inputs: list[dict[str, Any]], least: int) -> None:
    assert least <= parse_manifest(text(inputs=inputs)).row_bytes <= 100 * least


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"name": "\xff"}', b"[" * 100_000, b"\xef\xbb\xbf" + text()])
def test_what_is_no_description_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"^this is not a model description: "):
        parse_manifest(content)


def test_a_refusal_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"model\.json cannot be read: No such file"):
        read_manifest(tmp_path / "model.json")
    (tmp_path / "model.json").write_bytes(text(name=""))
    with pytest.raises(StartError, match=r"model\.json: name and version"):
        read_manifest(tmp_path / "model.json")
    assert read_manifest(MODEL / "model.json").name == IRIS["name"]


@pytest.mark.parametrize(
    ("described", "row_shape", "expected"),
    [
        (Input(name="x", datatype="FP32", shape=[-1]), [], ["x"]),
        (Input(name="x", datatype="FP32", shape=[-1, 1]), [1], ["x"]),
        (Input(name="x", datatype="FP32", shape=[-1, 1], features=["age"]), [1], ["age"]),
        (Input(name="x", datatype="FP32", shape=[-1, 2], features=["a", "b"]), [2], ["a", "b"]),
        (Input(name="x", datatype="FP32", shape=[-1, 2, 2]), [2, 2], ["x[0]", "x[1]", "x[2]", "x[3]"]),
        (Input(name="x", datatype="FP32", shape=[-1, -1]), [-1], []),
        (Input(name="x", datatype="FP32", shape=[-1, -1, -1]), [-1, -1], []),
        (Output(name="y", datatype="INT64", shape=[-1], labels=["a", "b"]), [], ["y"]),
        (Output(name="y", datatype="FP32", shape=[-1, 2], labels=["a", "b"]), [2], ["y[a]", "y[b]"]),
        (Output(name="y", datatype="FP32", shape=[-1, 2]), [2], ["y[0]", "y[1]"]),
    ],
)
def test_columns_have_names(described: Input | Output, row_shape: list[int], expected: list[str]) -> None:
    assert columns(described, row_shape) == expected


@pytest.mark.parametrize(
    ("batching", "shape", "row_shape", "fixed_rows"),
    [("dynamic", [-1, 3], [3], None), ("fixed", [4, 3], [3], 4), ("none", [4, 3], [4, 3], None)],
)
def test_rows_are_the_first_dimension_if_any(
    batching: str, shape: list[int], row_shape: list[int], fixed_rows: int | None
) -> None:
    outputs = [tensor("y", "FP32", shape)]
    manifest = parse_manifest(text(batching=batching, inputs=[tensor("x", "FP32", shape)], outputs=outputs))
    assert manifest.row_shape(manifest.inputs[0]) == row_shape
    assert manifest.fixed_rows == fixed_rows
