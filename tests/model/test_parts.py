"""The parts of packaging that need no other process: settings, data, profiles, comparisons, what a file is."""

from __future__ import annotations

import hashlib
import pickle
import shlex
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.model.harness import ROOT, package
from tools.model import compare, make, manifest, npz, profile, settings, training_data
from tools.model.converters import pickle_imports
from tools.model.errors import ModelError
from tools.model.formats import Format, detect
from tools.model.tensors import Tensor

ROWS = Tensor(name="x", datatype="FP32", row_shape=(2,))


def _table(path: Path, text: str, **more: list[str]) -> training_data.Table:
    path.write_text(text)
    return training_data.read(path, features=more.get("features", []), target=more.get("target", []))


@pytest.mark.parametrize(
    ("text", "tensors"),
    [
        ("3", [("", "FP32", (3,))]),
        ("3x224x224", [("", "FP32", (3, 224, 224))]),
        ("int64:16", [("", "INT64", (16,))]),
        ("ids=INT64:* mask=BOOL:*", [("ids", "INT64", (-1,)), ("mask", "BOOL", (-1,))]),
        ("age=FP32 name=BYTES:", [("age", "FP32", ()), ("name", "BYTES", ())]),
    ],
)
def test_input(text: str, tensors: list[tuple[str, str, tuple[int, ...]]]) -> None:
    assert [(each.name, each.datatype, each.row_shape) for each in settings.inputs(text)] == tensors


@pytest.mark.parametrize("text", ["0", "three", "FP31:3", "3x", "-2"])
def test_input_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be sizes|none of"):
        settings.inputs(text)


def test_files_that_git_lfs_has_not_fetched(tmp_path: Path) -> None:
    for name in ("m.onnx", "train.csv", "net.py"):
        (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n")
    with pytest.raises(ModelError) as caught:
        settings.parse(["m.onnx", "--data=train.csv", "--class=net.py:Net"], tmp_path)
    assert len(caught.value.mistakes) == 3
    assert all("is a Git LFS pointer" in mistake and "`git lfs pull`" in mistake for mistake in caught.value.mistakes)


def test_settings_survive_the_way_to_the_other_process(tmp_path: Path) -> None:
    (tmp_path / "m.pth").touch()
    given = ["m.pth", "--input", "ids=INT64:16", "--args", '{"hidden": 16}', "--batch=8", "--trust=a,b", "--nullable"]
    chosen = settings.parse(given, tmp_path)
    assert settings.Settings.from_json(chosen.to_json()) == chosen
    assert chosen.folder == tmp_path / "models/m"


def test_make_has_an_option_for_each_variable() -> None:
    variables = {"CLASS": "net.py:Net", "FROM": "my model.pth", "ARGS": '{"a": 1}', "YES": "1", "STACK": "dev"}
    assert make.arguments(variables) == ["my model.pth", "--class=net.py:Net", '--args={"a": 1}']
    with pytest.raises(ValueError, match=r"^data is no setting.*DATA="):
        make.arguments({"data": "train.csv"})


def test_make_model(tmp_path: Path) -> None:
    outcome = subprocess.run(["make", "-s", "model"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "--class" in outcome.stderr
    command = ["make", "-s", "model", f"FROM={tmp_path}/it's $$one.pth", 'ARGS={"a b"', "DATA=", "YES=1"]
    outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    mistakes = [line for line in outcome.stderr.splitlines() if line.startswith("error")]
    assert mistakes == [
        f"error: MODEL {tmp_path}/it's $one.pth: there is no file {tmp_path}/it's $one.pth",
        "error: --args {\"a b\": is not JSON: Expecting ':' delimiter: line 1 column 7 (char 6)",
    ]


def test_the_command_that_a_refusal_ends_with() -> None:
    given = ["it's m.pt", "--trust", "a", "--nullable", "--max-size=9", "--input=x=FP32:3 y"]
    needs = {"trust": "a,b", "data": "train.csv"}
    told = settings.command(given, needs)
    assert shlex.split(told)[3:] == [
        "it's m.pt", "--trust=a,b", "--nullable=yes", "--max-size=9", "--input=x=FP32:3 y", "--data=train.csv",
    ]  # fmt: skip
    variables = dict(word.split("=", 1) for word in shlex.split(settings.make_command(given, needs))[2:])
    assert variables["FROM"] == "it's m.pt"
    assert make.arguments(variables) == shlex.split(told)[3:]


def test_a_refusal_names_all_that_is_missing_and_the_command(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.writestr("m/constants.pkl", b"")
    digest = hashlib.sha256((tmp_path / "m.pt").read_bytes()).hexdigest()
    outcome = package(tmp_path, "m.pt")
    assert [line[:20] for line in outcome.errors.splitlines() if line.startswith("error")] == [
        "error: m.pt is Torch", "error: --input is mi",
    ]  # fmt: skip
    told, note = outcome.errors.splitlines()[-2:]
    assert f"--trust=torchscript --sha256={digest} --input=3x224x224" in told
    assert note == "(3x224x224 stands for your own)"


def test_objects_keep_what_json_can_say(tmp_path: Path) -> None:
    rows = npz.objects([None, ["a", [1, 2.5]], {"b": [True]}])
    npz.save(tmp_path / "a.npz", {"rows": rows, "same": npz.objects([[1, 2], [3, 4]])})
    again = npz.load(tmp_path / "a.npz")
    assert again["rows"].tolist() == rows.tolist()
    assert again["same"].tolist() == [[1, 2], [3, 4]]
    assert again["same"].shape == (2,)


def test_columns_of_a_csv(tmp_path: Path) -> None:
    table = _table(tmp_path / "t.csv", "\ufeffa,b,c,d\n1,true,x,\n2.5,FALSE,,7\n")
    assert {name: array.dtype.kind for name, array in table.columns.items()} == {"a": "f", "b": "b", "c": "U", "d": "f"}
    assert table.columns["c"].tolist() == ["x", ""]
    assert np.isnan(table.columns["d"][0])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must name each column once"),
        ("a,a\n1,2\n", "must name each column once"),
        ("1,2\n3,4\n", "has no header"),
        ("a,b\n1\n", "row 2 of t.csv has 1 values, the header has 2"),
        ("a,b\n", "has no rows"),
    ],
)
def test_a_csv_that_is_none(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        _table(tmp_path / "t.csv", text)


@pytest.mark.parametrize(
    ("tensor", "data", "maxima"),
    [
        (Tensor(name="x", datatype="FP32", row_shape=(3, -1, -1)), np.zeros((2, 3, 48, 64)), {"max_size": 64}),
        (Tensor(name="x", datatype="FP32", row_shape=(3, -1, -1)), None, {"max_size": 2048}),
        (Tensor(name="x", datatype="BYTES", row_shape=(1,)), np.array([["a"], ["b" * 500]]), {"max_characters": 2000}),
        (Tensor(name="x", datatype="BYTES", row_shape=(1,)), np.array([["city"]]), {"max_characters": 1024}),
        (Tensor(name="x", datatype="BYTES", row_shape=(-1,)), None, {"max_size": 2048, "max_characters": 65536}),
        (ROWS, np.zeros((2, 2)), {}),
    ],
)
def test_maxima_of_what_is_free(tensor: Tensor, data: Any, maxima: dict[str, int]) -> None:
    assert manifest.maxima(tensor, data) == maxima


@pytest.mark.parametrize(
    ("text", "datatype", "said"),
    [
        ("a,b\n1,x\n", "FP32", "b in t.csv has the text 'x', but the model takes FP32"),
        ("a,b\n1,\n", "INT64", "b in t.csv has missing values"),
        ("a,b\n1,1.5\n", "INT64", "b in t.csv has fractions"),
        ("a,b\n1,300\n", "UINT8", "beyond what UINT8 can hold"),
        ("a,b\n1,1e39\n", "FP32", "infinite as FP32"),
        ("a,b\n1,2\n", "BOOL", "other than true and false"),
        ("a\n1\n", "FP32", "leave columns out with --target"),
        ("a,b,y\n1,2,0\n", "FP32", "--target y"),
    ],
)
def test_data_that_do_not_fit(tmp_path: Path, text: str, datatype: str, said: str) -> None:
    table = _table(tmp_path / "t.csv", text)
    inputs = training_data.with_features(table, [Tensor(name="x", datatype=datatype, row_shape=(2,))])
    with pytest.raises(ModelError, match=said):
        training_data.feed(table, inputs)


def test_features_choose_and_order_columns(tmp_path: Path) -> None:
    table = _table(tmp_path / "t.csv", "y,b,a\n0,1,2\n", features=["a", "b"])
    [tensor] = training_data.with_features(table, [ROWS])
    assert tensor.features == ["a", "b"]
    assert training_data.feed(table, [tensor])["x"].tolist() == [[2, 1]]


def test_of_a_large_file_rows_are_drawn(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", x=np.arange(training_data.MAX_ROWS * 2 + 2).reshape(-1, 2))
    table = training_data.read(tmp_path / "t.npz", features=[], target=[])
    assert (table.rows, table.all_rows, len(table.columns["x"])) == (
        training_data.MAX_ROWS,
        training_data.MAX_ROWS + 1,
        training_data.MAX_ROWS,
    )
    table.save(tmp_path)
    again = training_data.Table.load(tmp_path)
    assert again is not None
    assert np.array_equal(again.columns["x"], table.columns["x"])


def test_arrays_keep_any_name(tmp_path: Path) -> None:
    tensors = {"a/b": np.array([1]), "file": np.array(["é"]), "": np.array([True])}
    npz.save(tmp_path / "a.npz", tensors)
    assert {name: array.tolist() for name, array in npz.load(tmp_path / "a.npz").items()} == {
        "a/b": [1],
        "file": ["é"],
        "": [True],
    }


def test_a_profile_counts_every_value() -> None:
    values = np.concatenate([np.linspace(1e-9, 2e-9, 95), [np.nan] * 5])
    column = profile.numeric(values)
    assert column is not None
    assert (sum(column["counts"]), column["missing"], len(column["counts"])) == (95, 5, len(column["edges"]) + 1)
    assert column["edges"] == sorted(set(column["edges"]))
    assert len(column["edges"]) == 9


def test_profiles_of_few_and_no_values() -> None:
    assert profile.numeric(np.array([np.nan, np.inf])) is None
    same = profile.numeric(np.array([3.0, 3.0]))
    assert same is not None
    assert (same["edges"], same["counts"]) == ([3.0], [2, 0])


def test_categories() -> None:
    assert profile.categorical(np.array([0, 2, 2]), ["a", "b", "c"]) == {
        "kind": "categorical",
        "categories": {"a": 1, "b": 0, "c": 2},
    }
    truths = profile.categorical(np.array([True, False, True]))
    assert truths is not None
    assert truths["categories"] == {"false": 1, "true": 2}
    assert profile.categorical(np.array([str(each) for each in range(51)])) is None


def test_differences() -> None:
    expected = {"y": np.array([[1.0], [100.0], [np.nan]]), "c": np.array([1, 2, 3])}
    near = {"y": np.array([[1.00005], [100.005], [np.nan]]), "c": np.array([1, 2, 3])}
    found = compare.difference(expected, near, 1e-4)
    assert (found.rows, found.absolute, found.relative) == (3, pytest.approx(0.005), pytest.approx(5e-5))
    with pytest.raises(ModelError, match="in 1 of 3 rows, more than --tolerance 1e-06 allows"):
        compare.difference({"y": expected["y"]}, {"y": np.array([[1.0], [100.005], [np.nan]])}, 1e-6)
    with pytest.raises(ModelError, match="something else than the original in 1 of 3"):
        compare.difference(expected, near | {"c": np.array([1, 2, 4])}, 1e-4)
    with pytest.raises(ModelError, match="inf in 1 of 3"):
        compare.difference(expected, near | {"y": np.array([[np.nan], [100.0], [np.nan]])}, 1e-4)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_imports_of_a_pickle(protocol: int) -> None:
    assert any(each.endswith(".open") for each in pickle_imports.imports(pickle.dumps([1, "x", open], protocol)))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\x89HDF\r\n", "Keras"),
        (b'{"a": 1}', "not like a model that XGBoost saved"),
        (b"hello", "is no model that is known here"),
        (b"\x08\x07\xff", "is no model that is known here"),
        (b"\0" * 257 + b"ustar", "tar file"),
        (b"PK\x03\x04 damaged", "damaged zip"),
    ],
)
def test_files_that_are_no_model(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(ModelError, match=said):
        detect(tmp_path / "m")


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("m/data.pkl", Format.STATE_DICT),
        ("m/constants.pkl", Format.TORCHSCRIPT),
        ("m/models/model.json", Format.PT2),
        ("schema.json", Format.SKOPS),
    ],
)
def test_zip_files_are_told_by_their_entries(tmp_path: Path, entry: str, told: Format) -> None:
    with zipfile.ZipFile(tmp_path / "m.onnx", "w") as archive:
        archive.writestr(entry, b"")
        if told is Format.TORCHSCRIPT:
            archive.writestr("m/data.pkl", b"")
    assert detect(tmp_path / "m.onnx") is told
