"""Models that packages ship: packaged at the first try, served by the real server, with the original's own answers."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from tests.model.harness import package, run_in
from tests.zoo.conftest import StartModel
from tools import environment

ROOT = Path(__file__).resolve().parents[2]
_SEED = 3


@pytest.fixture(scope="session")
def packages() -> Path:
    """The folder with the packages' files."""
    programs = environment.separate(ROOT, "tests/zoo/requirements.lock")
    return next(programs.parent.glob("lib/python*/site-packages"))


@dataclass(frozen=True)
class OnnxFile:
    """A file that a package ships, and rows for it."""

    path: str
    options: tuple[str, ...] = ()
    rows: dict[str, tuple[str, list[int]]] = field(default_factory=dict)
    """dtype and shape of each input's values, drawn at random."""
    constant: dict[str, Any] = field(default_factory=dict)
    """Inputs that are not drawn."""


_ONNX = {
    "magika": OnnxFile("magika/models/standard_v3_3/model.onnx", rows={"bytes": ("int32", [2, 2048])}),
    "silero_vad": OnnxFile(
        "silero_vad/data/silero_vad.onnx",
        rows={"input": ("float32", [1, 512]), "state": ("float32", [2, 1, 128])},
        constant={"sr": np.int64(16000)},
    ),
    "text_angle": OnnxFile(
        "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx", rows={"x": ("float32", [2, 3, 48, 192])}
    ),
    "text_lines": OnnxFile(
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx", rows={"x": ("float32", [1, 3, 64, 96])}
    ),
    "text_characters": OnnxFile(
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx", rows={"x": ("float32", [1, 3, 48, 64])}
    ),
    "nudenet": OnnxFile("nudenet/320n.onnx", rows={"images": ("float32", [1, 3, 320, 320])}),
}


@pytest.mark.parametrize("name", _ONNX)
def test_an_onnx_file_answers_as_in_onnx_runtime(
    name: str, packages: Path, tmp_path: Path, start_model: StartModel
) -> None:
    model = _ONNX[name]
    made = package(tmp_path, str(packages / model.path), *model.options)
    generator = np.random.default_rng(_SEED)
    rows = {
        tensor: (generator.integers(0, 256, shape) if dtype.startswith("int") else generator.random(shape)).astype(dtype)
        for tensor, (dtype, shape) in model.rows.items()
    } | model.constant
    session = onnxruntime.InferenceSession(packages / model.path, providers=["CPUExecutionProvider"])
    wanted = dict(zip([each.name for each in session.get_outputs()], session.run(None, rows), strict=True))

    given = start_model(made.folder).infer(rows)

    for output, values in wanted.items():
        np.testing.assert_allclose(given[output], values.ravel(), rtol=1e-4, atol=1e-5, err_msg=output)
