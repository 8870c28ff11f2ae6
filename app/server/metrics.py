"""Prometheus metrics of this process."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)

disable_created_metrics()  # a second series for each one, which nobody here asks for


class Metrics:
    """What the server counts. One per process, with its own registry."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, model_name: str, model_version: str) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._requests = Counter(
            "model_requests", "Requests answered, by path and status code", ["path", "code"], registry=self._registry
        )
        self._answered: dict[tuple[str, int], Counter] = {}
        self._seconds = Histogram(
            "model_request_seconds",
            "Time from a prediction's request to its answer",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._batch_rows = Histogram(
            "model_batch_rows", "Rows that the model was run on at once", buckets=_ROWS, registry=self._registry
        )
        self._run_seconds = Histogram(
            "model_run_seconds", "Time of one run of the model", buckets=_SECONDS, registry=self._registry
        )
        Gauge("model_info", "The model that is served; always 1", ["name", "version"], registry=self._registry).labels(
            model_name, model_version
        ).set(1)

    def watch_waiting(self, rows: Callable[[], float]) -> None:
        """Ask `rows` at every scrape how many rows wait for the model."""
        Gauge("model_waiting_rows", "Rows that wait for the model", registry=self._registry).set_function(rows)

    def answered(self, path: str, code: int) -> None:
        """Count a request. `path` must come from a fixed set: each value is a time series for ever."""
        counter = self._answered.get((path, code))
        if counter is None:
            counter = self._answered[path, code] = self._requests.labels(path, code)
        counter.inc()

    def predicted(self, seconds: float) -> None:
        """Note how long a prediction took, whatever its answer."""
        self._seconds.observe(seconds)

    def ran(self, rows: int, seconds: float) -> None:
        """Note one run of the model."""
        self._batch_rows.observe(rows)
        self._run_seconds.observe(seconds)

    def text(self) -> bytes:
        """The exposition that Prometheus reads."""
        return generate_latest(self._registry)
