from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_iris

from server.model.loaded_model import load_model
from tests.app.harness import APP, IRIS, MODEL, SETOSA

SCRIPT = APP.parent / "examples" / "iris" / "train.py"


def test_training_again_gives_the_shipped_model(tmp_path: Path) -> None:
    subprocess.run([sys.executable, SCRIPT, tmp_path], check=True, capture_output=True)

    assert json.loads((tmp_path / "model.json").read_text()) == IRIS
    data = load_iris().data[:, [0, 2, 3]].astype(np.float32)
    again, shipped = (load_model(folder).run({"input": data}) for folder in (tmp_path, MODEL))
    assert np.array_equal(again["species"], shipped["species"])
    assert np.allclose(again["probabilities"], shipped["probabilities"], atol=1e-6)


def test_the_onnx_file_says_what_the_trained_pipeline_says() -> None:
    _, _, pipeline = runpy.run_path(str(SCRIPT))["build"]()
    data = load_iris().data[:, [0, 2, 3]].astype(np.float32)

    outputs = load_model(MODEL).run({"input": data})

    assert np.array_equal(outputs["species"], pipeline.predict(data))
    assert np.allclose(outputs["probabilities"], pipeline.predict_proba(data), atol=1e-5)
    labels = [output["labels"] for output in IRIS["outputs"]]
    assert labels == [load_iris().target_names.tolist()] * 2


def test_the_model_is_worth_serving() -> None:
    assert IRIS["evaluation"]["accuracy"] >= 0.95
    assert IRIS["example"] == {"input": SETOSA}


def test_the_profile_counts_every_training_row() -> None:
    profile = IRIS["profile"]
    assert list(profile["features"]) == IRIS["inputs"][0]["features"]
    for feature in profile["features"].values():
        assert sum(feature["counts"]) == profile["rows"]
        assert len(feature["edges"]) == len(feature["counts"]) - 1
    assert sum(profile["outputs"]["species"]["categories"].values()) == profile["rows"]
