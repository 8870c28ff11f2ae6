"""Answers piece by piece: a row's generator, run step by step, becomes server-sent events [HTML standard, 9.2].

A step is one `next` of the generator. It runs on the inference thread, in turn with batches and with other streams, and
only once the client has taken what it was sent: a slow reader stops its generator instead of filling the memory.
However a stream ends, its generator is closed, so that the `finally` in the author's code runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, Protocol

from .batching import StreamBatcher
from .errors import Problem, problem_of
from .http.messages import Body, Headers, Request, Response, StreamedResponse, encode, problem_response
from .model.inputs import Inputs
from .protocol.predict_json import ModelId
from .telemetry.stream_metrics import Outcome, StreamMetrics

_HEAD: Headers = (
    ("content-type", "text/event-stream"),
    ("cache-control", "no-store"),
    ("x-accel-buffering", "no"),  # nginx would gather the pieces
)
_JSON_RANGES = ("application/json", "application/*", "*/*")


class StreamingEngine(Protocol):
    """A model that answers a row piece by piece. Its steps are run on one thread."""

    def stream(self, inputs: Inputs) -> Iterator[Any]:
        """Begin the answer to one row, as it was sent; pieces are JSON values. It raises a Problem where it fails."""
        ...


class Server(Protocol):
    """Sends and counts answers."""

    def answer(self, request: Request, outcome: Response | Problem) -> None:
        """Send a whole answer."""
        ...

    def begin(self, request: Request, response: StreamedResponse) -> None:
        """Send the head of an answer that comes in pieces; `ended` is called after the last of them."""
        ...

    def ended(self, request: Request, response: Response) -> None:
        """Log and trace an answer that came in pieces."""
        ...


@lru_cache(maxsize=64)
def prefers_stream(accept: bytes) -> bool:
    """Tell whether an Accept header names server-sent events, and JSON not before them."""
    ranges = _media_ranges(accept)
    stream = ranges.get("text/event-stream", 0.0)
    return stream > 0 and stream >= ranges.get("application/json", 0.0)


def accepts_json(accept: bytes) -> bool:
    """Tell whether an Accept header leaves JSON as an answer."""
    ranges = _media_ranges(accept)
    return any(ranges.get(name, 0.0) > 0 for name in _JSON_RANGES)


def _media_ranges(accept: bytes) -> dict[str, float]:
    """Read an Accept header: media ranges and their weights [RFC 9110 12.5.1]."""
    ranges: dict[str, float] = {}
    for each in accept.decode("latin-1").lower().split(","):
        name, *parameters = (part.strip() for part in each.split(";"))
        weights = [part[2:] for part in parameters if part.startswith("q=")]
        ranges[name] = 1.0
        with contextlib.suppress(ValueError):
            ranges[name] = float(weights[0]) if weights else 1.0
    return ranges


class Streams:
    """The streams of one model, on the event loop."""

    def __init__(
        self,
        engine: StreamingEngine,
        batcher: StreamBatcher,
        server: Server,
        metrics: StreamMetrics,
        *,
        max_streams: int,
        seconds: float,
        model: ModelId,
    ) -> None:
        """`seconds`: longest time of a whole stream; `model` is told at its end."""
        self.engine = engine
        self.batcher = batcher
        self.server = server
        self.metrics = metrics
        self.seconds = seconds
        self.model = model
        self._max_streams = max_streams
        self._active: set[_Stream] = set()
        self._none_active = asyncio.Event()
        self._none_active.set()

    def __len__(self) -> int:
        """Count those whose generator is not closed yet."""
        return len(self._active)

    def open(self, request: Request, inputs: Inputs, deadline: float, located: Callable[[Problem], Problem]) -> None:
        """Answer one row; a Problem with status 429 when too many are being answered.

        `deadline`: of the first piece, as time.perf_counter(). `located` names the field at fault.
        """
        if len(self._active) >= self._max_streams:
            message = f"{len(self._active)} answers are being streamed, which is the limit"
            raise Problem(429, "too_many_streams", message, headers=(("retry-after", "1"),))
        stream = _Stream(self, request, inputs, deadline, located)
        self._active.add(stream)
        self._none_active.clear()
        stream.step()

    def closed(self, stream: _Stream) -> None:
        """Forget a stream, whose generator is closed."""
        self._active.discard(stream)
        if not self._active:
            self._none_active.set()

    async def close(self, seconds: float) -> None:
        """End all streams, and wait at most `seconds` for their generators to be closed."""
        for stream in list(self._active):
            stream.cut()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._none_active.wait(), seconds)


class _Stream:
    """One answer; the producer of its body."""

    def __init__(
        self,
        streams: Streams,
        request: Request,
        inputs: Inputs,
        deadline: float,
        located: Callable[[Problem], Problem],
    ) -> None:
        self._streams = streams
        self._request = request
        self._inputs = inputs
        self._located = located
        self._iterator: Iterator[Any] | None = None
        self._body: Body | None = None
        """Set once the head is sent."""
        self._pieces = 0
        self._stepping = False
        self._ended = False
        """Whether nothing more is sent; the generator may still have to be closed."""
        self._timer = asyncio.get_running_loop().call_later(
            max(0.0, deadline - time.perf_counter()), self._first_piece_late
        )

    def step(self) -> None:
        """Ask for the next piece."""
        self._stepping = True
        self._streams.batcher.submit_step(self._next, self._stepped)

    def _next(self) -> bytes | Problem | None:
        """Return the next event, or None at the end. Runs on the inference thread."""
        if self._ended or self._request.abandoned:
            return None
        try:
            if self._iterator is None:
                self._iterator = self._streams.engine.stream(self._inputs)
            return _event(encode(next(self._iterator)))
        except StopIteration:
            return None
        except Exception as error:
            return self._located(problem_of(error, "stream_failed", request_id=self._request.id.decode("latin-1")))

    def _stepped(self, outcome: bytes | Problem | None) -> None:
        self._stepping = False
        if self._ended:
            self._close()
        elif self._request.abandoned:
            self._end("abandoned")
        elif isinstance(outcome, Problem):
            self._fail(outcome)
        else:
            if self._body is None:
                self._begin()
            self._send(outcome)

    def _begin(self) -> None:
        self._timer.cancel()
        waited = time.perf_counter() - self._request.received
        self._timer = asyncio.get_running_loop().call_later(self._streams.seconds - waited, self._too_long)
        self._streams.metrics.first_piece.add(waited)
        self._streams.server.begin(self._request, StreamedResponse(200, _HEAD, b"", producer=self))

    def _send(self, event: bytes | None) -> None:
        body = self._body
        if body is None or self._ended:
            return
        if event is None:
            end = encode({"model": self._streams.model, "pieces": self._pieces})
            self._end("completed", b"event: end\n" + _event(end))
            return
        self._pieces += 1
        self._streams.metrics.pieces += 1
        if body.write(event):
            self.step()

    def _first_piece_late(self) -> None:
        self._fail(Problem(504, "deadline_exceeded", "the request's time was up before the model gave a first piece"))

    def _too_long(self) -> None:
        message = f"the answer took longer than STREAM_SECONDS, {self._streams.seconds:g}"
        self._fail(Problem(504, "stream_too_long", message), "cut")

    def cut(self) -> None:
        """End for the server's sake: it stops."""
        self._fail(Problem(503, "stopping", "the server stops", headers=(("retry-after", "1"),)), "cut")

    def _fail(self, problem: Problem, outcome: Outcome = "failed") -> None:
        if self._ended:
            return
        if self._body is None:
            self._streams.server.answer(self._request, problem)
            self._end(outcome)
        else:
            self._end(outcome, b"event: error\n" + _event(problem_response(problem).body))

    def _end(self, outcome: Outcome, last: bytes | None = None) -> None:
        self._ended = True
        self._timer.cancel()
        self._streams.metrics.ended[outcome] += 1
        body, self._body = self._body, None
        if body:
            if last is not None:
                body.write(last)
                body.end()
            self._streams.server.ended(self._request, Response(200, _HEAD, b""))
        if not self._stepping:
            self._close()

    def _close(self) -> None:
        if self._iterator is None:
            self._streams.closed(self)
        else:
            self._streams.batcher.submit_step(self._close_iterator, lambda _: self._streams.closed(self))

    def _close_iterator(self) -> None:
        """Close the generator, on the inference thread. Whatever it raises is the author's to read in the log."""
        iterator, self._iterator = self._iterator, None
        try:
            close = getattr(iterator, "close", None)
            if close:
                close()
        except Exception as error:
            problem_of(error, "stream_failed", request_id=self._request.id.decode("latin-1"))

    # Called by the connection.

    def start(self, body: Body) -> None:
        """Take the body."""
        self._body = body

    def resume(self) -> None:
        """Go on: the client has taken what it was sent."""
        if not self._stepping and not self._ended:
            self.step()

    def cancel(self) -> None:
        """End: the client has left."""
        if not self._ended:
            self._end("abandoned")


def _event(data: bytes) -> bytes:
    return b"data: %b\n\n" % data
