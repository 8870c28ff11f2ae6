"""Models that packages ship: packaged by the plain command, and answered for with the original's own numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pytest

from tests.model.harness import ROOT, package
from tests.zoo.conftest import Serve
from tools import environment

_SEED = 3


@pytest.fixture(scope="session")
def packages() -> Path:
    """The folder with the packages' files."""
    programs = environment.separate(ROOT, "tests/zoo/requirements.lock")
    return next(programs.parent.glob("lib/python*/site-packages"))


class Drawn(NamedTuple):
    """Values of one row, drawn at random."""

    datatype: str
    shape: list[int]
    row_axis: int = 0
    """Where the original has its rows."""


_OCR = "rapidocr_onnxruntime/models"
_FILES: dict[str, dict[str, Drawn | int]] = {
    "magika/models/standard_v3_3/model.onnx": {"bytes": Drawn("INT32", [2048])},
    "silero_vad/data/silero_vad.onnx": {
        "input": Drawn("FP32", [512]),
        "state": Drawn("FP32", [2, 128], row_axis=1),
        "sr": 16_000,
    },
    "silero_vad/data/silero_vad_half.onnx": {
        "input": Drawn("FP32", [512]),
        "state": Drawn("FP32", [2, 128], row_axis=1),
    },
    f"{_OCR}/ch_ppocr_mobile_v2.0_cls_infer.onnx": {"x": Drawn("FP32", [3, 48, 192])},
    f"{_OCR}/ch_PP-OCRv4_det_infer.onnx": {"x": Drawn("FP32", [3, 64, 96])},
    f"{_OCR}/ch_PP-OCRv4_rec_infer.onnx": {"x": Drawn("FP32", [3, 48, 64])},
    "nudenet/320n.onnx": {"images": Drawn("FP32", [3, 64, 64])},
}


@pytest.mark.parametrize("path", _FILES)
def test_an_onnx_file_answers_as_the_original(path: str, packages: Path, tmp_path: Path, serve: Serve) -> None:
    made = package(tmp_path, str(packages / path))
    assert made.status == 0, made.errors
    generator = np.random.default_rng(_SEED)
    asked: list[dict[str, Any]] = []
    rows: dict[str, Any] = {}
    for name, drawn in _FILES[path].items():
        if isinstance(drawn, int):
            rows[name] = np.array(drawn)
            asked.append({"name": name, "datatype": "INT64", "shape": [1], "data": [drawn]})
            continue
        values = generator.random(drawn.shape).astype(np.float32)
        row = (values * 255).astype(np.int32) if drawn.datatype == "INT32" else values
        rows[name] = np.expand_dims(row, drawn.row_axis)
        asked.append(
            {"name": name, "datatype": drawn.datatype, "shape": [1, *drawn.shape], "data": row.ravel().tolist()}
        )
    session = onnxruntime.InferenceSession(packages / path, providers=["CPUExecutionProvider"])
    wanted = dict(zip([each.name for each in session.get_outputs()], session.run(None, rows), strict=True))

    server = serve(made.folder)
    answer = server.post(json.dumps({"inputs": asked}), f"/v2/models/{made.description['name']}/infer")

    assert answer.status_code == 200, answer.text
    given = {output["name"]: output["data"] for output in answer.json()["outputs"]}
    assert given.keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_allclose(given[name], np.ravel(np.asarray(values)), rtol=1e-4, atol=1e-5, err_msg=name)
