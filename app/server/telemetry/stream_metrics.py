"""Metrics of answers in pieces, for a model that gives such answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias, get_args

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from .histogram import Histogram, counter, histogram

Outcome: TypeAlias = Literal["completed", "failed", "abandoned", "cut"]
"""Cut: it took too long, or the server stopped; abandoned: the client left."""
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class StreamMetrics(Collector):
    """One per process, on the event loop's thread."""

    def __init__(self) -> None:
        self.ended: dict[Outcome, int] = dict.fromkeys(get_args(Outcome), 0)
        self.pieces = 0
        self.first_piece = Histogram(_SECONDS)
        """Seconds from the request to its first piece."""

    def collect(self) -> Iterator[Metric]:
        """Yield the families, for the registry."""
        ended: dict[tuple[object, ...], float] = {(outcome,): count for outcome, count in self.ended.items()}
        yield counter("model_streams", "Answers in pieces that have ended, by outcome", ["outcome"], ended)
        yield counter("model_stream_pieces", "Pieces of answers that were sent", [], {(): self.pieces})
        first = {(): self.first_piece}
        yield histogram("model_stream_first_piece_seconds", "Time from a request to its first piece", [], first)
