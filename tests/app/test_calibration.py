"""Calibration by a clock that only the model moves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from server.model import calibration
from server.model.calibration import calibrate
from server.model.loaded_model import load_model
from tests.app.harness import slow_model
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
