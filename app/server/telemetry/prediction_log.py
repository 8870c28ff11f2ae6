"""Sampled log of predictions as JSON lines, to be joined with the ground truth when it is known.

One object a request: `time`, `request_id`, `traceparent` (where there is one), `model`, `version`, `rows`, `seconds`,
`inputs` and `outputs`, the last two by tensor. NaN and infinities are null; in place of more than 10,000 values or
65,536 characters stands `{"shape": [...]}`.

Without `inputs` nothing that the client sent is written: `request_sha256` stands for the request id, so that whoever
has the id still finds the line, and there is no traceparent. What the model answers is written; a model that repeats
its input should not be logged.
"""

from __future__ import annotations

import hashlib
import os
import time
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import msgspec
import numpy as np

from .. import log
from ..errors import StartError
from ..model.inputs import text_length
from ..model.tensors import Array, Tensors

_MAX_ROTATED_FILES = 3
_MAX_VALUES = 10_000
_MAX_CHARACTERS = 65_536
_FLUSH_BYTES = 256 * 1024
_MAX_BUFFER_BYTES = 4 * 2**20
_REPORT_INTERVAL_SECONDS = 60.0


class PredictionLog:
    """Log for one thread, whose calls never wait for the disk, `close` excepted: another thread writes.

    Lines that cannot be written are dropped, counted, and reported in the server's log once a minute; no prediction
    fails for them.
    """

    def __init__(self, path: Path, rate: float, inputs: bool, max_bytes: int) -> None:
        """`rate`, 0 to 1, is the share of requests to log; a file that would pass `max_bytes` is rotated.

        Three old files are kept, `path.1` (the newest) to `path.3`. Raises a StartError if `path` cannot be written.
        """
        self.dropped = 0
        """Sampled requests that are missing from the file, since the start."""
        self._path = path
        self._max_bytes = max_bytes
        self._inputs = inputs
        self._sampled = round(rate * 2**32)
        self._lines: list[bytes] = []
        self._bytes = 0
        self._writing: Future[tuple[int, str]] | None = None
        self._next_report = 0.0
        if path.exists() and not path.is_file():
            raise StartError(f"PREDICTION_LOG={str(path)!r} must be a regular file")
        try:
            _open(path).close()
        except OSError as error:
            raise StartError(f"PREDICTION_LOG={str(path)!r} cannot be written: {error.strerror}") from None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prediction-log")

    def wants(self, request_id: str) -> bool:
        """Whether to `note` the request: the same for the same id, at any time and in any replica."""
        return zlib.crc32(request_id.encode()) < self._sampled

    def note(
        self,
        *,
        request_id: str,
        traceparent: str | None,
        model: str,
        version: str,
        rows: int,
        seconds: float,
        inputs: Tensors,
        outputs: Tensors,
    ) -> None:
        """Buffer a line for the next `flush`; `inputs` as the client sent them, `outputs` as they are answered."""
        line: dict[str, object] = {"time": datetime.now(UTC).isoformat(timespec="milliseconds")}
        if self._inputs:
            line["request_id"] = request_id
            if traceparent:
                line["traceparent"] = traceparent
        else:
            line["request_sha256"] = hashlib.sha256(request_id.encode()).hexdigest()
        line |= {"model": model, "version": version, "rows": rows, "seconds": round(seconds, 6)}
        if self._inputs:
            line["inputs"] = _values(inputs)
        line["outputs"] = _values(outputs)
        encoded = msgspec.json.encode(line) + b"\n"
        if len(encoded) > self._max_bytes or self._bytes + len(encoded) > _MAX_BUFFER_BYTES:
            self._drop(1, "the line is too long, or the disk too slow")
            return
        self._lines.append(encoded)
        self._bytes += len(encoded)
        if self._bytes >= _FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Start writing the buffered lines; while earlier ones are still being written, they wait for the next call."""
        if self._writing:
            if not self._writing.done():
                return
            self._settle(self._writing)
        if self._lines:
            self._writing = self._thread.submit(_write, self._path, self._max_bytes, self._lines)
            self._lines = []
            self._bytes = 0

    def close(self) -> None:
        """Write the buffered lines and wait for it; call nothing else afterwards."""
        for _ in range(2):
            if self._writing:
                self._settle(self._writing)
            self.flush()
        self._thread.shutdown()

    def _settle(self, writing: Future[tuple[int, str]]) -> None:
        self._writing = None
        lost, reason = writing.result()
        if lost:
            self._drop(lost, reason)

    def _drop(self, lines: int, reason: str) -> None:
        self.dropped += lines
        if time.monotonic() >= self._next_report:
            self._next_report = time.monotonic() + _REPORT_INTERVAL_SECONDS
            log.error("prediction_log_dropped", file=str(self._path), reason=reason, dropped=self.dropped)


def _values(tensors: Tensors) -> dict[str, object]:
    return {name: {"shape": list(array.shape)} if _large(array) else array.tolist() for name, array in tensors.items()}


def _large(array: Array) -> bool:
    if array.size > _MAX_VALUES or array.dtype != np.object_:
        return array.size > _MAX_VALUES
    return sum(map(text_length, array.flat)) > _MAX_CHARACTERS


def _write(path: Path, max_bytes: int, lines: list[bytes]) -> tuple[int, str]:
    """Append the lines, none longer than `max_bytes`; return how many could not be written, and why."""
    written = 0
    try:
        while written < len(lines):
            written += _append(path, max_bytes, lines[written:])
    except OSError as error:
        return len(lines) - written, error.strerror or str(error)
    return 0, ""


def _append(path: Path, max_bytes: int, lines: list[bytes]) -> int:
    """Append as many lines as the file has room for and return their number; rotate when it has none.

    The file is opened each time, because it may have been moved away.
    """
    with _open(path) as file:
        start = size = file.seek(0, os.SEEK_END)
        count = 0
        while count < len(lines) and size + len(lines[count]) <= max_bytes:
            size += len(lines[count])
            count += 1
        try:
            _write_all(file, b"".join(lines[:count]))
        except OSError:
            file.truncate(start)  # a part of a line would spoil the next one
            raise
    if count == 0:
        _rotate(path)
    return count


def _write_all(file: IO[bytes], content: bytes) -> None:
    while content:
        content = content[file.write(content) :]


def _rotate(path: Path) -> None:
    names = [path, *(path.with_name(f"{path.name}.{number}") for number in range(1, _MAX_ROTATED_FILES + 1))]
    for older, newer in zip(names[:0:-1], names[-2::-1], strict=True):
        if newer.exists():
            newer.replace(older)


def _open(path: Path) -> IO[bytes]:
    """Open for appending, readable by the owner alone even where another process made the file."""
    path.touch(0o600)
    path.chmod(0o600)
    return path.open("ab", buffering=0)
