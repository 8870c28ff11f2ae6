from __future__ import annotations

import hashlib
import json
import logging
import resource
import stat
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from server.errors import StartError
from server.telemetry import prediction_log
from server.telemetry.prediction_log import PredictionLog

Start = Callable[..., PredictionLog]
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "predictions"


@pytest.fixture
def start(file: Path) -> Iterator[Start]:
    started: list[PredictionLog] = []

    def start(rate: float = 1, inputs: bool = True, max_bytes: int = 10**6) -> PredictionLog:
        started.append(PredictionLog(file, rate, inputs, max_bytes))
        return started[-1]

    yield start
    for one in started:
        one.close()


def note(
    to: PredictionLog, request_id: str = "abc", *, inputs: Any = None, outputs: Any = None, trace: Any = TRACE
) -> None:
    to.note(
        request_id=request_id,
        traceparent=trace,
        model="iris",
        version="3",
        rows=1,
        seconds=0.00123456789,
        inputs={"x": np.array([[1.5, 2]], np.float32)} if inputs is None else inputs,
        outputs={"y": np.array([7])} if outputs is None else outputs,
    )


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def ids(file: Path) -> list[str]:
    return [line["request_id"] for line in lines(file)]


def mode(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


@contextmanager
def room(size: int) -> Iterator[None]:
    """Files cannot grow beyond `size` bytes: the system says so halfway through a write, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def complaints(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    said: list[dict[str, Any]] = []
    monkeypatch.setattr("server.log.error", lambda event, **fields: said.append({"event": event} | fields))
    return said


def settled(to: PredictionLog) -> None:
    to.flush()
    if to._writing:
        to._settle(to._writing)


def test_a_line_has_everything(start: Start, file: Path) -> None:
    log = start()
    outputs = {"y": np.array([True]), "text": np.array(["ä\n"], dtype=object), "p": np.array([[0.5, np.nan, np.inf]])}
    note(log, outputs=outputs)
    assert file.read_bytes() == b""
    log.close()
    (line,) = lines(file)
    assert abs(datetime.now(UTC) - datetime.fromisoformat(line.pop("time"))) < timedelta(minutes=1)
    assert line == {
        "request_id": "abc",
        "traceparent": TRACE,
        "model": "iris",
        "version": "3",
        "rows": 1,
        "seconds": 0.001235,
        "inputs": {"x": [[1.5, 2.0]]},
        "outputs": {"y": [True], "text": ["ä\n"], "p": [[0.5, None, None]]},
    }
    assert log.dropped == 0


def test_without_a_trace_there_is_no_member_for_it(start: Start, file: Path) -> None:
    log = start()
    note(log, trace=None)
    log.close()
    assert "traceparent" not in lines(file)[0]


def test_without_inputs_nothing_that_the_client_sent_is_written(start: Start, file: Path) -> None:
    log = start(inputs=False)
    note(log, "alice@example.org", inputs={"who": np.array(["secret"], dtype=object), "x": np.array([4711.5])})
    log.close()
    (line,) = lines(file)
    assert line["request_sha256"] == hashlib.sha256(b"alice@example.org").hexdigest()
    assert set(line) == {"time", "request_sha256", "model", "version", "rows", "seconds", "outputs"}
    for sent in ("alice", "secret", "4711", TRACE):
        assert sent not in file.read_text()


def test_what_is_too_large_is_told_by_its_shape(start: Start, file: Path) -> None:
    log = start()
    inputs = {
        "image": np.zeros((1, 3, 64, 64), np.float32),
        "text": np.array(["x" * 70_000], dtype=object),
        "short": np.array(["x" * 60_000], dtype=object),
    }
    note(log, inputs=inputs)
    log.close()
    assert lines(file)[0]["inputs"] == {
        "image": {"shape": [1, 3, 64, 64]},
        "text": {"shape": [1]},
        "short": ["x" * 60_000],
    }


@pytest.mark.parametrize("rate", [0, 0.001, 0.1, 0.5, 1])
@pytest.mark.parametrize("kind", ["counter", "padded", "uuid"])
def test_requests_are_sampled_at_the_rate_whatever_their_ids_look_like(start: Start, rate: float, kind: str) -> None:
    log = start(rate)
    random = np.random.default_rng(5)
    make: dict[str, Callable[[int], str]] = {
        "counter": lambda number: f"req-{number}",
        "padded": lambda number: f"{number:012d}",
        "uuid": lambda _: str(uuid.UUID(bytes=random.bytes(16))),
    }
    count = 40_000
    wanted = sum(log.wants(make[kind](number)) for number in range(count))
    assert abs(wanted - rate * count) <= 5 * (count * rate * (1 - rate)) ** 0.5


def test_a_retry_is_sampled_as_the_first_try_was_in_every_process(start: Start) -> None:
    first, second = start(0.5), start(0.5)
    sample = [str(number) for number in range(100) if first.wants(str(number))]
    assert sample == [str(number) for number in range(100) if second.wants(str(number))]
    # Fixed for ever: another hash would make replicas of two releases sample different requests.
    assert sample[:5] == ["2", "3", "6", "7", "12"]


def test_the_files_are_rotated_and_none_is_larger_than_allowed(start: Start, file: Path) -> None:
    log = start(max_bytes=2000)
    names = [f"request {number}" for number in range(60)]
    for index, name in enumerate(names):
        note(log, name)
        if index % 7 == 0:
            log.flush()
    log.close()
    kept = [file.with_name(f"predictions{suffix}") for suffix in (".3", ".2", ".1", "")]
    assert sorted(file.parent.iterdir()) == sorted(kept)
    assert all(0 < one.stat().st_size <= 2000 and mode(one) == 0o600 for one in kept)
    found = [name for one in kept for name in ids(one)]
    assert found == names[-len(found) :]
    assert len(found) > 20


def test_a_restart_goes_on_in_the_same_file(start: Start, file: Path) -> None:
    for name in ("a", "b"):
        log = start()
        note(log, name)
        log.close()
    assert ids(file) == ["a", "b"]


def test_a_file_that_others_could_read_is_made_private(start: Start, file: Path) -> None:
    file.touch()
    file.chmod(0o644)
    start()
    assert mode(file) == 0o600


def test_a_file_that_was_moved_away_is_begun_anew(start: Start, file: Path) -> None:
    log = start()
    note(log, "a")
    settled(log)
    file.rename(file.with_name("moved"))
    note(log, "b")
    settled(log)
    assert (ids(file.with_name("moved")), ids(file), mode(file)) == (["a"], ["b"], 0o600)


def test_a_full_disk_costs_the_lines_and_one_complaint(
    start: Start, file: Path, complaints: list[dict[str, Any]]
) -> None:
    log = start()
    note(log, "before")
    settled(log)
    with room(file.stat().st_size + 100):
        for _ in range(3):
            note(log, "lost")
            note(log, "lost too")
            settled(log)
    assert log.dropped == 6
    assert complaints == [
        {"event": "prediction_log_dropped", "file": str(file), "reason": "File too large", "dropped": 2}
    ]
    note(log, "after")
    settled(log)
    assert ids(file) == ["before", "after"]


def test_only_the_lines_that_did_not_fit_are_lost_when_the_file_cannot_be_set_aside(
    start: Start, file: Path, complaints: list[dict[str, Any]]
) -> None:
    file.with_name("predictions.2").touch()
    file.with_name("predictions.3").mkdir()
    log = start(max_bytes=1000)
    names = [f"request {number}" for number in range(9)]
    for name in names:
        note(log, name)
    log.close()
    found = ids(file)
    assert 1 < len(found) < 9
    assert found == names[: len(found)]
    assert (log.dropped, len(complaints)) == (9 - len(found), 1)


def test_what_the_end_cannot_write_is_counted(start: Start, file: Path, complaints: list[dict[str, Any]]) -> None:
    log = start()
    file.unlink()
    file.mkdir()
    note(log)
    log.flush()
    note(log)
    log.close()
    assert log.dropped == 2
    assert [one["reason"] for one in complaints] == ["Is a directory"]


def test_complaints_come_once_a_minute(
    start: Start, file: Path, complaints: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = start()
    clock = [100.0]
    monkeypatch.setattr("server.telemetry.prediction_log.time.monotonic", lambda: clock[0])
    file.unlink()
    file.mkdir()
    for seconds in (100, 130, 159, 161, 200, 222):
        clock[0] = seconds
        note(log)
        settled(log)
    assert [one["dropped"] for one in complaints] == [1, 4, 6]
    assert log.dropped == 6


def test_a_disk_that_hangs_holds_nobody_up(
    start: Start, file: Path, complaints: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()
    write = prediction_log._write

    def hangs(*arguments: Any) -> tuple[int, str]:
        assert go.wait(20)
        return write(*arguments)

    monkeypatch.setattr(prediction_log, "_write", hangs)
    log = start(max_bytes=10**8)
    text = {"text": np.array(["x" * 50_000], dtype=object)}
    for _ in range(200):
        note(log, inputs=text)
    log.flush()
    assert log._bytes <= 4 * 2**20
    assert log.dropped > 100
    assert len(complaints) == 1
    go.set()
    log.close()
    assert len(lines(file)) == 200 - log.dropped


def test_much_is_written_before_the_next_flush_is_due(start: Start, file: Path) -> None:
    log = start(max_bytes=10**8)
    text = {"text": np.array(["x" * 50_000], dtype=object)}
    for _ in range(20):
        note(log, inputs=text)
    assert log._writing
    log.close()
    assert len(lines(file)) == 20


def test_a_line_longer_than_a_file_may_be_is_dropped(start: Start, file: Path) -> None:
    log = start(max_bytes=1000)
    note(log, inputs={"text": np.array(["x" * 2000], dtype=object)})
    note(log, "short")
    log.close()
    assert (ids(file), log.dropped) == (["short"], 1)


def test_the_complaint_is_in_the_servers_log(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("server"), "propagate", True)
    log = start(max_bytes=10)
    note(log)
    (record,) = caplog.records
    assert (record.levelname, record.getMessage()) == ("ERROR", "prediction_log_dropped")


def test_a_path_that_cannot_be_written_is_a_reason_not_to_start(file: Path) -> None:
    with pytest.raises(StartError, match=r"missing/log' cannot be written: No such file or directory"):
        PredictionLog(file / "missing/log", 1, True, 1000)
    with pytest.raises(StartError, match=r"PREDICTION_LOG='.*' must be a regular file"):
        PredictionLog(file.parent, 1, True, 1000)
    with pytest.raises(StartError, match="'/dev/full' must be a regular file"):
        PredictionLog(Path("/dev/full"), 1, True, 1000)
