"""What one model answers: decodes a request, sends it through the batcher, encodes the answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np

from .batching import Batcher, Job, Outcome, Share
from .errors import Problem
from .http.messages import JSON, Request, Response, encode
from .model.manifest import Manifest
from .model.tensors import DTYPES, Inputs
from .protocol.open_inference import V2, InferRequest
from .protocol.predict_json import MAX_TIMEOUT_MS, Decoder, ModelId, Rows
from .telemetry.prediction_log import PredictionLog

Answer = Callable[[Request, "Response | Problem", "Share | None"], None]
"""Takes a request's answer, and the run that it came from."""


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
        self._batcher = batcher
        self._timeout_seconds = timeout_seconds
        self._answer = answer
        self._prediction_log = prediction_log
        self._first = manifest.inputs[0]
        self._start = b'{"model":%b,' % encode(self.model)

    def predict(self, request: Request) -> None:
        """POST /predict."""
        rows = self._decoder.decode(request.body)
        self._submit(request, rows.tensors, rows.count, partial(self._predicted, request, rows))

    def infer(self, request: Request) -> None:
        """POST /v2/models/{name}/infer."""
        asked = self.protocol.decode(request.body, request.header(b"inference-header-content-length"))
        self._submit(request, asked.inputs, asked.rows, partial(self._inferred, request, asked))

    def _submit(self, request: Request, inputs: Inputs, rows: int, done: Callable[[Outcome], None]) -> None:
        timeout = request.headers.get(b"x-request-timeout-ms")
        deadline = request.received + (self._timeout_seconds if timeout is None else _seconds(timeout))
        self._batcher.submit(Job(inputs, rows, done, request, deadline, len(request.body)))

    def _predicted(self, request: Request, rows: Rows, outcome: Outcome) -> None:
        if isinstance(outcome, Problem):
            if outcome.path is None and outcome.status == 422:
                outcome.path = rows.path if outcome.row is None else rows.path_of(outcome.row)
            self._answer(request, outcome, None)
            return
        values = outcome.batch.values
        if outcome.batch.faulty:
            for index, value in enumerate(outcome.values):
                if isinstance(value, Problem):
                    value.path = rows.path_of(index)
                    self._answer(request, value, outcome)
                    return
        if rows.alone:
            body = b'%b"prediction":%b}' % (self._start, encode(values[outcome.first]))
        else:
            body = b'%b"predictions":%b}' % (self._start, encode(outcome.values))
        self._answer(request, Response(200, JSON, body), outcome)
        if self._prediction_log:
            self._note(self._prediction_log, request, rows.tensors, outcome)

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
            self._note(self._prediction_log, request, asked.inputs, outcome)

    def _note(self, to: PredictionLog, request: Request, inputs: Inputs, share: Share) -> None:
        request_id = request.id.decode("latin-1")
        if not to.wants(request_id):
            return
        if isinstance(inputs, list):
            inputs = {self._first.name: np.array([inputs], DTYPES[self._first.datatype])}
        to.note(
            request_id=request_id,
            traceparent=request.header(b"traceparent"),
            model=self.model.name,
            version=self.model.version,
            rows=share.end - share.first,
            seconds=time.perf_counter() - request.received,
            inputs=inputs,
            outputs=share.outputs,
        )


def _seconds(timeout: bytes) -> float:
    if not timeout.isdigit() or len(timeout) > 12 or not 0 < int(timeout) <= MAX_TIMEOUT_MS:
        message = f"must be milliseconds from 1 to {MAX_TIMEOUT_MS}"
        raise Problem(400, "bad_header", message, path="X-Request-Timeout-Ms")
    return int(timeout) / 1000
