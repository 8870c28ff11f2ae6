"""Models that are ONNX already, and what the command does about the folder it writes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.app.harness import APP
from tests.model.conftest import Ask
from tests.model.harness import package

_OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]


def _write(
    here: Path,
    nodes: list[onnx.NodeProto],
    *,
    takes: list[Any],
    gives: list[Any],
    constants: dict[str, Any] | None = None,
    give: onnx.ValueInfoProto | None = None,
) -> None:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, takes)],
        [give or helper.make_tensor_value_info("y", TensorProto.FLOAT, gives)],
        [onnx.numpy_helper.from_array(np.array(value), name) for name, value in (constants or {}).items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=_OPSETS, ir_version=8), here / "model.onnx")


def _doubling(here: Path, rows: Any = "rows") -> None:
    _write(
        here,
        [helper.make_node("Mul", ["x", "two"], ["y"])],
        takes=[rows, 3],
        gives=[rows, 3],
        constants={"two": np.float32(2)},
    )


def test_a_file_is_all_it_takes(tmp_path: Path, ask: Ask) -> None:
    _doubling(tmp_path)
    made = package(tmp_path, "model.onnx", to="models/model")
    assert made.description["example"] == {"input": [0, 0, 0]}
    assert "drift is not watched: --data train.csv" in made.output
    assert "pulumi config set model models/model --stack local && make up STACK=local" in made.output
    assert ask(made.folder, '{"input": [1, 2, 3]}')["prediction"] == [2, 4, 6]


@pytest.mark.parametrize("of", ["data", "default"])
def test_what_is_free_gets_a_maximum(tmp_path: Path, of: str) -> None:
    _write(tmp_path, [helper.make_node("Identity", ["x"], ["y"])], takes=["rows", "length"], gives=["rows", "length"])
    np.savez(tmp_path / "data.npz", x=np.zeros((4, 300), np.float32))
    made = package(tmp_path, "model.onnx", *(["--data", "data.npz"] if of == "data" else []))
    assert made.description["inputs"][0]["max_size"] == (300 if of == "data" else 2048)


def test_the_shipped_model_can_be_packaged_again(tmp_path: Path) -> None:
    shipped = json.loads((APP / "model/model.json").read_text())
    features = shipped["inputs"][0]["features"]
    (tmp_path / "train.csv").write_text(f"{','.join(features)}\n5.1,1.4,0.2\n6.1,4.4,1.2\n6.3,5.4,2.2\n")
    made = package(tmp_path, str(APP / "model/model.onnx"), "--data=train.csv", "--labels=setosa,versicolor,virginica")
    assert made.description["inputs"] == shipped["inputs"]
    assert made.description["outputs"] == shipped["outputs"]
    assert made.description["example"] == {"input": [5.1, 1.4, 0.2]}
    assert made.description["profile"]["features"].keys() == shipped["profile"]["features"].keys()
    assert made.description["profile"]["outputs"]["species"]["categories"] == {
        "setosa": 1,
        "versicolor": 1,
        "virginica": 1,
    }


def test_a_fixed_number_of_rows(tmp_path: Path, ask: Ask) -> None:
    _doubling(tmp_path, rows=4)
    assert "says itself how many rows" in package(tmp_path, "model.onnx", "--batch=2").errors
    made = package(tmp_path, "model.onnx")
    assert (made.description["batching"], made.description["inputs"][0]["shape"]) == ("fixed", [4, 3])
    assert ask(made.folder, '{"input": [[1, 2, 3], [4, 5, 6]]}')["predictions"] == [[2, 4, 6], [8, 10, 12]]


def test_a_model_without_rows(tmp_path: Path, ask: Ask) -> None:
    _write(tmp_path, [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)], takes=[3], gives=[])
    assert "run one by one (--batch none)" in package(tmp_path, "model.onnx").output
    made = package(tmp_path, "model.onnx", "--batch=none")
    assert "--batch none" not in made.output
    assert (made.description["batching"], made.description["inputs"][0]["shape"]) == ("none", [3])
    assert ask(made.folder, '{"input": [[1, 2, 3], [4, 5, 6]]}')["predictions"] == [6, 15]


def test_a_model_that_mixes_rows_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0]), helper.make_node("Sub", ["x", "mean"], ["y"])]
    _write(tmp_path, nodes, takes=["rows", 3], gives=["rows", 3])
    outcome = package(tmp_path, "model.onnx")
    assert outcome.status == 1
    assert "a row's answer depends on the other rows" in outcome.errors
    assert not outcome.folder.exists()


def test_the_dict_that_sklearn_converters_put_at_the_end_becomes_a_tensor(tmp_path: Path, ask: Ask) -> None:
    element = helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    dicts = helper.make_value_info(
        "y", helper.make_sequence_type_proto(helper.make_map_type_proto(TensorProto.STRING, element))
    )
    nodes = [
        helper.make_node("Softmax", ["x"], ["p"]),
        helper.make_node("ZipMap", ["p"], ["y"], domain="ai.onnx.ml", classlabels_strings=["a", "b", "c"]),
    ]
    _write(tmp_path, nodes, takes=["rows", 3], gives=[], give=dicts)
    made = package(tmp_path, "model.onnx")
    assert made.description["outputs"] == [
        {"name": "y", "datatype": "FP32", "shape": [-1, 3], "labels": ["a", "b", "c"]}
    ]
    assert ask(made.folder, '{"input": [1, 1, 1]}')["prediction"].keys() == {"a", "b", "c"}


def test_what_breaks_the_rules_of_onnx(tmp_path: Path) -> None:
    _write(tmp_path, [helper.make_node("Add", ["x", "nothing"], ["y"])], takes=["rows", 3], gives=["rows", 3])
    outcome = package(tmp_path, "model.onnx")
    assert outcome.status == 1
    assert "breaks the rules of ONNX" in outcome.errors


def test_every_mistake_at_once(tmp_path: Path) -> None:
    outcome = package(
        tmp_path, "--bacth=2", "--data=nothing.csv", "--batch=many", "--args={", "--labels=a,,b", "--sha256=1"
    )
    assert outcome.status == 1
    assert [line.partition(":")[0] for line in outcome.errors.splitlines()] == ["error"] * 7
    assert "unrecognized argument: --bacth=2; did you mean --batch?" in outcome.errors
    assert "MODEL is missing: name the model file" in outcome.errors


def test_a_wrong_digest(tmp_path: Path) -> None:
    _doubling(tmp_path)
    digest = hashlib.sha256((tmp_path / "model.onnx").read_bytes()).hexdigest()
    assert f"which has {digest}" in package(tmp_path, "model.onnx", f"--sha256={'0' * 64}").errors
    assert package(tmp_path, "model.onnx", f"--sha256={digest.upper()}").description["source"]["sha256"] == digest


def test_nothing_is_written_when_the_server_would_not_start(tmp_path: Path) -> None:
    _doubling(tmp_path)
    before = package(tmp_path, "model.onnx").description
    outcome = package(tmp_path, "model.onnx", "--version=2", '--example={"input": [1, 2]}')
    assert outcome.status == 1
    assert "the server would not start with this model" in outcome.errors
    assert json.loads((outcome.folder / "model.json").read_text()) == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["made", "model.onnx"]


def test_hooks_are_pinned_and_not_lost(tmp_path: Path, ask: Ask) -> None:
    _doubling(tmp_path)
    hooks = "def postprocess(outputs):\n    return {'y': outputs['y'] + 1}\n"
    (tmp_path / "mine.py").write_text(hooks)
    made = package(tmp_path, "model.onnx", "--hooks=mine.py")
    assert made.description["hooks"] == {"sha256": hashlib.sha256(hooks.encode()).hexdigest()}
    assert ask(made.folder, '{"input": [1, 2, 3]}')["prediction"] == [3, 5, 7]

    again = package(tmp_path, "model.onnx")
    assert again.status == 1
    assert f"--hooks {made.folder}/hooks.py keeps it" in again.errors
    kept = package(tmp_path, "model.onnx", "--hooks=made/hooks.py", "--version=2")
    assert (kept.description["version"], (kept.folder / "hooks.py").read_text()) == ("2", hooks)


@pytest.mark.parametrize("file", ["notes.txt", "model.json"])
def test_a_folder_of_someone_elses_is_left_alone(tmp_path: Path, file: str) -> None:
    _doubling(tmp_path)
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / file).write_text("{}")
    outcome = package(tmp_path, "model.onnx")
    assert outcome.status == 1
    assert "another" in outcome.errors
    assert (tmp_path / "made" / file).read_text() == "{}"
    if file == "model.json":
        assert package(tmp_path, "model.onnx", "--replace=yes").description["version"] == "1"
