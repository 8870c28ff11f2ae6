from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import prometheus_client
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from server.telemetry.histogram import Histogram, counter, histogram

BOUNDS = (0.001, 0.01, 0.1, 1)


class Given(Collector):
    def __init__(self, *families: Metric) -> None:
        self.families = families

    def collect(self) -> Iterator[Metric]:
        return iter(self.families)


def exposed(*families: Metric) -> list[str]:
    registry = CollectorRegistry()
    registry.register(Given(*families))
    return generate_latest(registry).decode().splitlines()


@pytest.mark.parametrize("count", [0, 1, 100, 8191, 8192, 8193, 30_000])
def test_a_histogram_is_what_prometheus_client_makes_of_the_same_values(count: int) -> None:
    values = [*BOUNDS, *np.random.default_rng(count).lognormal(-3, 3, 30_000)][:count]
    registry = CollectorRegistry()
    theirs = prometheus_client.Histogram("seconds", "Time", buckets=BOUNDS, registry=registry)
    ours = Histogram(BOUNDS)
    for value in values:
        theirs.observe(value)
        ours.add(value)

    def split(lines: list[str]) -> tuple[list[str], float]:
        (total,) = (float(line.split()[1]) for line in lines if line.startswith("seconds_sum"))
        return [line for line in lines if "_sum" not in line and "_created" not in line], total

    lines, total = split(exposed(histogram("seconds", "Time", [], {(): ours})))
    wanted, wanted_total = split(generate_latest(registry).decode().splitlines())
    assert lines == wanted
    assert total == pytest.approx(wanted_total)


def test_reading_twice_counts_once() -> None:
    rows = Histogram([1, 10])
    rows.add(3)
    assert rows.read() == rows.read() == ([("1.0", 0), ("10.0", 1), ("+Inf", 1)], 3)


def test_series_have_their_labels() -> None:
    queue, run = Histogram([1]), Histogram([1])
    queue.add(0.5)
    lines = exposed(
        histogram("seconds", "Time", ["phase"], {("queue",): queue, ("run",): run}),
        counter("requests", "Requests", ["path", "code"], Counter({("/predict", 200): 3, ('"\n', 404): 1})),
    )
    assert 'seconds_bucket{le="1.0",phase="queue"} 1.0' in lines
    assert 'seconds_count{phase="run"} 0.0' in lines
    assert 'requests_total{code="200",path="/predict"} 3.0' in lines
    assert 'requests_total{code="404",path="\\"\\n"} 1.0' in lines
