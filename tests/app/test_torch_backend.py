"""Real PyTorch: attacks that work on it and not on the server, and models that it exports, served."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from server.errors import StartError
from server.model.manifest import parse_manifest
from server.model.torch_backend import TorchBackend, open_model
from tests.app import pt2_archives
from tests.app.harness import APP, Server, tensor
from tests.app.pt2_archives import ATTACKS, HARMLESS, Attack
from tools import environment

ROOT = APP.parent
MANIFEST: dict[str, Any] = {
    "name": "test", "version": "1", "format": "pt2", "example": {"input": [1.0, 2.0]},
    "inputs": [tensor("x", "FP32", [-1, 2])], "outputs": [tensor("y", "FP32", [-1, 2])],
}  # fmt: skip
ANSWER = str((np.ones((2, 2), dtype=np.float32) @ pt2_archives.WEIGHT.T).tolist())
PLAIN = Attack(lambda _: pt2_archives.archive(pt2_archives.entries()), "", fires=False)
CASES = {"no attack": PLAIN, **ATTACKS, **HARMLESS}


@pytest.fixture(scope="module")
def python() -> str:
    return str(environment.separate(ROOT, "app/requirements.lock", "app/requirements-torch.lock") / "python")


def script(python: str, *arguments: str) -> dict[str, Any]:
    command = [python, str(ROOT / "tests/app/torch_script.py"), *arguments]
    with tempfile.TemporaryDirectory() as scratch:
        variables = {"PYTHONPATH": str(APP), "PYTHONDONTWRITEBYTECODE": "1", "PATH": "/usr/bin:/bin", "TMPDIR": scratch}
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@dataclass(frozen=True)
class Outcome:
    said: str
    fired: bool
    """Whether the attack has made what it wants to make."""


@pytest.fixture(scope="module")
def outcomes(python: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Outcome]]:
    """Of each case, "naive" as PyTorch is used and "ours" as the server uses it."""
    folders = {name: tmp_path_factory.mktemp("case") for name in CASES}
    for name, folder in folders.items():
        for how in ("naive", "ours"):
            model = folder / how
            model.mkdir()
            (model / "model.pt2").write_bytes(CASES[name].make(model / "marker"))
            (model / "model.json").write_text(json.dumps(MANIFEST))
            (model / "marker_module.py").write_text(f"import os\nos.mkdir({str(model / 'marker')!r})\n")
    said = script(python, "attack", *map(str, folders.values()))
    return {
        name: {
            how: Outcome(text, (folder / how / "marker").exists())
            for how, text in zip(("naive", "ours"), said[str(folder)], strict=True)
        }
        for name, folder in folders.items()
    }


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.fires])
def test_the_attack_works_on_pytorch(outcomes: dict[str, dict[str, Outcome]], name: str) -> None:
    """Otherwise the next test would prove nothing."""
    assert outcomes[name]["naive"].fired, outcomes[name]["naive"].said


@pytest.mark.parametrize("name", ATTACKS)
def test_the_attack_is_refused(outcomes: dict[str, dict[str, Outcome]], name: str) -> None:
    outcome = outcomes[name]["ours"]
    assert not outcome.fired
    assert outcome.said.startswith("StartError: "), outcome.said
    assert "model.pt2 is refused: it " in outcome.said


@pytest.mark.parametrize("name", ["no attack", *HARMLESS])
def test_the_model_without_what_stays_behind_runs(outcomes: dict[str, dict[str, Outcome]], name: str) -> None:
    assert outcomes[name]["ours"] == Outcome(ANSWER, fired=False)


def test_the_archive_made_by_hand_is_one(outcomes: dict[str, dict[str, Outcome]]) -> None:
    assert outcomes["no attack"]["naive"] == Outcome(ANSWER, fired=False)


def test_without_pytorch_it_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(pt2_archives.archive(pt2_archives.entries()))
    manifest = parse_manifest(json.dumps(MANIFEST).encode())
    with pytest.raises(StartError, match="needs PyTorch, which is not installed here"):
        open_model(tmp_path, manifest, check_inputs=True, check_outputs=True)


@pytest.mark.parametrize(
    "failure",
    [
        RuntimeError("[enforce fail at alloc_cpu.cpp:119] . DefaultCPUAllocator: can't allocate memory: 8 GB"),
        MemoryError("Unable to allocate 8 GB"),
    ],
)
def test_too_little_memory_is_not_the_inputs_fault(failure: Exception) -> None:
    def fail(*_: object) -> None:
        raise failure

    torch = SimpleNamespace(from_numpy=lambda array: array, inference_mode=contextlib.nullcontext)
    with pytest.raises(MemoryError):
        TorchBackend(torch, fail, ["x"], []).run({"x": np.ones(1)})


@pytest.fixture(scope="module")
def exported(python: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    folder = tmp_path_factory.mktemp("exported")
    return folder, script(python, "export", str(folder))


@pytest.mark.parametrize("kind", ["tabular", "text", "picture", "branch"])
def test_the_server_runs_it_as_pytorch_does(exported: tuple[Path, dict[str, float]], kind: str) -> None:
    assert exported[1][kind] <= 1e-6


@pytest.fixture(scope="module")
def served(python: str, exported: tuple[Path, dict[str, float]]) -> Iterator[Server]:
    server = Server({"MODEL_DIR": str(exported[0] / "text"), "TMPDIR": str(exported[0])}, python=python)
    yield server
    server.stop()


def expected(folder: Path) -> tuple[list[list[int]], Any]:
    inputs, outputs = json.loads((folder / "expected.json").read_text())
    return inputs["ids"], np.array(outputs["y"])


def test_predictions_are_pytorchs(served: Server, exported: tuple[Path, dict[str, float]]) -> None:
    rows, answers = expected(exported[0] / "text")
    for number in (1, 2, len(rows)):
        answer = served.post(json.dumps({"input": rows[:number]}))
        assert answer.status_code == 200, answer.text
        np.testing.assert_allclose(answer.json()["predictions"], answers[:number], atol=1e-5)

    body = {"inputs": [tensor("ids", "INT64", [len(rows), len(rows[0])], data=rows)]}
    output = served.post(json.dumps(body), path="/v2/models/text/infer").json()["outputs"][0]
    assert output["shape"] == list(answers.shape)
    np.testing.assert_allclose(np.reshape(output["data"], answers.shape), answers, atol=1e-5)


WRONG: dict[str, Any] = {
    "fractions": [1.5, 2.0], "text": ["a"], "nested": [[[1]]], "null": [None], "nothing": [], "a number": 1,
    "too large a number": [1, 10**30], "no such word": [999], "a negative word": [-1], "too long": [1] * 65,
}  # fmt: skip


@pytest.mark.parametrize("row", WRONG.values(), ids=WRONG)
def test_a_wrong_row_is_the_clients_error_and_the_next_is_answered(
    served: Server, exported: tuple[Path, dict[str, float]], row: Any
) -> None:
    """Words that the model does not know among them, and more of them than it takes: PyTorch's own errors."""
    rows, answers = expected(exported[0] / "text")
    for body in ({"input": row}, {"inputs": {"ids": row}}):
        assert served.post(json.dumps(body)).status_code in (400, 422)
    good = served.post(json.dumps({"input": rows[0]})).json()["prediction"]
    np.testing.assert_allclose(good, answers[0], atol=1e-5)


def test_it_starts_within_seconds_and_stays_within_its_memory(served: Server) -> None:
    """Generous bounds: what was measured stands in docs/models.md."""
    found = re.search(r"^process_resident_memory_bytes (\S+)$", served.get("/metrics").text, re.MULTILINE)
    assert found
    assert float(found[1]) < 1_500_000_000
    assert served.event("ready")["seconds"] < 60
