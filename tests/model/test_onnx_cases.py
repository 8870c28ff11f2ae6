"""ONNX files as exporters write them: packaged by the plain command, or refused with a command that works."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime  # pyright: ignore[reportMissingTypeStubs]  # it ships none
import pytest
from onnx import TensorProto

from server.model.loaded_model import Model, load_model
from server.model.manifest import MAX_SHOWN_EXAMPLE_BYTES
from tests.model import onnx_cases as cases
from tests.model.conftest import Ask
from tests.model.harness import Outcome, package
from tools.model.tensors import Tensors

Case = Callable[[Path], None]


def _package(here: Path, case: Case, *arguments: str) -> Outcome:
    case(here / "model.onnx")
    return package(here, "model.onnx", *arguments)


def _served(made: Outcome) -> Model:
    assert made.status == 0, made.errors
    return load_model(made.folder)


def _original(here: Path, **feed: Any) -> Tensors:
    session: Any = onnxruntime.InferenceSession(here / "model.onnx")
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


@pytest.mark.parametrize(
    ("case", "row", "answer"),
    [
        (cases.minus_one, [1, 2, 3], [-1, -2, -3]),
        (cases.weights_beside, [1, 2, 3], [16, 22]),
        (cases.declared_rank, [0, 3], 7),
        (cases.quantized_by_batch, [1, 0, 0, 0], [-6, -5, -4]),
    ],
)
def test_what_exporters_write_is_served(tmp_path: Path, ask: Ask, case: Case, row: list[int], answer: Any) -> None:
    made = _package(tmp_path, case)
    assert made.status == 0, made.errors
    given = ask(made.folder, json.dumps({"input": row}))["prediction"]
    assert np.ravel(given).tolist() == pytest.approx(np.ravel(answer).tolist(), rel=0.01)


def test_an_answer_of_two_megabytes(tmp_path: Path, ask: Ask) -> None:
    made = _package(tmp_path, cases.large_answer)
    assert ask(made.folder, '{"input": [2]}')["prediction"] == [0.5] * 100_000


def test_a_dict_of_classes_without_the_usual_operators(tmp_path: Path, ask: Ask) -> None:
    made = _package(tmp_path, cases.dict_of_classes)
    [label, chances] = made.description["outputs"]
    assert (label["shape"], chances["shape"], chances["labels"]) == ([-1], [-1, 2], ["0", "1"])
    answer = ask(made.folder, '{"input": [0, 3]}')["prediction"]
    assert answer["label"] == 1
    assert answer["chances"]["1"] == pytest.approx(1 / (1 + np.exp(-1)), abs=1e-5)


def test_free_sizes_are_tried_until_one_runs(tmp_path: Path) -> None:
    made = _package(tmp_path, cases.large_pictures_only)
    assert made.description["inputs"][0]["shape"] == [-1, 3, -1, -1]
    picture = np.random.default_rng(0).random((2, 3, 40, 30), np.float32)
    answers = _served(made).run({"x": picture})
    assert np.allclose(answers["y"], _original(tmp_path, x=picture)["y"])


def test_sizes_that_nothing_tried_has_are_said_by_the_user(tmp_path: Path) -> None:
    refused = _package(tmp_path, cases.one_size_only)
    assert refused.status == 1
    assert "none of the sizes 8, 16, 32" in refused.errors
    assert "--input 'x=FP32:SIZE'" in refused.errors
    assert "cannot be reshaped" in refused.errors
    assert package(tmp_path, "model.onnx", "--input=x=FP32:77").description["inputs"][0]["shape"] == [-1, 77]
    assert "does not fit x of the model" in package(tmp_path, "model.onnx", "--input=3x77x1").errors
    np.savez(tmp_path / "rows.npz", x=np.ones((5, 77), np.float32))
    assert package(tmp_path, "model.onnx", "--data=rows.npz").description["inputs"][0]["shape"] == [-1, -1]


def test_data_and_pictures_for_onnx(tmp_path: Path, ask: Ask) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (3, 3, 64, 64))
    np.savez(tmp_path / "data.npz", x=(pixels / 255).astype(np.float32))
    made = _package(tmp_path, cases.large_pictures_only, "--data=data.npz", "--outputs=mean")
    assert (made.description["inputs"][0]["max_size"], made.description["outputs"][0]["name"]) == (64, "mean")
    made = package(tmp_path, "model.onnx", "--data=data.npz", "--input=3x64x64", "--image={}")
    example = made.description["example"]
    assert 100 < len(example["input"]) < 3000
    mean = np.ravel(ask(made.folder, json.dumps(example))["prediction"])
    assert mean == pytest.approx(np.full(3, 0.5), abs=0.1)


def test_the_longest_row_that_a_model_takes_is_its_maximum(tmp_path: Path) -> None:
    assert _package(tmp_path, cases.positions).description["inputs"][0]["max_size"] == 77


def test_weights_outside_the_folder_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(24))
    below = tmp_path / "below"
    below.mkdir()
    (below / "link").symlink_to(tmp_path / "secret")
    for location in ("../secret", str(tmp_path / "secret"), "link", "C:\\secret"):
        cases.weights_in(below / "model.onnx", location)
        refused = package(below, "model.onnx")
        assert refused.status == 1
        assert "was not read" in refused.errors, location
        assert "writes a single file" in refused.errors
    cases.weights_in(below / "model.onnx", "missing.data")
    assert f"copy it to {below}/missing.data" in package(below, "model.onnx").errors


@pytest.mark.parametrize("named", [True, False])
def test_rows_behind_the_time_and_a_state(tmp_path: Path, named: bool) -> None:
    cases.recurrent(tmp_path / "model.onnx", named=named)
    made = package(tmp_path, "model.onnx")
    assert [tensor["shape"] for tensor in made.description["inputs"]] == [[-1, -1, 3], [-1, 1, 4]]
    assert "the rows are axis 1 of x, h" in made.output
    rng = np.random.default_rng(0)
    x, h = rng.random((5, 7, 3), np.float32), rng.random((5, 1, 4), np.float32)
    answers = _served(made).run({"x": x, "h": h})
    wanted = _original(tmp_path, x=np.moveaxis(x, 0, 1), h=np.moveaxis(h, 0, 1))
    assert np.allclose(answers["y"], np.moveaxis(wanted["y"], 1, 0), atol=1e-6)
    assert np.allclose(answers["h_out"], np.moveaxis(wanted["h_out"], 1, 0), atol=1e-6)


def test_rows_inside_the_branches_of_an_if(tmp_path: Path) -> None:
    made = _package(tmp_path, cases.branches)
    x = np.random.default_rng(0).random((4, 6), np.float32)
    assert np.allclose(_served(made).run({"x": x})["y"], _original(tmp_path, x=x.T)["y"], atol=1e-6)


def test_a_state_and_a_number_for_all_rows(tmp_path: Path) -> None:
    made = _package(tmp_path, cases.stateful)
    assert "rate has no rows, so each row runs alone" in made.output
    assert [tensor["shape"] for tensor in made.description["inputs"]] == [[1, -1], [1, 2, 4], [1]]
    rng = np.random.default_rng(0)
    sound, state = rng.random((2, 160), np.float32), rng.random((2, 2, 4), np.float32)
    answers = _served(made).run({"sound": sound, "state": state, "rate": np.array([8, 16])})
    for row, rate in enumerate((8, 16)):
        wanted = _original(tmp_path, sound=sound[row, None], state=state[row][:, None], rate=np.array(rate))
        assert np.allclose(answers["y"][row], wanted["y"][0], atol=1e-6)
        assert np.allclose(answers["state_out"][row], wanted["state_out"][:, 0], atol=1e-6)


def test_an_output_without_rows_and_the_command_that_leaves_it_out(tmp_path: Path, ask: Ask) -> None:
    made = _package(tmp_path, cases.total_of_all_rows)
    assert "without it rows run together: --outputs y" in made.output
    assert ask(made.folder, '{"input": [1, 2, 3]}')["prediction"] == {"y": [2, 4, 6], "total": 12}
    made = package(tmp_path, "model.onnx", "--outputs=y")
    assert [tensor["shape"] for tensor in made.description["outputs"]] == [[-1, 3]]


def test_an_output_that_is_no_tensor_is_left_out_by_the_command_in_the_message(tmp_path: Path) -> None:
    refused = _package(tmp_path, cases.text_sequence)
    assert "parts (a sequence)" in refused.errors
    assert "--outputs y" in refused.errors
    assert package(tmp_path, "model.onnx", "--outputs=y").status == 0


def test_outputs_are_chosen_with_what_they_need_or_named(tmp_path: Path) -> None:
    made = _package(tmp_path, cases.two_outputs, "--outputs=size,minus")
    assert [tensor["name"] for tensor in made.description["outputs"]] == ["size", "minus"]
    assert [tensor["name"] for tensor in made.description["inputs"]] == ["x"]
    assert [weight.name for weight in onnx.load(made.folder / "model.onnx").graph.initializer] == []
    named = package(tmp_path, "model.onnx", "--outputs=a,b,c").description["outputs"]
    assert [tensor["name"] for tensor in named] == ["a", "b", "c"]
    assert "the model gives minus, size, unused" in package(tmp_path, "model.onnx", "--outputs=a").errors


@pytest.mark.parametrize(
    ("element", "datatype", "value"),
    [
        (TensorProto.DOUBLE, "FP64", 0.1234567890123456),
        (TensorProto.FLOAT16, "FP16", 0.5),
        (TensorProto.INT8, "INT8", -7),
        (TensorProto.UINT8, "UINT8", 200),
        (TensorProto.BOOL, "BOOL", True),
        (TensorProto.STRING, "BYTES", "text"),
    ],
)
def test_types(tmp_path: Path, ask: Ask, element: int, datatype: str, value: Any) -> None:
    cases.typed(tmp_path / "model.onnx", element)
    made = package(tmp_path, "model.onnx")
    assert made.description["inputs"][0]["datatype"] == datatype
    assert ask(made.folder, json.dumps({"input": [value, value]}))["prediction"] == [value, value]


def test_a_type_that_no_client_can_send(tmp_path: Path) -> None:
    cases.typed(tmp_path / "model.onnx", TensorProto.BFLOAT16)
    refused = package(tmp_path, "model.onnx")
    assert refused.status == 1
    assert "bfloat16" in refused.errors


@pytest.mark.parametrize("case", [cases.half_precision, cases.large_values])
def test_rounding_is_no_dependence(tmp_path: Path, case: Case) -> None:
    assert _package(tmp_path, case).description["inputs"][0]["shape"][0] == -1


@pytest.mark.parametrize("case", [cases.mixes_rows, cases.counts_rows])
def test_what_is_advised_to_a_model_that_mixes_rows_works(tmp_path: Path, case: Case) -> None:
    refused = _package(tmp_path, case)
    assert refused.status == 1
    for advice, shape in (("--batch 1", [1, 3]), ("--batch none", [-1, 3])):
        assert advice in refused.errors
        made = package(tmp_path, "model.onnx", advice.replace(" ", "="))
        assert made.description["inputs"][0]["shape"] == shape


def test_a_model_quantized_by_its_batch_runs_each_row_alone(tmp_path: Path) -> None:
    made = _package(tmp_path, cases.quantized_by_batch)
    assert "by DynamicQuantizeLinear a row's answer depends on those beside it" in made.output
    rows = np.random.default_rng(0).random((4, 4), np.float32) * [[1], [10], [100], [1000]]
    rows = rows.astype(np.float32)
    answers = _served(made).run({"x": rows})["y"]
    alone = [_original(tmp_path, x=row[None])["y"][0] for row in rows]
    assert np.array_equal(answers, alone)


def test_random_answers_are_said_to_be(tmp_path: Path) -> None:
    assert "the same row gets another answer each time" in _package(tmp_path, cases.random).output


def test_a_sum_of_two_free_sizes(tmp_path: Path) -> None:
    assert _package(tmp_path, cases.summed_symbol).status == 0


@pytest.mark.parametrize("case", [cases.no_zeros, cases.stateful])
def test_the_example_is_a_row_with_a_finite_answer(tmp_path: Path, ask: Ask, case: Case) -> None:
    made = _package(tmp_path, case)
    assert ask(made.folder, json.dumps(made.description["example"]))["prediction"]


def test_a_long_row_of_data_makes_a_short_example(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", ids=np.ones((3, 70), np.int64) * 123_456_789 % 10)
    made = _package(tmp_path, lambda path: cases.positions(path, most=2000), "--data=data.npz")
    assert len(made.description["example"]["input"]) == 70
    np.savez(tmp_path / "data.npz", ids=np.ones((3, 1500), np.int64))
    made = package(tmp_path, "model.onnx", "--data=data.npz")
    assert len(made.description["example"]["input"]) == 4
    assert made.description["inputs"][0]["max_size"] == 1500


def test_a_long_row_of_a_fixed_size_is_not_repeated_by_the_server(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).random((9, 4000), np.float32))
    cases.save(
        tmp_path / "model.onnx",
        [cases.node("Neg", ["x"], ["y"])],
        [cases.value("x", ["N", 4000])],
        [cases.value("y", ["N", 4000])],
    )
    made = package(tmp_path, "model.onnx", "--data=data.npz")
    model = _served(made)
    assert len(bytes(model.manifest.example)) > MAX_SHOWN_EXAMPLE_BYTES
    assert model.manifest.shown_example is None
    assert all(len(str(number)) <= 8 for number in made.description["example"]["input"])
