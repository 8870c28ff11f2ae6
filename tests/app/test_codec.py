from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from server.codec import Decoder
from server.manifest import Input
from server.problem import Problem

FP32 = Input(name="x", datatype="FP32", shape=[-1, 3], features=["a", "b", "c"])
DECODER = Decoder(FP32, max_rows=4)

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
    ("duplicate key", b'{"input": [1, 2, 3], "input": [4, 5, 6]}', 400, "malformed_json", "$.input"),
    ("escaped duplicate key", b'{"input": [1, 2, 3], "\\u0069nput": [4, 5, 6]}', 400, "malformed_json", "$.input"),
    ("too deep", b'{"input": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", 400, "too_deep", "$"),
    ("not an object", b"[1, 2, 3]", 422, "wrong_type", "$"),
    ("null", b"null", 422, "wrong_type", "$"),
    ("no input", b"{}", 422, "wrong_type", "$"),
    ("unknown key", b'{"input": [1, 2, 3], "inputs": []}', 422, "wrong_type", "$"),
    ("input is a number", b'{"input": 1}', 422, "wrong_type", "$.input"),
    ("input is null", b'{"input": null}', 422, "wrong_type", "$.input"),
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
    with pytest.raises(Problem) as error:
        DECODER.decode(body)
    assert (error.value.status, error.value.code, error.value.path) == (status, code, path)
    assert error.value.message


def test_a_wrong_width_names_the_features() -> None:
    with pytest.raises(Problem, match=r"a row is 3 values \(a, b, c\), got 2"):
        DECODER.decode(b'{"input": [1, 2]}')


@pytest.mark.parametrize("body", [b'{"input": [1, 2, 3]}', b' {"input":[1.0,2e0,3]}\n', b'{"\\u0069nput": [1, 2, 3]}'])
def test_one_row(body: bytes) -> None:
    rows = DECODER.decode(body)
    assert rows.alone
    assert rows.values.dtype == np.float32
    assert rows.values.tolist() == [[1, 2, 3]]


@pytest.mark.parametrize("body", [b'{"input": [[1, 2, 3], [4, 5, 6]]}', b'{"input": [ \n[1,2,3],[4,5,6]]}'])
def test_many_rows(body: bytes) -> None:
    rows = DECODER.decode(body)
    assert not rows.alone
    assert rows.values.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_a_list_of_one_row_is_many_rows() -> None:
    assert not DECODER.decode(b'{"input": [[1, 2, 3]]}').alone


@pytest.mark.parametrize(
    ("datatype", "text", "expected"),
    [
        ("INT64", b"[9223372036854775807]", 2**63 - 1),
        ("INT32", b"[-2147483648]", -(2**31)),
        ("BOOL", b"[true]", True),
        ("FP64", b"[1e300]", 1e300),
        ("FP32", b"[3.4028234663852886e38]", float(np.finfo(np.float32).max)),
        ("BYTES", b'["say \\"input\\""]', 'say "input"'),
    ],
)
def test_each_datatype_keeps_its_extremes(datatype: Any, text: bytes, expected: Any) -> None:
    decoder = Decoder(Input(name="x", datatype=datatype, shape=[-1, 1]), max_rows=1)
    assert decoder.decode(b'{"input": ' + text + b"}").values.tolist() == [[expected]]


@pytest.mark.parametrize(
    ("datatype", "text", "status"),
    [
        ("INT64", b"[9223372036854775808]", 422),
        ("INT32", b"[2147483648]", 422),
        ("INT64", b"[1.5]", 422),
        ("BOOL", b"[1]", 422),
        ("BYTES", b"[1]", 422),
        ("BYTES", b'["\xff"]', 400),
        ("BYTES", b'["\\ud800"]', 400),
    ],
)
def test_each_datatype_has_bounds(datatype: Any, text: bytes, status: int) -> None:
    decoder = Decoder(Input(name="x", datatype=datatype, shape=[-1, 1]), max_rows=1)
    with pytest.raises(Problem) as error:
        decoder.decode(b'{"input": ' + text + b"}")
    assert error.value.status == status
