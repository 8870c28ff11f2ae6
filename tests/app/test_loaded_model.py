from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image as pillow  # noqa: N813  # Image is the manifest's

from server.errors import Problem, StartError
from server.model.datatypes import ONNX_TYPES
from server.model.inputs import PlainRow
from server.model.loaded_model import Backend, Model, load_model
from server.model.manifest import parse_manifest
from server.model.onnx_file import has_external_data
from server.model.tensors import DTYPES, Array, Tensors
from server.predictor import warm_up
from server.protocol.predict_json import Decoder, Encoder
from tests.app.harness import IRIS, MODEL, SETOSA, constant, tensor, write_model

IDENTITY = "y = Identity(x)"


def predict(model: Model, values: Any) -> list[Any]:
    """The answers to rows of a model with one input; Problems in the place of those that have none."""
    given = model.manifest.inputs[0]
    return encoded(model, model.run({given.name: np.array(values, dtype=DTYPES[given.datatype])}))


def encoded(model: Model, outputs: Tensors) -> list[Any]:
    answer = Encoder(model.manifest).encode(outputs)
    return [answer.problems.get(row, value) for row, value in enumerate(answer.values)]


def sides(datatype: str, shape: list[int]) -> dict[str, Any]:
    """The same tensor on both sides of a model, `x` and `y`."""
    return {"inputs": [tensor("x", datatype, shape)], "outputs": [tensor("y", datatype, shape)]}


def test_the_shipped_model_answers_its_example() -> None:
    model = load_model(MODEL)
    calibration = warm_up(model)
    assert calibration.inline_rows >= 1
    assert calibration.best_rows >= 1
    assert 0 < calibration.seconds_per_row < 1
    [row] = json.loads(msgspec.json.encode(predict(model, [SETOSA])))
    assert row["species"] == "setosa"
    assert list(row["probabilities"]) == ["setosa", "versicolor", "virginica"]
    assert sum(row["probabilities"].values()) == pytest.approx(1)


def test_a_single_plain_output_is_its_bare_value(tmp_path: Path) -> None:
    model = load_model(write_model(tmp_path, IDENTITY, example=[1.5]))
    assert predict(model, [[1.5], [2.5]]) == [1.5, 2.5]


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_an_answer_that_json_cannot_say_is_a_problem_of_its_row_alone(tmp_path: Path, value: float) -> None:
    model = load_model(write_model(tmp_path, "y = Log(x)", example=[1.0]))
    first, second, third = predict(model, [[1.0], [value], [1.0]])
    assert (first, third) == (0.0, 0.0)
    assert isinstance(second, Problem)
    assert (second.status, second.code) == (422, "non_finite_output")


def test_a_class_without_a_label_is_a_problem(tmp_path: Path) -> None:
    inputs, outputs = [tensor("x", "INT64", [-1, 1])], [tensor("y", "INT64", [-1], labels=["a", "b"])]
    nodes = "axis = Constant <value_ints = [1]> () y = Squeeze(x, axis)"
    model = load_model(write_model(tmp_path, nodes, example=[1], inputs=inputs, outputs=outputs))
    good, negative, high = predict(model, [[1], [-1], [2]])
    assert good == "b"
    assert isinstance(negative, Problem)
    assert isinstance(high, Problem)


SAMPLES: dict[str, list[Any]] = {
    "BOOL": [True, False],
    "BYTES": ["", "a \u00e9\N{GRINNING FACE}"],
    "UINT64": [0, 2**64 - 1],
    "INT64": [-(2**63), 2**63 - 1],
    "FP16": [0.5, -65504.0],
    "FP64": [5e-324, -1.7e308],
}


@pytest.mark.parametrize("batching", ["dynamic", "fixed", "none"])
@pytest.mark.parametrize("row_shape", [[], [1], [2], [2, 1]])
@pytest.mark.parametrize("datatype", list(ONNX_TYPES))
def test_every_datatype_shape_and_batching_runs(
    tmp_path: Path, datatype: Any, row_shape: list[int], batching: str
) -> None:
    shape = {"dynamic": [-1, *row_shape], "fixed": [4, *row_shape], "none": row_shape}[batching]
    samples = SAMPLES.get(datatype, [1, 2])
    rows = [np.full(row_shape, sample, dtype=DTYPES[datatype]).tolist() for sample in samples * 3]
    example = rows[0] if row_shape else {"inputs": {"x": rows[0]}}
    model = load_model(write_model(tmp_path, IDENTITY, example=example, batching=batching, **sides(datatype, shape)))
    warm_up(model)
    for count in (1, 2, 4, 5, 6):
        array = np.array(rows[:count], dtype=DTYPES[datatype])
        answer = model.run({"x": array})["y"]
        assert (answer.dtype, answer.shape) == (array.dtype, array.shape)
        assert answer.tolist() == array.tolist()
        assert encoded(model, {"y": answer}) == (array[:, 0] if row_shape == [1] else array).tolist()


def test_several_inputs_of_several_requests_are_joined_in_order(tmp_path: Path) -> None:
    inputs = [tensor("a", "FP32", [-1, 2]), tensor("b", "FP32", [-1, 1])]
    outputs = [tensor("y", "FP32", [-1, 2])]
    example = {"inputs": {"a": [1, 2], "b": 3}}
    model = load_model(write_model(tmp_path, "y = Add(a, b)", example=example, inputs=inputs, outputs=outputs))
    warm_up(model)
    decoder = Decoder(model.manifest, max_rows=9)
    bodies = [b'{"inputs": {"b": 1, "a": [1, 2]}}', b'{"inputs": [{"a": [3, 4], "b": 2}, {"a": [5, 6], "b": [3]}]}']
    joined = model.join([decoder.decode(body).tensors for body in bodies])
    assert [len(array) for array in joined.values()] == [3, 3]
    assert encoded(model, model.run(joined)) == [[2, 3], [5, 6], [8, 9]]


def test_plain_rows_and_tensors_are_joined_in_order(tmp_path: Path) -> None:
    model = load_model(write_model(tmp_path, IDENTITY, example=[1.0]))
    pair: Tensors = {"x": np.array([[3], [4]], np.float32)}
    six: Tensors = {"x": np.array([[6]], np.float32)}
    joined = model.join([PlainRow([1.0]), PlainRow([2]), pair, PlainRow([5]), six, PlainRow([None])])
    assert joined["x"].dtype == np.float32
    assert np.array_equal(joined["x"][:, 0], [1, 2, 3, 4, 5, 6, np.nan], equal_nan=True)
    assert model.join([PlainRow([7.0])])["x"].tolist() == [[7]]
    assert model.join([pair]) is pair


# --- batches, on a model that tells what it was run on


class Echo:
    """y = x; notes the rows of each run, and lets time pass."""

    def __init__(self, seconds: Callable[[int], float] = lambda _: 0.0) -> None:
        self.runs: list[Any] = []
        self.seconds = seconds
        self.now = 0.0

    def run(self, inputs: Tensors) -> Tensors:
        array = inputs["x"]
        self.runs.append(array.tolist())
        self.now += self.seconds(len(array) if array.ndim else 1)
        return {"y": array}


def echo(backend: Backend, shape: list[int], batching: str = "dynamic") -> Model:
    members = {"name": "m", "version": "1", "batching": batching, "example": {"input": 1.0}} | sides("FP32", shape)
    return Model(parse_manifest(json.dumps(members).encode()), backend, None)


def test_a_fixed_batch_is_filled_up_and_cut() -> None:
    backend = Echo()
    model = echo(backend, [4], "fixed")
    assert model.max_rows == 4
    for count, runs in (
        (1, [[0, 0, 0, 0]]),
        (3, [[0, 1, 2, 2]]),
        (4, [[0, 1, 2, 3]]),
        (9, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 8, 8, 8]]),
    ):
        backend.runs.clear()
        assert predict(model, range(count)) == list(range(count))
        assert backend.runs == runs


def test_a_model_without_rows_is_run_row_by_row() -> None:
    backend = Echo()
    model = echo(backend, [], "none")
    assert model.max_rows == 1
    assert predict(model, [1, 2, 3]) == [1, 2, 3]
    assert backend.runs == [1, 2, 3]


def test_more_rows_than_are_best_are_split() -> None:
    backend = Echo()
    rows: Array = np.arange(7, dtype=np.float32)
    assert echo(backend, [-1]).run({"x": rows}, 3)["y"].tolist() == list(range(7))
    assert backend.runs == [[0, 1, 2], [3, 4, 5], [6]]


class Liar:
    """Answers in whatever shape it is told, for one run after the other."""

    def __init__(self, *shapes: tuple[int, ...]) -> None:
        self.shapes = list(shapes)

    def run(self, inputs: Tensors) -> Tensors:
        return {"y": np.zeros(self.shapes.pop(0), dtype=np.float32)}


@pytest.mark.parametrize(
    ("shape", "wrong"), [([-1], (1,)), ([-1], (2, 1)), ([-1], ()), ([-1, 3], (2, 2)), ([-1, -1, 3], (2, 9, 2))]
)
def test_an_output_of_another_shape_is_the_models_mistake(shape: list[int], wrong: tuple[int, ...]) -> None:
    model = echo(Liar(wrong), shape)
    with pytest.raises(Problem, match=r"the model's output 'y' has the shape \[.*\] for 2 rows, not \[2") as error:
        model.run({"x": np.zeros((2, *([1] * (len(shape) - 1))), dtype=np.float32)})
    assert error.value.status == 500


def test_answers_of_different_shapes_are_not_one_answer() -> None:
    model = echo(Liar((2, 3), (1, 3)), [-1, 3], "none")
    with pytest.raises(Problem) as error:
        model.run({"x": np.zeros((2, 2, 3), dtype=np.float32)})
    assert (error.value.status, error.value.code) == (422, "ragged_output")


def test_rows_of_varying_size_are_marked() -> None:
    assert [echo(Echo(), shape).sizes_vary for shape in ([-1, 3], [-1, -1], [-1, 2, -1])] == [False, True, True]
    members = {"name": "m", "version": "1", "example": {"input": "a"}} | sides("BYTES", [-1])
    assert Model(parse_manifest(json.dumps(members).encode()), Echo(), None).sizes_vary


@pytest.mark.parametrize(
    ("shapes", "inputs", "cost"),
    [
        ({"x": [-1, 3]}, {"x": np.ones((2, 3))}, 3),
        ({"x": [-1]}, {"x": np.ones(2)}, 1),
        ({"x": [-1, -1]}, {"x": np.ones((9, 400))}, 400**2),
        ({"x": [-1, -1, 64]}, {"x": np.ones((1, 10, 64))}, 640),
        ({"x": [-1, 3, -1, -1]}, {"x": np.ones((1, 3, 20, 30))}, 1800),
        ({"x": [-1, 200, 200, -1]}, {"x": np.ones((1, 200, 200, 1))}, 40_000),
        ({"x": [-1, -1], "y": [-1, -1]}, {"x": np.ones((1, 4)), "y": np.ones((1, 5))}, 25),
        ({"x": [-1, 2]}, {"x": np.array([["a", "b" * 100], ["c", ""]], object)}, 2 * 4 * 100),
        ({"x": [-1, 2]}, {"x": np.array([["a", ""]], object)}, 2 * 4 * 64),
    ],
)
def test_a_row_costs_what_it_holds(shapes: dict[str, list[int]], inputs: Tensors, cost: int) -> None:
    tensors = [
        tensor(name, "BYTES" if inputs[name].dtype == object else "FP32", shape) for name, shape in shapes.items()
    ]
    members = {"name": "m", "version": "1", "example": {}, "inputs": tensors, "outputs": tensors}
    assert Model(parse_manifest(json.dumps(members).encode()), Echo(), None).row_cost(inputs) == cost


def test_many_pictures_are_decoded_in_parts() -> None:
    class Counted(Echo):
        def run(self, inputs: Tensors) -> Tensors:
            self.runs.append(len(inputs["x"]))
            return {"y": inputs["x"]}

    sizes = tensor("x", "UINT8", [-1, 3, 512, 512], image={})
    members = {"name": "m", "version": "1", "example": {"input": ""}, "inputs": [sizes]}
    members["outputs"] = [tensor("y", "UINT8", [-1, 3, 512, 512])]
    backend = Counted()
    model = Model(parse_manifest(json.dumps(members).encode()), backend, None)
    files = [io.BytesIO() for _ in range(12)]
    for grey, file in enumerate(files):
        pillow.new("RGB", (1, 1), (grey, grey, grey)).save(file, "PNG")
    pictures = np.array([file.getvalue() for file in files], object)
    prepared = model.join([model.prepare({"x": pictures})])
    assert prepared["x"].nbytes < 1000  # and not the 9 MB of their pixels
    outputs = model.run(prepared, 5)
    assert outputs["y"][:, 0, 0, 0].tolist() == list(range(12))
    assert backend.runs == [5, 5, 2]
    pictures[11] = b"none"
    with pytest.raises(Problem) as error:
        model.run(model.join([model.prepare({"x": pictures})]), 5)
    assert (error.value.status, error.value.row) == (422, 11)


# --- what is refused at the start


def _iris(tmp_path: Path, **changes: Any) -> Path:
    (tmp_path / "model.onnx").write_bytes((MODEL / "model.onnx").read_bytes())
    (tmp_path / "model.json").write_text(json.dumps(IRIS | changes))
    return tmp_path


def _input(**changes: Any) -> dict[str, Any]:
    return {"inputs": [IRIS["inputs"][0] | changes]}


def _output(**changes: Any) -> dict[str, Any]:
    return {"outputs": [IRIS["outputs"][0] | changes]}


NO_PROFILE = {"profile": None}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"name": ""}, "name and version"),
    ({"name": 1}, r"Expected `str`, got `int` - at `\$.name`"),
    ({"inputs": []}, "inputs must name at least one tensor"),
    (_input(datatype="FP31"), r"at `\$.inputs\[0\].datatype`"),
    (_input(shape=[3]), r"the shape of input 'input' must start with -1 \(rows\), not be \[3\]"),
    (_input(features=["a"]), r"input 'input' has 1 features but rows of shape \[3\]"),
    (_input(datatype="FP64"), r"input 'input' is tensor\(float\), model.json has FP64"),
    *(
        (
            _input(shape=shape, features=[]) | NO_PROFILE,
            rf"input 'input' has shape \[-1, 3\], model.json has {re.escape(str(shape))}",
        )
        for shape in ([-1, 4], [-1, -1], [-1, 3, 1])
    ),
    (_input(name="wrong") | NO_PROFILE, r"model.onnx has the inputs \['input'\], model.json has \['wrong'\]"),
    (
        {"inputs": [IRIS["inputs"][0], tensor("more", "FP32", [-1])]} | NO_PROFILE,
        r"model.onnx has the inputs \['input'\], model.json has \['input', 'more'\]",
    ),
    ({"outputs": []}, "outputs must name at least one tensor"),
    (
        _output(name="wrong") | NO_PROFILE,
        r"model.onnx has the outputs \['probabilities', 'species'\], model.json has \['wrong'\]",
    ),
    (_output(datatype="FP32", labels=[]) | NO_PROFILE, r"output 'species' is tensor\(int64\), model.json has FP32"),
    (_output(shape=[-1, 2]), r"output 'species' has 3 labels but rows of shape \[2\]"),
    ({"batching": "fixed"}, "must start with the batch's size"),
    ({"example": {"input": [1, 2]}}, r"own example: a row is 3 values .* got 2 \(at \$\.input\)"),
    ({"example": {"inputs": {"x": 1}}}, r"own example: Object contains unknown field `x` \(at \$\.inputs\)"),
    ({"example": []}, r"own example: Expected `object`, got `array` \(at \$\)"),
    (
        {"profile": {"rows": 1, "features": {"other": {"kind": "categorical", "categories": {"a": 1}}}}},
        "the profile names feature 'other', which is not one column of the features",
    ),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_a_description_that_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(StartError, match=message):
        warm_up(load_model(_iris(tmp_path, **changes)))


@pytest.mark.parametrize(
    ("in_file", "described", "batching"),
    [([2, 1], [3, 1], "fixed"), ([3, 1], [-1, 1], "dynamic"), ([-1, 1], [1], "none")],
)
def test_a_file_whose_batches_are_others_is_refused(
    tmp_path: Path, in_file: list[int], described: list[int], batching: str
) -> None:
    write_model(tmp_path, IDENTITY, example=[1.0], **sides("FP32", in_file))
    changed = json.loads((tmp_path / "model.json").read_text()) | {"batching": batching} | sides("FP32", described)
    (tmp_path / "model.json").write_text(json.dumps(changed))
    with pytest.raises(StartError, match=re.escape(f"input 'x' has shape {in_file}, model.json has {described}")):
        load_model(tmp_path)


def test_a_model_that_only_says_it_takes_batches_is_refused(tmp_path: Path) -> None:
    """As exported networks do that have the number of rows in their middle."""
    nodes = """
        rows = Constant <value_ints = [0]> ()
        shape = Shape(x)
        middle = Squeeze(x, rows)
        y = Expand(middle, shape)
    """
    folder = write_model(tmp_path, nodes, example=[1.0])
    with pytest.raises(StartError, match="the model cannot run 2 rows at once, as its batching says: the model failed"):
        warm_up(load_model(folder))


def test_an_example_without_a_proper_answer_is_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "y = Log(x)", example=[0.0])
    with pytest.raises(StartError, match="own example: for this input the model's output 'y' is not a finite number"):
        warm_up(load_model(folder))


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


EXTERNAL = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
EXTERNAL.external_data.add(key="location", value="../../etc/passwd")
IN_INITIALIZER = helper.make_graph([], "g", [], [], [EXTERNAL])
IN_ATTRIBUTE = helper.make_graph([helper.make_node("Constant", [], ["w"], value=EXTERNAL)], "g", [], [])
IF = helper.make_node("If", ["c"], ["w"], then_branch=IN_INITIALIZER, else_branch=IN_ATTRIBUTE)


@pytest.mark.parametrize("graph", [IN_INITIALIZER, IN_ATTRIBUTE, helper.make_graph([IF], "g", [], [])])
def test_weights_in_other_files_are_refused_wherever_they_hide(tmp_path: Path, graph: onnx.GraphProto) -> None:
    content = helper.make_model(graph).SerializeToString()
    assert has_external_data(content)
    _iris(tmp_path).joinpath("model.onnx").write_bytes(content)
    with pytest.raises(StartError, match="refused"):
        load_model(tmp_path)


def test_weights_inside_the_file_are_not_mistaken_for_external_ones(tmp_path: Path) -> None:
    weights = [constant("w", np.float32(27))]
    folder = write_model(tmp_path, "y = Add(x, w)", example=[1.0], initializers=weights)
    assert not has_external_data((folder / "model.onnx").read_bytes())
    assert not has_external_data((MODEL / "model.onnx").read_bytes())
