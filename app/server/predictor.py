"""Predictions of one model: decodes a request, sends it through the batcher, encodes the answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from .batching import Batcher, BatchSlice, Job, Outcome
from .errors import Problem, StartError
from .http.messages import JSON, Request, Response, encode
from .model.calibration import Calibration, calibrate
from .model.inputs import NUMBER_BYTES, Inputs, PlainRow, held_bytes, stack
from .model.loaded_model import Model
from .model.manifest import Manifest
from .protocol.open_inference import V2, InferRequest
from .protocol.predict_json import MAX_TIMEOUT_MS, Decoder, Encoded, Encoder, ModelId, Rows
from .telemetry.prediction_log import PredictionLog

Answer = Callable[[Request, "Response | Problem", "BatchSlice | None"], None]
"""Takes a request's answer, and its part of the run that it comes from."""


def warm_up(model: Model) -> Calibration:
    """Check that the model answers its own example, and time it on it. A StartError says why it cannot serve."""
    manifest = model.manifest
    try:
        rows = Decoder(manifest, max_rows=2**31).decode(bytes(manifest.example))
        sent = model.join([rows.tensors])
        inputs = model.join([model.prepare(sent)])
        started = time.perf_counter()
        outputs = model.run(inputs)
        seconds = 0.0 if model.may_run_inline else time.perf_counter() - started
        problems = Encoder(manifest).encode(outputs).problems
        if problems:
            raise problems[min(problems)]
    except Problem as problem:
        where = f" (at {problem.path})" if problem.path else ""
        raise StartError(f"the model cannot answer its own example: {problem.message}{where}") from None
    except MemoryError as error:
        raise StartError(f"the memory does not suffice for the model's own example: {error}") from None
    row = model.join([model.prepare({name: array[:1] for name, array in sent.items()})])
    return calibrate(model, row, seconds)


class Predictor:
    """Turns requests into jobs and their outcomes into answers."""

    def __init__(
        self,
        manifest: Manifest,
        batcher: Batcher,
        *,
        max_rows: int,
        timeout_seconds: float,
        answer: Answer,
        prediction_log: PredictionLog | None = None,
    ) -> None:
        self.model = ModelId(manifest.name, manifest.version)
        self.protocol = V2(manifest, max_rows)
        self._decoder = Decoder(manifest, max_rows)
        self._encoder = Encoder(manifest)
        self._batcher = batcher
        self._timeout_seconds = timeout_seconds
        self._answer = answer
        self._prediction_log = prediction_log
        self._first_input = manifest.inputs[0]
        self._start = b'{"model":%b,' % encode(self.model)

    def predict(self, request: Request) -> None:
        """Serve POST /predict."""
        rows = self._decoder.decode(request.body)
        self._submit(request, rows.tensors, rows.count, partial(self._predicted, request, rows))

    def infer(self, request: Request) -> None:
        """Serve POST /v2/models/{name}/infer."""
        asked = self.protocol.decode(request.body, request.header(b"inference-header-content-length"))
        self._submit(request, asked.inputs, asked.rows, partial(self._inferred, request, asked))

    def _submit(self, request: Request, inputs: Inputs, rows: int, done: Callable[[Outcome], None]) -> None:
        timeout = request.headers.get(b"x-request-timeout-ms")
        deadline = request.received + (self._timeout_seconds if timeout is None else _seconds(timeout))
        size = len(request.body)
        # Without a call for the usual request, which such a call would slow down measurably.
        size += len(inputs.values) * NUMBER_BYTES if isinstance(inputs, PlainRow) else held_bytes(inputs)
        self._batcher.submit(Job(inputs, rows, done, request, deadline, size))

    def _predicted(self, request: Request, rows: Rows, outcome: Outcome) -> None:
        if isinstance(outcome, Problem):
            self._answer(request, _located(outcome, rows), None)
            return
        encoded: Encoded | None = outcome.batch.encoded
        if encoded is None:
            encoded = outcome.batch.encoded = self._encoder.encode(outcome.batch.outputs)
        if encoded.problems:
            for row in range(outcome.first, outcome.end):
                if row in encoded.problems:
                    path = rows.path_of(row - outcome.first)
                    self._answer(request, encoded.problems[row].at(path), outcome)
                    return
        if rows.alone:
            body = b'%b"prediction":%b}' % (self._start, encode(encoded.values[outcome.first]))
        else:
            body = b'%b"predictions":%b}' % (self._start, encode(encoded.values[outcome.first : outcome.end]))
        self._answer(request, Response(200, JSON, body), outcome)
        if self._prediction_log:
            self._log(self._prediction_log, request, rows.tensors, outcome)

    def _inferred(self, request: Request, asked: InferRequest, outcome: Outcome) -> None:
        if isinstance(outcome, Problem):
            self._answer(request, outcome, None)
            return
        try:
            headers, body = self.protocol.encode(outcome.outputs, asked)
        except Problem as problem:
            self._answer(request, problem, outcome)
            return
        self._answer(request, Response(200, headers, body), outcome)
        if self._prediction_log:
            self._log(self._prediction_log, request, asked.inputs, outcome)

    def _log(self, to: PredictionLog, request: Request, inputs: Inputs, part: BatchSlice) -> None:
        request_id = request.id.decode("latin-1")
        if not to.wants(request_id):
            return
        to.note(
            request_id=request_id,
            traceparent=request.header(b"traceparent"),
            model=self.model.name,
            version=self.model.version,
            rows=part.end - part.first,
            seconds=time.perf_counter() - request.received,
            inputs=stack([inputs.values], self._first_input) if isinstance(inputs, PlainRow) else inputs,
            outputs=part.outputs,
        )


def _located(problem: Problem, rows: Rows) -> Problem:
    """Name the field at fault where the model refuses a request whose fields it does not know."""
    if problem.path is not None or problem.status != 422:
        return problem
    return problem.at(rows.path if problem.row is None else rows.path_of(problem.row))


def _seconds(timeout: bytes) -> float:
    if not timeout.isdigit() or len(timeout) > 12 or not 0 < int(timeout) <= MAX_TIMEOUT_MS:
        message = f"must be milliseconds from 1 to {MAX_TIMEOUT_MS}"
        raise Problem(400, "bad_header", message, path="X-Request-Timeout-Ms")
    return int(timeout) / 1000
