from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from server.errors import Problem, StartError
from server.model import manifest as m
from server.model.hooks import Hooks, load_hooks
from server.model.tensors import Tensors

PRE = "def preprocess(inputs):\n    return {'z': inputs['x'] * 2}\n"
POST = "def postprocess(outputs):\n    return {'y': outputs['z'] + 1}\n"


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    sys.modules.pop("model_hooks", None)


def manifest(source: str | None, *outputs: m.Output) -> m.Manifest:
    return m.Manifest(
        name="m",
        version="1",
        inputs=[m.Input(name="x", datatype="FP32", shape=[-1, 2])],
        outputs=list(outputs) or [m.Output(name="y", datatype="FP32", shape=[-1, 2])],
        example=msgspec.Raw(b"{}"),
        hooks=None if source is None else m.Hooks(sha256=hashlib.sha256(source.encode()).hexdigest()),
    )


def load(folder: Path, source: str, *outputs: m.Output) -> Hooks:
    (folder / "hooks.py").write_text(source)
    hooks = load_hooks(folder, manifest(source, *outputs))
    assert hooks is not None
    return hooks


def x(*rows: list[float]) -> Tensors:
    return {"x": np.array(rows or [[1, 2]], np.float32)}


# --- loading


def test_a_folder_without_hooks(tmp_path: Path) -> None:
    assert load_hooks(tmp_path, manifest(None)) is None


def test_declared_hooks_run(tmp_path: Path) -> None:
    hooks = load(tmp_path, PRE + POST)
    assert (hooks.preprocesses, hooks.postprocesses) == (True, True)
    inputs = hooks.preprocess(x([1, 2], [3, 4]), 2)
    assert inputs["z"].tolist() == [[2, 4], [6, 8]]
    assert hooks.postprocess(inputs, 2)["y"].tolist() == [[3, 5], [7, 9]]


def test_either_hook_may_be_alone(tmp_path: Path) -> None:
    tensors = x()
    before = load(tmp_path, PRE)
    assert before.preprocesses
    assert not before.postprocesses
    assert before.postprocess(tensors, 1) is tensors
    after = load(tmp_path, POST)
    assert not after.preprocesses
    assert after.preprocess(tensors, 1) is tensors


def test_the_digest_may_be_in_capitals(tmp_path: Path) -> None:
    (tmp_path / "hooks.py").write_text(PRE)
    digest = hashlib.sha256(PRE.encode()).hexdigest().upper()
    assert load_hooks(tmp_path, msgspec.structs.replace(manifest(None), hooks=m.Hooks(sha256=digest)))


def test_an_undeclared_file_is_an_error_and_does_not_run(tmp_path: Path) -> None:
    (tmp_path / "hooks.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(StartError, match=r"does not declare.*`make model`"):
        load_hooks(tmp_path, manifest(None))
    assert not (tmp_path / "ran").exists()


def test_another_file_than_the_declared_is_an_error_and_does_not_run(tmp_path: Path) -> None:
    (tmp_path / "hooks.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n" + PRE)
    with pytest.raises(StartError, match=r"is not the file that model\.json declares"):
        load_hooks(tmp_path, manifest(PRE))
    assert not (tmp_path / "ran").exists()


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="cannot be read: No such file"):
        load_hooks(tmp_path, manifest(PRE))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1\ndef preprocess(inputs:\n", r"hooks\.py, line 2: SyntaxError: "),
        ("x = '\0'", r"hooks\.py.*: (SyntaxError|ValueError): "),
        ("\n\nimport no_such_module\n", r"hooks\.py, line 3: ModuleNotFoundError: No module named 'no_such_module'"),
        ("def f():\n    1 / 0\n\nf()", r"hooks\.py, line 2: ZeroDivisionError"),
        ("import json\njson.loads('{')", r"hooks\.py, line 2: JSONDecodeError"),
        ("import sys\nsys.exit(0)", r"hooks\.py, line 2: SystemExit: 0"),
        ("x = 1", "neither preprocess nor postprocess"),
        ("preprocess = 1", "preprocess must be a function of one argument"),
        ("def preprocess():\n    pass", "preprocess must be a function of one argument"),
        ("def postprocess(a, b):\n    pass", "postprocess must be a function of one argument"),
        ("async def preprocess(inputs):\n    pass", "preprocess must be a plain function"),
        ("def preprocess(inputs):\n    yield inputs", "preprocess must be a plain function"),
    ],
)
def test_what_does_not_load_says_where(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(StartError, match=message):
        load(tmp_path, source)


def test_what_modules_usually_do_works(tmp_path: Path) -> None:
    source = (
        "from __future__ import annotations\nimport dataclasses, pathlib\nimport numpy as np\n"
        "@dataclasses.dataclass\nclass Scale:\n    by: float\n"
        "SCALE = Scale(float(pathlib.Path(__file__).name == 'hooks.py') * 3)\n"
        "def preprocess(inputs, *, by=SCALE):\n    return {'x': inputs['x'] * np.float32(by.by)}\n"
    )
    assert load(tmp_path, source).preprocess(x(), 1)["x"].tolist() == [[3, 6]]


# --- running


def test_a_hook_may_change_what_it_gets(tmp_path: Path) -> None:
    hooks = load(
        tmp_path, "def preprocess(inputs):\n    inputs['x'] *= 2\n    inputs['w'] = inputs.pop('x')\n    return inputs"
    )
    tensors = x()
    tensors["x"].flags.writeable = False
    assert hooks.preprocess(tensors, 1)["w"].tolist() == [[2, 4]]
    assert tensors["x"].tolist() == [[1, 2]]
    assert list(tensors) == ["x"]


def test_too_little_memory_is_not_the_hooks_failure(tmp_path: Path) -> None:
    hooks = load(tmp_path, "def preprocess(inputs):\n    raise MemoryError")
    with pytest.raises(MemoryError):
        hooks.preprocess(x(), 1)


def test_a_value_error_is_the_clients(tmp_path: Path) -> None:
    hooks = load(
        tmp_path,
        "def preprocess(inputs):\n    raise ValueError('too young')\ndef postprocess(outputs):\n    raise ValueError",
    )
    for hook, message in ((hooks.preprocess, "too young"), (hooks.postprocess, "the model refuses this input")):
        with pytest.raises(Problem) as error:
            hook(x(), 1)
        found = error.value
        assert (found.status, found.code, found.message) == (422, "rejected_by_hook", message)


@pytest.mark.parametrize("failure", ["1 / 0", "{}['secret']", "import sys; sys.exit(1)", "f = lambda: f(); f()"])
def test_any_other_error_is_the_servers_and_in_its_log(
    tmp_path: Path, failure: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("server"), "propagate", True)
    hooks = load(tmp_path, f"def preprocess(inputs):\n    {failure}")
    with pytest.raises(Problem) as error:
        hooks.preprocess(x(), 1)
    assert (error.value.status, error.value.code) == (500, "hook_failed")
    assert "secret" not in error.value.message
    assert f'hooks.py", line 2, in preprocess\n    {failure.splitlines()[0]}' in caplog.text


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ("None", "returned NoneType, not a dict"),
        ("inputs['x']", "returned ndarray, not a dict"),
        ("{'x': [[1, 2]]}", "returned 'x': list, not an array"),
        ("{1: inputs['x']}", "returned 1: ndarray, not an array by name"),
        ("{'x': inputs['x'][:0]}", r"of shape \[0, 2\] for 1 rows"),
        ("{'x': inputs['x'].sum()}", "returned 'x': float32, not an array"),
        ("{'x': inputs['x'][0, 0, ...]}", r"of shape \[\] for 1 rows"),
    ],
)
def test_a_result_must_be_arrays_with_the_same_rows(tmp_path: Path, result: str, message: str) -> None:
    with pytest.raises(Problem, match=message) as error:
        load(tmp_path, f"def preprocess(inputs):\n    return {result}").preprocess(x(), 1)
    assert (error.value.status, error.value.code) == (500, "hook_failed")


def answer(folder: Path, result: str, output: m.Output, outputs: Tensors | None = None) -> Any:
    source = f"import numpy as np\ndef postprocess(outputs):\n    return {result}"
    return load(folder, source, output).postprocess(outputs or x([1, 2], [3, 4]), 2)[output.name]


@pytest.mark.parametrize(
    ("result", "datatype", "shape", "expected"),
    [
        ("{'y': outputs['x'].astype('f8'), 'more': outputs['x']}", "FP32", [-1, 2], [[1, 2], [3, 4]]),
        ("{'y': outputs['x'].sum(1)}", "FP32", [-1], [3, 7]),
        ("{'y': outputs['x'][:, :1]}", "FP32", [-1, -1], [[1], [3]]),
        ("{'y': np.array([1, 255])}", "INT16", [-1], [1, 255]),
        ("{'y': np.array(['a', 'b'])}", "BYTES", [-1], ["a", "b"]),
        ("{'y': np.array(['a', 'b'], object)}", "BYTES", [-1], ["a", "b"]),
        ("{'y': outputs['x'][:, 0] > 1}", "BOOL", [-1], [False, True]),
    ],
)
def test_an_answer_is_brought_to_its_datatype(
    tmp_path: Path, result: str, datatype: Any, shape: list[int], expected: list[Any]
) -> None:
    array = answer(tmp_path, result, m.Output(name="y", datatype=datatype, shape=shape))
    assert array.tolist() == expected
    assert array.dtype == {"FP32": "f4", "INT16": "i2", "BYTES": "O", "BOOL": "?"}[datatype]
    if datatype == "BYTES":
        assert type(array[0]) is str


@pytest.mark.parametrize(
    ("result", "datatype", "message"),
    [
        ("{'x': outputs['x'][:, 0]}", "FP32", r"returned \['x'\] without 'y'"),
        ("{'y': outputs['x']}", "FP32", r"with rows of shape \[2\], model.json has \[\]"),
        ("{'y': np.array(['a', 'b'])}", "FP32", "as <U1, which is not FP32"),
        ("{'y': np.array([1, None], object)}", "BYTES", "as object, which is not BYTES"),
        ("{'y': np.array([1.5, 2])}", "INT64", "as float64, which is not INT64"),
        ("{'y': np.array([1, 70000])}", "INT16", "as int64, which is not INT16"),
    ],
)
def test_an_answer_that_model_json_does_not_describe(tmp_path: Path, result: str, datatype: Any, message: str) -> None:
    with pytest.raises(Problem, match=message) as error:
        answer(tmp_path, result, m.Output(name="y", datatype=datatype, shape=[-1]))
    assert (error.value.status, error.value.code) == (500, "hook_failed")
