"""Metrics for Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from ..model.tensors import Tensors
from . import exposition
from .drift import DriftCounters
from .histogram import Histogram, counter, histogram

_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)


class Metrics(Collector):
    """One per process, on the event loop's thread. It observes the Batcher."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._registry.register(self)
        self._answered: Counter[tuple[object, ...]] = Counter()
        self._lost: Counter[str] = Counter()
        self._queue, self._run, self._total = Histogram(_SECONDS), Histogram(_SECONDS), Histogram(_SECONDS)
        self._batch_rows = Histogram(_ROWS)
        self._monitor: DriftCounters | None = None
        self._info: dict[str, str] = {}
        self._gauges: list[tuple[str, str, Callable[[], float]]] = []
        self._counters: list[tuple[str, str, Callable[[], float]]] = []

    def model_loaded(self, name: str, version: str, monitor: DriftCounters) -> None:
        """Name this model, and show its drift, from now on."""
        self._info = {"name": name, "version": version}
        self._monitor = monitor
        self._registry.register(monitor)

    def add(self, collector: Collector) -> None:
        """Show the families of one more collector."""
        self._registry.register(collector)

    def watch(self, name: str, documentation: str, value: Callable[[], float]) -> None:
        """Show a gauge, whose value is asked for at every scrape."""
        self._gauges.append((name, documentation, value))

    def count(self, name: str, documentation: str, value: Callable[[], float]) -> None:
        """Show a counter, whose value is asked for at every scrape."""
        self._counters.append((name, documentation, value))

    def answered(self, path: str, code: int) -> None:
        """Count a request. `path` must come from a fixed set: each value is a time series for ever."""
        self._answered[path, code] += 1

    def predicted(self, queue: float, run: float, total: float) -> None:
        """Count a prediction's seconds: in the queue, in the model's run, and from the request to its answer."""
        self._queue.add(queue)
        self._run.add(run)
        self._total.add(total)

    def ran(self, rows: int, inputs: Tensors, outputs: Tensors) -> None:
        """Count a run; `inputs` are its rows as they were sent."""
        self._batch_rows.add(rows)
        if self._monitor:
            self._monitor.note(inputs, outputs)

    def shed(self) -> None:
        """Count a request turned away."""
        self._lost["shed"] += 1

    def expired(self) -> None:
        """Count a request past its deadline before its run."""
        self._lost["expired"] += 1

    def abandoned(self) -> None:
        """Count a request whose client disconnected before its run."""
        self._lost["abandoned"] += 1

    def out_of_memory(self) -> None:
        """Count a request that failed because an allocation did."""
        self._lost["out_of_memory"] += 1

    def collect(self) -> Iterator[Metric]:
        """Yield the families, for the registry."""
        yield counter("model_requests", "Requests answered, by path and status code", ["path", "code"], self._answered)
        phases = {("queue",): self._queue, ("run",): self._run, ("total",): self._total}
        yield histogram("model_request_duration_seconds", "Time of a prediction, by phase", ["phase"], phases)
        yield histogram("model_batch_rows", "Rows that the model was run on at once", [], {(): self._batch_rows})
        for name, what in _LOST.items():
            yield counter(f"model_requests_{name}", f"Requests {what}", [], {(): self._lost[name]})
        for name, documentation, value in self._gauges:
            yield GaugeMetricFamily(name, documentation, value=value())
        for name, documentation, value in self._counters:
            yield counter(name, documentation, [], {(): value()})
        if self._info:
            yield InfoMetricFamily("model", "The model that is served", value=self._info)

    def text(self, accept: str) -> tuple[str, bytes]:
        """Return content type and text for a scraper, by its Accept header."""
        chosen = exposition.choose(accept)
        return chosen.content_type, chosen.encode(self._registry)


_LOST = {
    "shed": "turned away with 429, because too much waited",
    "expired": "whose time was up before the model was free",
    "abandoned": "whose client left before the model was free",
    "out_of_memory": "answered with 503, because the server had too little memory for them",
}
