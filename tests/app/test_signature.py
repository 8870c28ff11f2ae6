"""Annotations as tensors, arguments from tensors, tensors from answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from server.model.signature import (
    AnswerError,
    InputError,
    SignatureError,
    describe,
    read_signature,
    to_tensor,
)
from server.model.tensors import objects


@dataclass
class Customer:
    age: int
    city: str | None
    limit: float = 1.5

    def __post_init__(self) -> None:
        if self.age < 0:
            raise ValueError("age must not be negative")


@dataclass
class Item:
    name: str
    price: float


class Scores(TypedDict):
    label: list[str]
    score: NDArray[np.float32]


class Verdict(NamedTuple):
    label: str
    score: float


ROW_TYPES: list[tuple[Any, str, list[int]]] = [
    (str, "BYTES", []),
    (int, "INT64", []),
    (float, "FP64", []),
    (bool, "BOOL", []),
    (np.float32, "FP32", []),
    (Literal["a", "b"], "BYTES", []),
    (Literal[1, 2], "INT64", []),
    (str | None, "BYTES", []),
    (float | None, "FP64", []),
    (int | None, "JSON", []),
    (list[str], "BYTES", [-1]),
    (list[float], "FP64", [-1]),
    (list[list[float]], "JSON", []),
    (list[Item], "JSON", []),
    (Item, "JSON", []),
    (dict[str, int], "JSON", []),
    (Any, "JSON", []),
    (Image.Image, "UINT8", [-1, -1, 3]),
    (Annotated[NDArray[np.float32], (3, 224, 224)], "FP32", [3, 224, 224]),
]


@pytest.mark.parametrize(("annotation", "datatype", "row_shape"), ROW_TYPES)
@pytest.mark.parametrize("batch", [False, True])
def test_a_rows_value_is_a_tensor(annotation: Any, datatype: str, row_shape: list[int], batch: bool) -> None:
    def predict(self: Any, other: int, value: Any) -> int: ...

    predict.__annotations__ = {
        "other": list[int] if batch else int,
        "value": list[annotation] if batch else annotation,
        "return": list[int] if batch else int,
    }
    signature = read_signature(type("Predictor", (), {"predict": predict}))
    slot = signature.inputs[1]
    assert signature.call == ("batch" if batch else "row")
    assert (slot.name, slot.datatype, slot.row_shape) == ("value", datatype, row_shape)
    assert slot.picture == (annotation is Image.Image)
    assert slot.nullable == (annotation in (str | None, float | None))


def test_an_array_without_a_shape_leaves_it_to_the_data() -> None:
    class Predictor:
        def predict(self, x: NDArray[np.float32], y: np.ndarray) -> NDArray[np.float32]: ...

    signature = read_signature(Predictor)
    assert signature.call == "batch"
    assert [(slot.datatype, slot.row_shape) for slot in signature.inputs] == [("FP32", None), (None, None)]
    assert [slot.datatype for slot in signature.outputs or []] == ["FP32"]


@pytest.mark.parametrize("batch", [True, False])
def test_the_fields_of_the_only_dataclass_are_the_inputs(batch: bool) -> None:
    class Batch:
        def predict(self, customers: list[Customer]) -> list[float]: ...

    class Row:
        def predict(self, customer: Customer) -> float: ...

    signature = read_signature(Batch if batch else Row)
    assert [slot.name for slot in signature.inputs] == ["age", "city", "limit"]
    assert [slot.default for slot in signature.inputs] == [msgspec.UNSET, msgspec.UNSET, 1.5]
    tensors = {"age": np.array([3, 4]), "city": objects(["a", None]), "limit": np.array([1.5, 2])}
    customers = [Customer(3, "a", 1.5), Customer(4, None, 2)]
    if batch:
        assert signature.arguments(tensors) == ([], {"customers": customers})
    else:
        assert [named["customer"] for _, named in signature.rows(tensors)] == customers
    with pytest.raises(InputError, match="age must not be negative") as raised:
        next(signature.rows({**tensors, "age": np.array([3, -1])}))
    assert raised.value.row == 1


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        ({"x": object}, "parameter 'x' of predict is object, which JSON cannot hold.*it can be str, int"),
        ({}, "parameter 'x' of predict has no annotation: it can be"),
        ({"x": "NoSuchName"}, "annotations of predict cannot be read: name 'NoSuchName'"),
        ({"x": NDArray[np.complex64]}, "'x' of predict is an array of complex64"),
        ({"x": Annotated[NDArray[np.float32], (0, 3)]}, "row shape .*must be positive"),
    ],
)
def test_what_cannot_be_mapped_is_named(annotations: dict[str, Any], message: str) -> None:
    def predict(x: Any) -> int: ...

    predict.__annotations__ = {**annotations, "return": int}
    with pytest.raises(SignatureError, match=message):
        read_signature(predict)


def test_what_cannot_be_called_is_refused() -> None:
    async def later(x: int) -> int: ...
    def several(*x: int) -> int: ...
    def nothing(x: int) -> None: ...

    for function, message in ((later, "async"), (several, "by name"), (nothing, "must return something")):
        with pytest.raises(SignatureError, match=message):
            read_signature(function)


def test_what_yields_streams_a_row() -> None:
    def predict(prompt: str, n: int = 3) -> Iterator[str]:
        yield prompt * n

    signature = read_signature(predict)
    assert (signature.call, signature.streams, signature.inputs[1].default) == ("row", True, 3)
    assert [slot.datatype for slot in signature.outputs or []] == ["BYTES"]


def test_a_dict_of_arrays_takes_all_tensors() -> None:
    class Predictor:
        def predict(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]: ...

    assert read_signature(Predictor).call == "tensors"


@pytest.mark.parametrize(
    ("returns", "result"),
    [
        (Scores, {"label": ["a", "b"], "score": np.array([1, 2], np.float32)}),
        (list[Verdict], [Verdict("a", 1), Verdict("b", 2)]),
        (None, [{"label": "a", "score": 1}, {"label": "b", "score": 2}]),
    ],
)
def test_several_outputs_are_the_answers_members(returns: Any, result: Any) -> None:
    class Predictor:
        def predict(self, x: list[int]) -> Any: ...

    Predictor.predict.__annotations__ = {"x": list[int], **({"return": returns} if returns else {})}
    columns = read_signature(Predictor).columns(result, 2)
    assert list(columns["label"]) == ["a", "b"]
    assert list(columns["score"]) == [1, 2]


@pytest.mark.parametrize(
    ("values", "datatype", "row_shape", "expected"),
    [
        ([1, 2.5], "FP32", [], [1, 2.5]),
        (np.array([1, 2], np.int32), "INT64", [], [1, 2]),
        ([["a"], ["b", "c"]], "BYTES", [-1], [["a"], ["b", "c"]]),
        ([[1.0], [2.0, 3.0]], "FP64", [-1], [[1.0], [2.0, 3.0]]),
        ([Item("a", 1), {"b": np.float32(2)}], "JSON", [], [{"name": "a", "price": 1}, {"b": 2}]),
        ([[], [[np.array([1, 2])]]], "JSON", [], [[], [[[1, 2]]]]),
    ],
)
def test_an_answer_is_a_tensor(values: Any, datatype: Any, row_shape: list[int], expected: Any) -> None:
    assert to_tensor("y", values, datatype, row_shape).tolist() == expected


@pytest.mark.parametrize(
    ("values", "datatype", "row_shape", "message"),
    [
        ([1, "a"], "INT64", [], "'y' as <U|str"),
        ([1.5], "INT64", [], "'y' as float64, which is not INT64"),
        ([300], "INT8", [], "numbers that INT8 cannot hold"),
        ([1], "BYTES", [], "int in 'y', which is text"),
        ([[1, 2]], "FP32", [3], r"rows of shape \[2\], model.json has \[3\]"),
        ([None], "FP32", [], "None in 'y', which is FP32"),
        ([object()], "JSON", [], "object, which JSON cannot hold"),
        ([[1], [1, 2]], "FP32", [2], "rows of different shapes|rows of shape"),
    ],
)
def test_a_wrong_answer_says_what_came(values: Any, datatype: Any, row_shape: list[int], message: str) -> None:
    with pytest.raises(AnswerError, match=message):
        to_tensor("y", values, datatype, row_shape)


@pytest.mark.parametrize(
    ("values", "datatype", "row_shape"),
    [
        (np.zeros((2, 3), np.float32), "FP32", [3]),
        ([1, 2], "INT64", []),
        ([1, 2.5], "FP64", []),
        (["a", "b"], "BYTES", []),
        ([["a"], ["b", "c"]], "BYTES", [-1]),
        ([{"a": 1}, {"a": 2}], "JSON", []),
    ],
)
def test_an_output_is_told_from_its_values(values: Any, datatype: str, row_shape: list[int]) -> None:
    slot = describe("y", values)
    assert (slot.datatype, slot.row_shape) == (datatype, row_shape)
