from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import numpy as np
import pytest

from server.errors import Problem
from server.model.datatypes import Datatype
from server.model.inputs import PlainRow, stack
from server.model.manifest import Batching, Input, Manifest, Output
from server.model.tensors import DTYPES, Tensors
from server.protocol.predict_json import Decoder, Encoder
from tests.app.wire import seeded

MAX_ROWS = 4


def manifest(*inputs: Input, outputs: list[Output] | None = None, batching: Batching = "dynamic") -> Manifest:
    return Manifest(
        name="m",
        version="1",
        inputs=list(inputs),
        outputs=outputs or [Output(name="y", datatype="FP32", shape=[-1])],
        batching=batching,
        example=msgspec.Raw(b"{}"),
    )


def one(datatype: Any = "FP32", shape: list[int] | None = None, batching: Batching = "dynamic", **more: Any) -> Decoder:
    tensor = Input(name="x", datatype=datatype, shape=shape or [-1, 1], **more)
    return Decoder(manifest(tensor, batching=batching), MAX_ROWS)


ABC = one(shape=[-1, 3], features=["a", "b", "c"])
SHOP = Decoder(
    manifest(
        Input(name="age", datatype="INT32", shape=[-1, 1]),
        Input(name="text", datatype="BYTES", shape=[-1]),
        Input(name="point", datatype="FP32", shape=[-1, 2], nullable=True),
    ),
    MAX_ROWS,
)


def tensors(decoder: Decoder, body: bytes | str) -> dict[str, Any]:
    rows = decoder.decode(body.encode() if isinstance(body, str) else body)
    if isinstance(rows.tensors, PlainRow):
        return {"x": [rows.tensors.values]}
    assert {len(array) for array in rows.tensors.values()} == {rows.count}
    return {name: array.tolist() for name, array in rows.tensors.items()}


def problem(decoder: Decoder, body: bytes | str) -> Problem:
    with pytest.raises(Problem) as error:
        decoder.decode(body.encode() if isinstance(body, str) else body)
    assert error.value.message
    return error.value


def judged(decoder: Decoder, body: bytes | str) -> tuple[int, str, str | None]:
    found = problem(decoder, body)
    return found.status, found.code, found.path


# --- {"input": ...}

DEEP = b"[" * 50_000 + b"]" * 50_000
BAD: list[tuple[str, bytes, int, str, str | None]] = [
    ("empty body", b"", 400, "empty_body", None),
    ("blank body", b"  ", 400, "malformed_json", "$"),
    ("not json", b"input=1,2,3", 400, "malformed_json", "$"),
    ("cut short", b'{"input": [1, 2', 400, "malformed_json", "$"),
    ("trailing garbage", b'{"input": [1, 2, 3]} x', 400, "malformed_json", "$"),
    ("two documents", b'{"input": [1, 2, 3]}{"input": [1, 2, 3]}', 400, "malformed_json", "$"),
    ("trailing comma", b'{"input": [1, 2, 3],}', 400, "malformed_json", "$"),
    ("byte-order mark", b'\xef\xbb\xbf{"input": [1, 2, 3]}', 400, "malformed_json", "$"),
    ("UTF-16", '{"input": [1, 2, 3]}'.encode("utf-16"), 400, "malformed_json", "$"),
    ("invalid UTF-8 key", b'{"inp\xffut": [1, 2, 3]}', 400, "malformed_json", "$"),
    ("NaN", b'{"input": [1, 2, NaN]}', 400, "malformed_json", "$"),
    ("Infinity", b'{"input": [1, 2, -Infinity]}', 400, "malformed_json", "$"),
    ("hexadecimal", b'{"input": [1, 2, 0x3]}', 400, "malformed_json", "$"),
    ("leading zero", b'{"input": [1, 2, 03]}', 400, "malformed_json", "$"),
    ("a form feed", b'{"input": \x0c[1, 2, 3]}', 400, "malformed_json", "$"),
    ("duplicate key", b'{"input": [1, 2, 3], "input": [4, 5, 6]}', 400, "malformed_json", "$.input"),
    ("escaped duplicate key", b'{"input": [1, 2, 3], "\\u0069nput": [4, 5, 6]}', 400, "malformed_json", "$.input"),
    ("too deep", b'{"input": ' + DEEP + b"}", 400, "too_deep", "$"),
    ("not an object", b"[1, 2, 3]", 422, "wrong_type", "$"),
    ("null", b"null", 422, "wrong_type", "$"),
    ("no input", b"{}", 422, "missing_input", "$"),
    ("unknown key", b'{"input": [1, 2, 3], "other": []}', 422, "wrong_type", "$"),
    ("both forms", b'{"input": [1, 2, 3], "inputs": {"x": [1, 2, 3]}}', 422, "wrong_type", "$"),
    ("input is a number", b'{"input": 1}', 422, "wrong_type", "$.input"),
    ("input is null", b'{"input": null}', 422, "wrong_type", "$.input"),
    ("input is an object", b'{"input": {"x": [1, 2, 3]}}', 422, "wrong_type", "$.input"),
    ("a string", b'{"input": [1, 2, "3"]}', 422, "wrong_type", "$.input[2]"),
    ("a boolean", b'{"input": [true, 2, 3]}', 422, "wrong_type", "$.input[0]"),
    ("a null", b'{"input": [[1, 2, 3], [1, null, 3]]}', 422, "wrong_type", "$.input[1][1]"),
    ("too large for float32", b'{"input": [1, 1e39, 3]}', 422, "wrong_type", "$.input[1]"),
    ("too large for float64", b'{"input": [1, 2, 1e400]}', 422, "wrong_type", "$.input[2]"),
    ("a huge integer", b'{"input": [1, 2, -' + b"9" * 400 + b"]}", 422, "wrong_type", "$.input[2]"),
    ("a row among numbers", b'{"input": [1, [2], 3]}', 422, "wrong_type", "$.input[1]"),
    ("a number among rows", b'{"input": [[1, 2, 3], 4]}', 422, "wrong_type", "$.input[1]"),
    ("three levels", b'{"input": [[[1, 2, 3]]]}', 422, "wrong_type", "$.input[0][0]"),
    ("no values", b'{"input": []}', 422, "wrong_shape", "$.input"),
    ("no values in a row", b'{"input": [[]]}', 422, "wrong_shape", "$.input[0]"),
    ("too few", b'{"input": [1, 2]}', 422, "wrong_shape", "$.input"),
    ("too many", b'{"input": [1, 2, 3, 4]}', 422, "wrong_shape", "$.input"),
    ("ragged", b'{"input": [[1, 2, 3], [4, 5]]}', 422, "wrong_shape", "$.input[1]"),
    ("too many rows", json.dumps({"input": [[1, 2, 3]] * 5}).encode(), 413, "too_many_rows", "$.input"),
]


@pytest.mark.parametrize(("body", "status", "code", "path"), [pytest.param(*case[1:], id=case[0]) for case in BAD])
def test_what_is_wrong_and_where(body: bytes, status: int, code: str, path: str | None) -> None:
    assert judged(ABC, body) == (status, code, path)


def test_a_wrong_width_names_the_features() -> None:
    assert problem(ABC, b'{"input": [1, 2]}').message == "a row is 3 values (a, b, c), got 2"


@pytest.mark.parametrize("body", [b'{"input": [1, 2, 3]}', b' {"input":[1.0,2e0,3]}\n', b'{"\\u0069nput": [1, 2, 3]}'])
def test_one_row(body: bytes) -> None:
    rows = ABC.decode(body)
    assert (rows.alone, rows.count, rows.path_of(0)) == (True, 1, "$.input")
    assert tensors(ABC, body) == {"x": [[1, 2, 3]]}


@pytest.mark.parametrize("body", [b'{"input": [[1, 2, 3], [4, 5, 6]]}', b'{"input": [ \n[1,2,3],[4,5,6]]}'])
def test_many_rows(body: bytes) -> None:
    rows = ABC.decode(body)
    assert (rows.alone, rows.count, rows.path_of(1)) == (False, 2, "$.input[1]")
    assert tensors(ABC, body) == {"x": [[1, 2, 3], [4, 5, 6]]}


def test_a_list_of_one_row_is_many_rows() -> None:
    assert not ABC.decode(b'{"input": [[1, 2, 3]]}').alone


@pytest.mark.parametrize(
    ("shape", "body", "alone", "expected"),
    [
        ([-1], "5", True, [5]),
        ([-1], "[5, 6]", False, [5, 6]),
        ([-1, 1], "5", True, [[5]]),
        ([-1, 1], "[5]", True, [[5]]),
        ([-1, 1], "[[5], [6]]", False, [[5], [6]]),
        ([-1, 2, 3], "[[1, 2, 3], [4, 5, 6]]", True, [[[1, 2, 3], [4, 5, 6]]]),
        ([-1, 2, 1], "[[[1], [2]], [[3], [4]]]", False, [[[1], [2]], [[3], [4]]]),
        ([-1, -1], "[1, 2, 3, 4]", True, [[1, 2, 3, 4]]),
        ([-1, -1], "[[1, 2], [3, 4]]", False, [[1, 2], [3, 4]]),
        ([-1, 2, -1], "[[1, 2, 3], [4, 5, 6]]", True, [[[1, 2, 3], [4, 5, 6]]]),
    ],
)
@pytest.mark.parametrize("datatype", ["FP32", "INT16", "UINT64"])
def test_shapes_tell_one_row_from_many(
    shape: list[int], body: str, alone: bool, expected: list[Any], datatype: str
) -> None:
    decoder = one(datatype, shape)
    rows = decoder.decode(f'{{"input": {body}}}'.encode())
    assert rows.alone == alone
    assert tensors(decoder, f'{{"input": {body}}}') == {"x": expected}


def test_a_model_without_rows_has_whole_shapes() -> None:
    decoder = one(shape=[2, 3], batching="none")
    assert decoder.decode(b'{"input": [[1, 2, 3], [4, 5, 6]]}').alone
    assert tensors(decoder, b'{"input": [[[1, 2, 3], [4, 5, 6]]]}') == {"x": [[[1, 2, 3], [4, 5, 6]]]}
    assert tensors(one(shape=[4, 3], batching="fixed"), b'{"input": [1, 2, 3]}') == {"x": [[1, 2, 3]]}


@pytest.mark.parametrize(
    ("shape", "body", "path"),
    [
        ([-1], "[]", "$.input"),
        ([-1, 1], "[1, 2]", "$.input"),
        ([-1, 1], "[[1], [2, 3]]", "$.input[1]"),
        ([-1, 2, 2], "[[1, 2], [3]]", "$.input[1]"),
        ([-1, 2, 2], "[]", "$.input"),
        ([-1, 2, 2], "[[], []]", "$.input[0]"),
        ([-1, 2, 2], "[[[1, 2], [3, 4]], [[5, 6]]]", "$.input[1]"),
        ([-1, 2, 2], "[[[1, 2], [3, 4]], [[5, 6], [7, 8, 9]]]", "$.input[1][1]"),
        ([-1, -1], "[]", "$.input"),
        ([-1, -1], "[[], []]", "$.input[0]"),
        ([-1, -1], "[[1, 2], [3]]", "$.input[1]"),
        ([-1, -1, -1], "[[], []]", "$.input[0]"),
        ([-1, -1, 2], "[[[1, 2]], [[3, 4], [5, 6]]]", "$.input[1]"),
    ],
)
@pytest.mark.parametrize("datatype", ["FP32", "UINT64", "BYTES"])
def test_a_wrong_shape_is_named_at_its_list(shape: list[int], body: str, path: str, datatype: str) -> None:
    if datatype == "BYTES":
        body = "".join(f'"{each}"' if each.isdigit() else each for each in body)
    found = judged(one(datatype, shape), f'{{"input": {body}}}')
    assert found == (422, "wrong_shape", path)


@pytest.mark.parametrize(
    ("shape", "body", "path"),
    [
        ([-1, -1], "[1, 2, 3, 4]", "$.input"),
        ([-1, -1], "[[1, 2, 3], [1, 2, 3, 4]]", "$.input[1]"),
        ([-1, -1], "[[1, 2, 3, 4], [1, 2, 3, 4]]", "$.input[0]"),
        ([-1, 4, -1], "[[1], [2], [3], [4]]", None),
        ([-1, 1, -1], "[[1, 2, 3, 4]]", "$.input[0]"),
        ([-1, -1, -1], "[[[1]], [[1, 2, 3, 4]]]", "$.input[1][0]"),
        ([-1, 4], "[1, 2, 3, 4]", None),
    ],
)
@pytest.mark.parametrize("datatype", ["FP32", "UINT64", "BYTES"])
def test_a_free_size_has_a_maximum(shape: list[int], body: str, path: str | None, datatype: str) -> None:
    if datatype == "BYTES":
        body = "".join(f'"{each}"' if each.isdigit() else each for each in body)
    decoder = one(datatype, shape, max_size=3)
    if path is None:
        assert decoder.decode(f'{{"input": {body}}}'.encode()).count
    else:
        assert judged(decoder, f'{{"input": {body}}}') == (422, "wrong_shape", path)


def test_the_default_maximum_of_a_free_size_says_what_came() -> None:
    found = problem(one(shape=[-1, -1]), json.dumps({"input": [0.0] * 20_000}))
    assert (found.status, found.path) == (422, "$.input")
    assert found.message == "there may be 2048 values here, got 20000"


@pytest.mark.parametrize(
    ("shape", "body", "message"),
    [
        (
            [-1, -1],
            "[[1, 2, 3], [1, 2, 3, 4]]",
            "all rows of one request must have the same length: the first has 3 values, got 4",
        ),
        (
            [-1, 1, -1],
            "[[[1]], [[2, 3]]]",
            "lists at this depth must have the same length: the first has 1 values, got 2",
        ),
        ([-1, 2, -1], "[[1]]", "a row is values in the shape [2, -1], where -1 is any size, got 1"),
        ([-1, -1], "[[], [1]]", "there must be at least one value here"),
    ],
)
def test_of_a_free_size_the_message_says_what_the_others_have(shape: list[int], body: str, message: str) -> None:
    assert problem(one(shape=shape), f'{{"input": {body}}}').message == message


@pytest.mark.parametrize(
    ("body", "path"),
    [('{"input": "abcd"}', "$.input"), ('{"input": ["abc", "\u00e9bcd"]}', "$.input[1]")],
)
def test_a_text_has_a_maximum(body: str, path: str) -> None:
    decoder = one("BYTES", [-1], max_characters=3)
    assert judged(decoder, body) == (422, "wrong_type", path)
    assert tensors(decoder, '{"input": ["abc", "\u20ac\u20ac\u20ac"]}') == {"x": ["abc", "\u20ac" * 3]}


# --- datatypes

EXTREMES: list[tuple[Any, str, Any]] = [
    ("BOOL", "true", True),
    ("BOOL", "false", False),
    ("FP64", "1e300", 1e300),
    ("FP64", "-1.7976931348623157e308", -1.7976931348623157e308),
    ("FP64", "5e-324", 5e-324),
    ("FP32", "3.4028234663852886e38", float(np.finfo(np.float32).max)),
    ("FP32", "3.4028235677973362e38", float(np.finfo(np.float32).max)),
    ("FP16", "65504", 65504.0),
    ("FP16", "-65519.99", -65504.0),
    ("BYTES", '"say \\"input\\""', 'say "input"'),
    ("BYTES", '""', ""),
    ("BYTES", '"\\u0000\\ud83d\\ude00 \u00e9"', "\0\N{GRINNING FACE} \u00e9"),
]
for bits in (8, 16, 32, 64):
    EXTREMES += [(f"INT{bits}", str(value), value) for value in (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)]
    EXTREMES += [(f"UINT{bits}", str(value), value) for value in (0, 2**bits - 1)]


@pytest.mark.parametrize(("datatype", "text", "expected"), EXTREMES)
@pytest.mark.parametrize(("shape", "form"), [([-1], "%s"), ([-1, 1], "[%s]"), ([-1, 1], "%s"), ([-1, 2], "[%s, %s]")])
def test_each_datatype_keeps_its_extremes(datatype: Any, text: str, expected: Any, shape: list[int], form: str) -> None:
    value = form.replace("%s", text)
    named = one(datatype, shape).decode(f'{{"inputs": {{"x": {value}}}}}'.encode())
    assert isinstance(named.tensors, dict)
    assert named.tensors["x"].dtype == DTYPES[datatype]
    assert named.tensors["x"].ravel().tolist() == [expected] * value.count(text)
    plain = one(datatype, shape).decode(f'{{"input": {value}}}'.encode()).tensors
    array = np.array(plain.values, dtype=DTYPES[datatype]) if isinstance(plain, PlainRow) else plain["x"]
    assert array.ravel().tolist() == [expected] * value.count(text)


BEYOND: list[tuple[Any, str]] = [
    ("FP16", "65520"),
    ("FP16", "-65520"),
    ("FP32", "3.4028235677973366e38"),
    ("FP64", "1.8e308"),
    ("INT64", "1.5"),
    ("INT64", "1e3"),
    ("INT64", '"1"'),
    ("INT64", "true"),
    ("FP32", "true"),
    ("FP32", "null"),
    ("BOOL", "1"),
    ("BOOL", "null"),
    ("BYTES", "1"),
    ("BYTES", "null"),
    ("UINT64", "18446744073709551616"),
    ("UINT64", "9" * 5000),
]
for bits in (8, 16, 32, 64):
    BEYOND += [(f"INT{bits}", str(value)) for value in (-(2 ** (bits - 1)) - 1, 2 ** (bits - 1))]
    BEYOND += [(f"UINT{bits}", str(value)) for value in (-1, 2**bits)]


@pytest.mark.parametrize(("datatype", "text"), BEYOND)
def test_each_datatype_has_bounds(datatype: Any, text: str) -> None:
    for shape, value, inner in (
        ([-1], text, ""),
        ([-1, 1], text, ""),
        ([-1, 1], f"[{text}]", "[0]"),
        ([-1, 1, 1], f"[[{text}]]", "[0][0]"),
    ):
        decoder = one(datatype, shape)
        assert judged(decoder, f'{{"input": {value}}}') == (422, "wrong_type", f"$.input{inner}")
        assert judged(decoder, f'{{"inputs": {{"x": {value}}}}}') == (422, "wrong_type", f"$.inputs.x{inner}")
        assert judged(decoder, f'{{"inputs": [{{"x": {value}}}]}}') == (422, "wrong_type", f"$.inputs[0].x{inner}")


def test_a_number_that_is_too_large_is_found_among_others() -> None:
    body = f'{{"input": [[[1, 2]], [[3, {2**64}]]]}}'
    assert judged(one("UINT64", [-1, 1, 2]), body) == (422, "wrong_type", "$.input[1][0][1]")


@pytest.mark.parametrize("text", [b'"\xff"', b'"\\ud800"', b'"\\x"', b'"\n"', b'"', b"'a'"])
@pytest.mark.parametrize("form", [b'{"input": %b}', b'{"inputs": {"x": %b}}', b'{"inputs": [{"x": %b}]}'])
def test_a_string_must_be_one(text: bytes, form: bytes) -> None:
    assert problem(one("BYTES", [-1]), form % text).status == 400


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
def test_a_null_is_a_missing_value_where_there_may_be_any(datatype: Any) -> None:
    decoder = one(datatype, [-1, 2], nullable=True)
    for body in ('{"input": [[1, null]]}', '{"inputs": {"x": [1, null]}}', '{"inputs": [{"x": [1, null]}]}'):
        [[present, missing]] = tensors(decoder, body)["x"]
        assert (present, np.isnan(missing)) == (1, True)
    plain = decoder.decode(b'{"input": [null, null]}').tensors
    assert isinstance(plain, PlainRow)
    assert plain.values == [None, None]
    assert np.isnan(tensors(one(datatype, [-1, 1], nullable=True), '{"input": null}')["x"][0][0])


# --- {"inputs": ...}


def test_named_inputs_in_one_row() -> None:
    rows = SHOP.decode(b'{"inputs": {"text": "a", "age": 4, "point": [1, null]}}')
    assert (rows.alone, rows.count, rows.path_of(0)) == (True, 1, "$.inputs")
    assert isinstance(rows.tensors, dict)
    assert list(rows.tensors) == ["age", "text", "point"]
    assert [array.dtype for array in rows.tensors.values()] == [np.int32, np.object_, np.float32]
    assert rows.tensors["age"].tolist() == [[4]]
    assert rows.tensors["text"].tolist() == ["a"]
    assert np.array_equal(rows.tensors["point"], [[1, np.nan]], equal_nan=True)


def test_named_inputs_in_many_rows() -> None:
    body = {"inputs": [{"age": age, "text": f"{age}", "point": [age, -age]} for age in (2, 4, 5)]}
    rows = SHOP.decode(json.dumps(body).encode())
    assert (rows.alone, rows.count, rows.path_of(1)) == (False, 3, "$.inputs[1]")
    assert tensors(SHOP, json.dumps(body)) == {
        "age": [[2], [4], [5]],
        "text": ["2", "4", "5"],
        "point": [[2, -2], [4, -4], [5, -5]],
    }
    mixed = '{"inputs": [{"age": [1], "text": "", "point": [0, 0]}, {"age": 2, "text": "", "point": [0, 0]}]}'
    assert tensors(SHOP, mixed)["age"] == [[1], [2]]


GOOD_ROW = '"age": 4, "text": "a", "point": [1, 2]'
BAD_NAMED: list[tuple[str, str, int, str, str | None]] = [
    ("not an object", "5", 422, "wrong_type", "$.inputs"),
    ("null", "null", 422, "wrong_type", "$.inputs"),
    ("a string", '"age"', 422, "wrong_type", "$.inputs"),
    ("no row", "[]", 422, "wrong_shape", "$.inputs"),
    ("a row that is none", f"[{{{GOOD_ROW}}}, 5]", 422, "wrong_type", "$.inputs[1]"),
    ("a list too many", f"[[{{{GOOD_ROW}}}]]", 422, "wrong_type", "$.inputs[0]"),
    ("nothing", "{}", 422, "wrong_type", "$.inputs"),
    ("one missing", '{"age": 4, "text": "a"}', 422, "wrong_type", "$.inputs"),
    ("one missing in a row", f'[{{{GOOD_ROW}}}, {{"age": 4, "text": "a"}}]', 422, "wrong_type", "$.inputs[1]"),
    ("one too many", f'{{{GOOD_ROW}, "more": 1}}', 422, "wrong_type", "$.inputs"),
    ("wrong type", '{"age": "4", "text": "a", "point": [1, 2]}', 422, "wrong_type", "$.inputs.age"),
    ("wrong type inside", '{"age": 4, "text": "a", "point": [1, "2"]}', 422, "wrong_type", "$.inputs.point[1]"),
    ("many rows by column", '{"age": [4, 5], "text": "a", "point": [1, 2]}', 422, "wrong_shape", "$.inputs.age"),
    ("too short", '{"age": 4, "text": "a", "point": [1]}', 422, "wrong_shape", "$.inputs.point"),
    (
        "too long in a row",
        f'[{{{GOOD_ROW}}}, {{"age": 4, "text": "a", "point": [1, 2, 3]}}]',
        422,
        "wrong_shape",
        "$.inputs[1].point",
    ),
    ("too large", '{"age": 2147483648, "text": "a", "point": [1, 2]}', 422, "wrong_type", "$.inputs.age"),
    ("too large a float", '{"age": 1, "text": "a", "point": [1, 1e39]}', 422, "wrong_type", "$.inputs.point[1]"),
    ("NaN", '{"age": NaN, "text": "a", "point": [1, 2]}', 400, "malformed_json", "$"),
    ("Infinity", '{"age": 1, "text": "a", "point": [1, Infinity]}', 400, "malformed_json", "$"),
    ("cut short", '{"age": 1, "text": "a', 400, "malformed_json", "$"),
    ("trailing garbage", f"{{{GOOD_ROW}}}]", 400, "malformed_json", "$"),
    ("trailing comma", f"{{{GOOD_ROW},}}", 400, "malformed_json", "$"),
    ("no value", '{"age": , "text": "a", "point": [1, 2]}', 400, "malformed_json", "$"),
    ("too deep", '{"age": ' + DEEP.decode() + "}", 400, "too_deep", "$"),
    ("too deep in an unknown key", '{"more": ' + DEEP.decode() + "}", 400, "too_deep", "$"),
    ("duplicate", f'{{{GOOD_ROW}, "age": 5}}', 400, "malformed_json", "$.inputs.age"),
    ("duplicate in a row", f'[{{{GOOD_ROW}}}, {{{GOOD_ROW}, "text": "b"}}]', 400, "malformed_json", "$.inputs[1].text"),
    ("escaped duplicate", f'{{{GOOD_ROW}, "\\u0061ge": 5}}', 400, "malformed_json", "$.inputs.age"),
    (
        "hidden duplicate",
        '{"age": 4, "text": "\\"age\\"", "point": [1, 2], "age": 4}',
        400,
        "malformed_json",
        "$.inputs.age",
    ),
    ("too many rows", "[" + ", ".join([f"{{{GOOD_ROW}}}"] * 5) + "]", 413, "too_many_rows", "$.inputs"),
]


@pytest.mark.parametrize(
    ("inputs", "status", "code", "path"), [pytest.param(*case[1:], id=case[0]) for case in BAD_NAMED]
)
def test_what_is_wrong_with_named_inputs_and_where(inputs: str, status: int, code: str, path: str | None) -> None:
    assert judged(SHOP, f'{{"inputs": {inputs}}}') == (status, code, path)


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b'\xef\xbb\xbf{"inputs": {}}', "$"),
        (b'{"inputs": {"age": 1, "te\xffxt": "a"}}', "$.inputs"),
        (b'{"inputs": {"age": 1, "text": "\xc3", "point": [1, 2]}}', "$.inputs"),
        (b'{"inputs": {%b}, "inputs": {%b}}' % (GOOD_ROW.encode(), GOOD_ROW.encode()), "$.inputs"),
        (b'{"inputs": {%b}, "\\u0069nputs": {%b}}' % (GOOD_ROW.encode(), GOOD_ROW.encode()), "$.inputs"),
    ],
)
def test_what_is_malformed_about_named_inputs(body: bytes, path: str) -> None:
    assert judged(SHOP, body) == (400, "malformed_json", path)


def test_a_model_with_several_inputs_says_how_they_are_sent() -> None:
    found = problem(SHOP, b'{"input": [1, 2]}')
    assert (found.status, found.code, found.path) == (422, "wrong_type", "$.input")
    assert found.message == 'the model has 3 inputs: send {"inputs": {"age": ..., "text": ..., "point": ...}}'


@pytest.mark.parametrize(
    "text", ["age", "text", '"', "\\", ",", ": ", '","', '"age"', '"text":', "\N{GRINNING FACE}", "{}[]"]
)
@pytest.mark.parametrize("name", ["text", ",", ": ", ":", "age ", "\u00e9", "inputs"])
def test_a_string_may_look_like_a_key(text: str, name: str) -> None:
    decoder = Decoder(
        manifest(Input(name="age", datatype="INT32", shape=[-1]), Input(name=name, datatype="BYTES", shape=[-1, 2])),
        MAX_ROWS,
    )
    row = {"age": 1, name: [text, name]}
    for ascii_only in (True, False):
        body = json.dumps({"inputs": [row, row]}, ensure_ascii=ascii_only)
        assert tensors(decoder, body) == {"age": [1, 1], name: [[text, name]] * 2}
        again = json.dumps({"inputs": row}, ensure_ascii=ascii_only)[:-2] + f', "{name}": ["", ""]}}}}'
        assert judged(decoder, again)[:2] == (400, "malformed_json")


# --- chance

NAMES = ["a", "b c", "\u00e9", "input", ","]
ODD = ["", "a", "input", '"', "\\", "\0", "\u00e9\N{GRINNING FACE}", '","', "null", "\n"]


def random_value(datatype: Datatype, rng: random.Random) -> Any:
    if datatype == "BYTES":
        return rng.choice(ODD)
    if datatype == "JSON":
        return rng.choice([None, True, -1.5, "", {}, {"a": [{"b": 1}, []]}, {"x": {"input": '"}'}}, *ODD])
    if datatype == "BOOL":
        return rng.random() < 0.5
    if datatype.startswith("FP"):
        info = np.finfo(DTYPES[datatype])
        value = rng.choice([0, -0.0, rng.uniform(-9, 9), float(info.max), float(info.tiny)])
        return float(DTYPES[datatype].type(value))
    info = np.iinfo(DTYPES[datatype])
    return rng.choice([info.min, info.max, 0, rng.randint(info.min, info.max)])


def random_array(datatype: Datatype, shape: list[int], rng: random.Random) -> Any:
    if not shape:
        return random_value(datatype, rng)
    return [random_array(datatype, shape[1:], rng) for _ in range(shape[0])]


@pytest.mark.parametrize("seed", range(60))
def test_whatever_fits_the_manifest_comes_out_as_it_went_in(seed: int) -> None:
    rng = seeded(seed)
    inputs: list[Input] = []
    sizes: list[list[int]] = []
    for name in rng.sample(NAMES, rng.randint(1, 4)):
        datatype = rng.choice(list(DTYPES))
        sizes.append([rng.randint(1, 3) for _ in range(0 if datatype == "JSON" else rng.randint(0, 3))])
        shape = [-1, *(rng.choice([-1, size]) for size in sizes[-1])]
        inputs.append(Input(name=name, datatype=datatype, shape=shape))
    decoder = Decoder(manifest(*inputs), MAX_ROWS)
    for _ in range(30):
        rows = [
            {tensor.name: random_array(tensor.datatype, size, rng) for tensor, size in zip(inputs, sizes, strict=True)}
            for _ in range(rng.randint(1, MAX_ROWS))
        ]
        bodies: list[tuple[Any, int]] = [({"inputs": rows}, len(rows)), ({"inputs": rows[0]}, 1)]
        if len(inputs) == 1:
            values = [next(iter(row.values())) for row in rows]
            bodies += [({"input": values}, len(rows)), ({"input": values[0]}, 1)]
        for body, count in bodies:
            text = json.dumps(body, ensure_ascii=rng.random() < 0.5, separators=rng.choice([None, (",", ":")]))
            decoded = decoder.decode(text.encode())
            assert decoded.count == count
            found = decoded.tensors
            if isinstance(found, PlainRow):
                found = stack([found.values], inputs[0])
            for tensor in inputs:
                assert found[tensor.name].dtype == DTYPES[tensor.datatype]
                assert found[tensor.name].tolist() == [row[tensor.name] for row in rows[:count]]


PIECES = [
    *(b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"-", b"+", b".", b"e", b"0", b"9" * 30, b"1e400", b" ", b"\n"),
    *(b"null", b"true", b"NaN", b"Infinity", b'"input"', b'"inputs"', b'"x"', b'"age"', b'"text"', b"\x00", b"\xff"),
    *(b"\xef\xbb\xbf", b"\\ud800", b"\\u0000", b"[" * 2000, b"[[]]", b"{}", b'"a":1', b"18446744073709551616"),
]
FUZZED: list[tuple[Decoder, list[bytes]]] = [
    (ABC, [b'{"input": [1, 2, 3]}', b'{"input": [[1, 2, 3], [4, 5, 6]]}', b'{"inputs": {"x": [1, 2, 3]}}']),
    (SHOP, [b'{"inputs": {%b}}' % GOOD_ROW.encode(), b'{"inputs": [{%b}, {%b}]}' % ((GOOD_ROW.encode(),) * 2)]),
    (one(), [b'{"input": 5}', b'{"input": [5]}', b'{"input": [[5], [6]]}']),
    (one("UINT64", [-1, -1, 2]), [b'{"input": [[1, 2], [3, 4]]}', b'{"input": [[[1, 2]], [[3, 4]]]}']),
    (one("BYTES", [-1, -1]), [b'{"input": ["a", "b"]}', b'{"inputs": [{"x": ["a"]}, {"x": ["\\u00e9"]}]}']),
    (one("FP16", [-1], nullable=True), [b'{"input": [1, null]}', b'{"input": null}']),
    (one("BOOL", [-1, 2]), [b'{"input": [true, false]}', b'{"input": [[true, false]]}']),
]


def mutated(body: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.randint(1, 4)):
        first = rng.randrange(len(body) + 1)
        end = rng.choice([first, first, min(first + 1, len(body)), rng.randrange(first, len(body) + 1)])
        filler = rng.choice([rng.choice(PIECES), body[first:end] * 2, rng.randbytes(1), b""])
        body = body[:first] + filler + body[end:]
    return body


@pytest.mark.parametrize("index", range(len(FUZZED)))
def test_whatever_is_sent_is_rows_or_a_problem_with_its_place(index: int) -> None:
    decoder, bodies = FUZZED[index]
    rng = seeded(index)
    taken = 0
    for _ in range(4000):
        body = mutated(rng.choice(bodies), rng)
        try:
            rows = decoder.decode(body)
        except Problem as found:
            assert found.status in (400, 413, 422), body  # noqa: PT017  # it need not be raised
            assert (found.path or "").startswith("$") == bool(body), body  # noqa: PT017
            assert found.message, body  # noqa: PT017
        else:
            json.loads(body)
            taken += 1
            assert 1 <= rows.count <= MAX_ROWS
    assert 0 < taken < 4000


# --- answers


def answer(outputs: list[Output], batching: Batching = "dynamic", **arrays: Any) -> list[Any]:
    encoder = Encoder(manifest(Input(name="x", datatype="FP32", shape=[-1]), outputs=outputs, batching=batching))
    tensors: Tensors = {each.name: np.array(arrays[each.name], dtype=DTYPES[each.datatype]) for each in outputs}
    encoded = encoder.encode(tensors)
    return [
        encoded.problems[row].code if row in encoded.problems else json.loads(msgspec.json.encode(value))
        for row, value in enumerate(encoded.values)
    ]


@pytest.mark.parametrize(
    ("datatype", "shape", "values", "expected"),
    [
        ("FP32", [-1], [1.5, 2], [1.5, 2]),
        ("FP64", [-1, 1], [[0.1], [2]], [0.1, 2]),
        ("FP16", [-1, 2], [[0.5, 2]], [[0.5, 2]]),
        ("INT8", [-1, 1, 2], [[[1, -2]]], [[[1, -2]]]),
        ("UINT64", [-1], [2**64 - 1], [2**64 - 1]),
        ("BOOL", [-1, 2], [[True, False]], [[True, False]]),
        ("BYTES", [-1], ["a", "\u00e9"], ["a", "\u00e9"]),
        ("BYTES", [-1, 1], [["a"]], ["a"]),
    ],
)
def test_a_lone_output_is_its_bare_value(datatype: Any, shape: list[int], values: Any, expected: Any) -> None:
    assert answer([Output(name="y", datatype=datatype, shape=shape)], y=values) == expected


def test_several_outputs_are_an_object() -> None:
    outputs = [
        Output(name="kind", datatype="INT64", shape=[-1], labels=["no", "yes"]),
        Output(name="the score", datatype="FP32", shape=[-1, 2], labels=["no", "yes"]),
    ]
    found = answer(outputs, **{"kind": [1, 0], "the score": [[0.25, 0.75], [1, 0]]})
    assert found == [
        {"kind": "yes", "the score": {"no": 0.25, "yes": 0.75}},
        {"kind": "no", "the score": {"no": 1, "yes": 0}},
    ]


def test_what_json_cannot_say_is_a_problem_of_its_row_alone() -> None:
    outputs = [Output(name="y", datatype="FP32", shape=[-1, 2]), Output(name="k", datatype="INT8", shape=[-1])]
    rows = answer(outputs, y=[[1, 2], [np.nan, 2], [3, -np.inf], [4, 5]], k=[1, 2, 3, 4])
    assert rows == [{"y": [1, 2], "k": 1}, "non_finite_output", "non_finite_output", {"y": [4, 5], "k": 4}]
    assert answer(outputs[:1], y=[[np.inf, 0], [1, 2]]) == ["non_finite_output", [1, 2]]


def test_a_class_without_a_label_is_a_problem_of_its_row_alone() -> None:
    outputs = [Output(name="k", datatype="INT64", shape=[-1], labels=["a", "b"])]
    assert answer(outputs, k=[1, -1, 2, 0]) == ["b", "unknown_label", "unknown_label", "a"]
    outputs.append(Output(name="y", datatype="FP32", shape=[-1]))
    assert answer(outputs, k=[0, 5], y=[1, 2]) == [{"k": "a", "y": 1}, "unknown_label"]
