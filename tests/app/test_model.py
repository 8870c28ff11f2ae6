from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from server.model import load_model
from server.onnx_file import has_external_data
from server.problem import Problem, StartError
from tests.app.harness import IRIS, MODEL, SETOSA, constant, slow_model, tensor, write_model

IDENTITY = [helper.make_node("Identity", ["x"], ["y"])]


def test_the_shipped_model_answers_its_example() -> None:
    model = load_model(MODEL)
    assert model.warm_up() >= 1
    [row] = model.predict(np.array([SETOSA], dtype=np.float32))
    assert row["species"] == "setosa"
    assert list(row["probabilities"]) == ["setosa", "versicolor", "virginica"]
    assert sum(row["probabilities"].values()) == pytest.approx(1)


def test_a_single_plain_output_is_its_bare_value(tmp_path: Path) -> None:
    model = load_model(write_model(tmp_path, IDENTITY, example=[1.5]))
    assert model.predict(np.array([[1.5], [2.5]], dtype=np.float32)) == [1.5, 2.5]


def test_a_slow_model_is_kept_off_the_event_loop(tmp_path: Path) -> None:
    assert load_model(slow_model(tmp_path, 20_000)).warm_up() == 0


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_an_answer_that_json_cannot_say_is_a_problem_of_its_row_alone(tmp_path: Path, value: float) -> None:
    model = load_model(write_model(tmp_path, [helper.make_node("Log", ["x"], ["y"])], example=[1.0]))
    first, second, third = model.predict(np.array([[1.0], [value], [1.0]], dtype=np.float32))
    assert (first, third) == (0.0, 0.0)
    assert isinstance(second, Problem)
    assert (second.status, second.code) == (422, "non_finite_output")


def test_a_class_without_a_label_is_a_problem(tmp_path: Path) -> None:
    outputs = [tensor("y", "INT64", [-1], labels=["a", "b"])]
    inputs = [tensor("x", "INT64", [-1, 1])]
    nodes = [helper.make_node("Squeeze", ["x", "axis"], ["y"])]
    folder = write_model(
        tmp_path, nodes, example=[1], inputs=inputs, outputs=outputs, initializers=[constant("axis", [1])]
    )
    good, negative, high = load_model(folder).predict(np.array([[1], [-1], [2]]))
    assert good == "b"
    assert isinstance(negative, Problem)
    assert isinstance(high, Problem)


def _iris(tmp_path: Path, **changes: Any) -> Path:
    (tmp_path / "model.onnx").write_bytes((MODEL / "model.onnx").read_bytes())
    (tmp_path / "model.json").write_text(json.dumps(IRIS | changes))
    return tmp_path


def _input(**changes: Any) -> list[dict[str, Any]]:
    return [IRIS["inputs"][0] | changes]


def _output(**changes: Any) -> list[dict[str, Any]]:
    return [IRIS["outputs"][0] | changes]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "name and version"),
        ({"name": 1}, r"Expected `str`, got `int` - at `\$.name`"),
        ({"inputs": []}, "must be one tensor, not 0"),
        ({"inputs": _input(datatype="FP31")}, r"at `\$.inputs\[0\].datatype`"),
        ({"inputs": _input(shape=[3])}, "must be \\[-1, values in a row\\]"),
        ({"inputs": _input(features=["a"])}, "3 values in a row but 1 features"),
        ({"inputs": _input(datatype="FP64")}, r"tensor\(float\), model.json has FP64"),
        (
            {"inputs": _input(shape=[-1, 4], features=[]), "profile": None},
            r"has shape \[-1, 3\], model.json has \[-1, 4\]",
        ),
        ({"inputs": _input(name="wrong")}, "has the inputs"),
        ({"outputs": []}, "at least one tensor"),
        ({"outputs": _output(name="wrong")}, "has the outputs"),
        ({"outputs": _output(datatype="FP32", labels=[])}, r"tensor\(int64\), model.json has FP32"),
        ({"outputs": _output(shape=[-1, 2])}, "3 labels but shape"),
        ({"example": {"input": [1, 2]}}, "own example: a row is 3 values .* got 2"),
        ({"profile": {"rows": 1, "features": {"other": {"min": 0, "max": 1, "edges": [], "counts": [1]}}}}, "no input"),
    ],
)
def test_a_description_that_does_not_fit_is_refused_with_the_reason(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(StartError, match=message):
        load_model(_iris(tmp_path, **changes)).warm_up()


@pytest.mark.parametrize(
    "content", [b"", b"not a model", b"\x08\x08\x3a\x05abc", MODEL.joinpath("model.onnx").read_bytes()[:-9]]
)
def test_a_broken_file_is_refused_with_its_name(tmp_path: Path, content: bytes) -> None:
    _iris(tmp_path).joinpath("model.onnx").write_bytes(content)
    with pytest.raises(StartError, match=r"model\.onnx"):
        load_model(tmp_path)


@pytest.mark.parametrize("missing", ["model.json", "model.onnx"])
def test_a_missing_file_is_refused_with_its_name(tmp_path: Path, missing: str) -> None:
    _iris(tmp_path).joinpath(missing).unlink()
    with pytest.raises(StartError, match=rf"{missing} cannot be read: No such file"):
        load_model(tmp_path)


def _external(name: str) -> onnx.TensorProto:
    weights = onnx.TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    weights.external_data.add(key="location", value="../../etc/passwd")
    return weights


def _with_initializer() -> onnx.GraphProto:
    return helper.make_graph([], "g", [], [], [_external("w")])


def _in_attribute() -> onnx.GraphProto:
    return helper.make_graph([helper.make_node("Constant", [], ["w"], value=_external("w"))], "g", [], [])


def _in_branch() -> onnx.GraphProto:
    branch = helper.make_node("If", ["c"], ["w"], then_branch=_with_initializer(), else_branch=_in_attribute())
    return helper.make_graph([branch], "g", [], [])


@pytest.mark.parametrize("graph", [_with_initializer(), _in_attribute(), _in_branch()])
def test_weights_in_other_files_are_refused_wherever_they_hide(tmp_path: Path, graph: onnx.GraphProto) -> None:
    content = helper.make_model(graph).SerializeToString()
    assert has_external_data(content)
    _iris(tmp_path).joinpath("model.onnx").write_bytes(content)
    with pytest.raises(StartError, match="refused"):
        load_model(tmp_path)


def test_weights_inside_the_file_are_not_mistaken_for_external_ones(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    folder = write_model(tmp_path, nodes, example=[1.0], initializers=[constant("w", np.float32([13, 14]).sum())])
    assert not has_external_data((folder / "model.onnx").read_bytes())
    assert not has_external_data((MODEL / "model.onnx").read_bytes())
