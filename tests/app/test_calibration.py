"""Calibration by a clock that only the model moves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from server.errors import Problem, StartError
from server.model import calibration
from server.model.calibration import calibrate
from server.model.loaded_model import Backend, Model, load_model
from server.model.manifest import parse_manifest
from server.model.tensors import Tensors
from tests.app.harness import slow_model, tensor
from tests.app.test_loaded_model import Echo, echo


def calibrated(
    monkeypatch: pytest.MonkeyPatch,
    seconds: Callable[[int], float],
    shape: list[int] | None = None,
    batching: str = "dynamic",
) -> tuple[int, int, float]:
    """Rows that are best, rows that run inline, and a row's seconds in microseconds."""
    backend = Echo(seconds)
    monkeypatch.setattr(calibration, "time", SimpleNamespace(perf_counter=lambda: backend.now))
    found = calibrate(echo(backend, [-1] if shape is None else shape, batching), {"x": np.ones(1, np.float32)})
    assert backend.now < 1
    return found.best_rows, found.inline_rows, round(found.seconds_per_row * 1e6, 3)


@pytest.mark.parametrize(
    ("fixed", "per_row", "expected"),
    [
        (10e-6, 0.01e-6, (1024, 256, 0.02)),  # all is fixed cost: as many as possible
        (10e-6, 10e-6, (1024, 32, 10.01)),  # a larger batch saves hand-overs to the thread
        (0, 100e-6, (512, 4, 100)),  # even where it is nothing else that it saves
        (0, 1e-3, (64, 0, 1000)),  # but whoever comes next should not wait longer
        (5e-3, 1e-6, (1024, 0, 5.883)),  # the more, the better, and there is time to see it
        (40e-3, 1e-6, (8, 0, 5001)),  # as many as could be tried in a moment
        (80e-3, 0, (1, 0, 80_000)),  # two would do, but whoever comes next should not wait longer
        (0.3, 0.1, (1, 0, 400_000)),
    ],
)
def test_it_finds_the_best_batch(
    monkeypatch: pytest.MonkeyPatch, fixed: float, per_row: float, expected: tuple[int, int, float]
) -> None:
    assert calibrated(monkeypatch, lambda rows: fixed + per_row * rows) == expected


def test_it_keeps_a_fixed_batch_and_a_model_without_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert calibrated(monkeypatch, lambda _: 400e-6, [8], "fixed") == (8, 8, 50)
    assert calibrated(monkeypatch, lambda _: 600e-6, [8], "fixed") == (8, 0, 75)
    assert calibrated(monkeypatch, lambda _: 100e-6, [], "none") == (1, 1, 100)
    assert calibrated(monkeypatch, lambda _: 1e-3, [], "none") == (1, 0, 1000)


def test_a_slow_model_is_kept_off_the_event_loop(tmp_path: Path) -> None:
    model = load_model(slow_model(tmp_path, 20_000))
    assert calibrate(model, {"x": np.ones((1, 1), np.float32)}).inline_rows == 0


def free(backend: Backend, shape: list[int], **more: Any) -> Model:
    sizes = tensor("x", "FP32", shape, **more)
    members = {"name": "m", "version": "1", "example": {"input": [0]}, "inputs": [sizes]}
    return Model(parse_manifest(json.dumps(members | {"outputs": [sizes]}).encode()), backend, None)


@pytest.mark.parametrize(
    ("more", "example", "sampled"),
    [
        ({}, 1, 128),  # a sixteenth of 2048
        ({}, 100, 100),  # what clients send, if training data or its author gave it
        ({"max_size": 400}, 3, 24),
        ({"max_size": 400}, 400, 400),
    ],
)
def test_rows_of_any_size_are_timed_at_a_size_that_clients_send(
    more: dict[str, int], example: int, sampled: int
) -> None:
    backend = Echo()
    found = calibrate(free(backend, [-1, -1], **more), {"x": np.ones((1, example), np.float32)})
    assert len(backend.runs[-1][0]) == sampled
    assert found.row_cost == sampled**2
    assert found.best_rows * found.row_cost <= 2**22


def test_a_model_that_takes_its_example_only_is_timed_on_it() -> None:
    class Picky(Echo):
        def run(self, inputs: Tensors) -> Tensors:
            if inputs["x"].shape[1] != 4:
                raise Problem(422, "model_failed", "four")
            return super().run(inputs)

    found = calibrate(free(Picky(), [-1, -1]), {"x": np.ones((1, 4), np.float32)})
    assert found.row_cost == 16


def test_a_slow_model_is_not_timed_at_length(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Echo(lambda _: 0.03)
    monkeypatch.setattr(calibration, "time", SimpleNamespace(perf_counter=lambda: backend.now))
    assert calibrate(free(backend, [-1, -1]), {"x": np.ones((1, 1), np.float32)}).row_cost == 4


def test_a_batch_of_wide_rows_has_few(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Echo(lambda _: 10e-6)
    monkeypatch.setattr(calibration, "time", SimpleNamespace(perf_counter=lambda: backend.now))
    found = calibrate(free(backend, [-1, 3, 224, 224]), {"x": np.ones((1, 3, 224, 224), np.float32)})
    assert (found.best_rows, found.row_cost) == (16, 1)


def test_it_stops_where_memory_does() -> None:
    class Small(Echo):
        rows = 8

        def run(self, inputs: Tensors) -> Tensors:
            if len(inputs["x"]) > self.rows:
                raise MemoryError
            return super().run(inputs)

    backend = Small(lambda _: 0.0)
    assert calibrate(echo(backend, [-1]), {"x": np.ones(1, np.float32)}).best_rows <= 8
    Small.rows = 0
    with pytest.raises(StartError, match="the memory does not suffice for 1 rows like the example"):
        calibrate(echo(backend, [-1]), {"x": np.ones(1, np.float32)})
