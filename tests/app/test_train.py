from __future__ import annotations

import json
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import datasets

from server.model.loaded_model import load_model
from tests.app.harness import APP, IRIS, MODEL, SETOSA

FLOWERS: Any = datasets.load_iris()
DATA = FLOWERS.data[:, [0, 2, 3]].astype(np.float32)
SCRIPT = APP.parent / "examples" / "iris" / "train.py"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def test_training_and_packaging_again_gives_the_shipped_model(tmp_path: Path) -> None:
    trained = subprocess.run([sys.executable, SCRIPT, tmp_path], check=True, capture_output=True, text=True)
    package = [*shlex.split(trained.stdout.splitlines()[-1]), f"TO={tmp_path}/iris"]
    subprocess.run(package, cwd=APP.parent, check=True, capture_output=True)

    packaged = json.loads((tmp_path / "iris/model.json").read_text())
    assert packaged.pop("source").keys() == IRIS["source"].keys()
    assert packaged == {name: value for name, value in IRIS.items() if name != "source"}
    again, shipped = (load_model(folder).run({"input": DATA}) for folder in (tmp_path / "iris", MODEL))
    assert np.array_equal(again["species"], shipped["species"])
    assert np.allclose(again["probabilities"], shipped["probabilities"], atol=1e-6)


def test_the_onnx_file_says_what_the_trained_pipeline_says(script: dict[str, Any]) -> None:
    training, _, classes, _ = script["split"]()
    pipeline = script["train"](training, classes)

    outputs = load_model(MODEL).run({"input": DATA})

    assert np.array_equal(outputs["species"], pipeline.predict(DATA))
    assert np.allclose(outputs["probabilities"], pipeline.predict_proba(DATA), atol=1e-5)
    labels = [output["labels"] for output in IRIS["outputs"]]
    assert labels == [FLOWERS.target_names.tolist()] * 2


def test_the_model_is_worth_serving(script: dict[str, Any]) -> None:
    _, held_out, _, classes = script["split"]()
    assert np.mean(load_model(MODEL).run({"input": held_out})["species"] == classes) >= 0.95
    assert IRIS["example"] == {"input": SETOSA}


def test_the_profile_counts_every_training_row() -> None:
    profile = IRIS["profile"]
    assert list(profile["features"]) == IRIS["inputs"][0]["features"]
    for feature in profile["features"].values():
        assert sum(feature["counts"]) == profile["rows"]
        assert len(feature["edges"]) == len(feature["counts"]) - 1
    assert sum(profile["outputs"]["species"]["categories"].values()) == profile["rows"]
