"""Counting that costs a request next to nothing: the work is done in bulk, or when Prometheus asks.

`prometheus_client` takes a lock and finds the bucket at every observation, more than a microsecond each; its families
are filled from here instead.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence

import numpy as np
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

_PENDING = 8192


class Timings:
    """A histogram, filled and read by one thread. `bounds` rise; a value is in the bucket of the first not below it."""

    __slots__ = ("_bounds", "_count", "_cumulative", "_pending", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._cumulative = [0] * len(bounds)
        self._count = 0
        self._sum = 0.0
        self._pending = array("d")

    def add(self, value: float) -> None:
        """Note a value: seconds, rows, or whatever `bounds` are."""
        self._pending.append(value)
        if len(self._pending) >= _PENDING:
            self._fold()

    @property
    def sum(self) -> float:
        """Of all values."""
        self._fold()
        return self._sum

    def buckets(self) -> list[tuple[str, float]]:
        """Prometheus's cumulative buckets: `(le, values up to it)`, the last of them `("+Inf", all values)`."""
        self._fold()
        texts = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        return list(zip(texts, map(float, (*self._cumulative, self._count)), strict=True))

    def _fold(self) -> None:
        values, self._pending = np.frombuffer(self._pending), array("d")
        self._count += len(values)
        self._sum += float(values.sum())
        # One comparison of everything for each bound: several times as fast as a search for every value.
        for index, bound in enumerate(self._bounds):
            self._cumulative[index] += int(np.count_nonzero(values <= bound))


def histogram(
    name: str, documentation: str, labels: Sequence[str], series: Mapping[tuple[str, ...], Timings]
) -> HistogramMetricFamily:
    """The family for a collector to yield; `series` are by the values of `labels`."""
    family = HistogramMetricFamily(name, documentation, labels=labels)
    for values, timings in series.items():
        family.add_metric(values, timings.buckets(), timings.sum)
    return family


def counter(
    name: str, documentation: str, labels: Sequence[str], series: Mapping[tuple[object, ...], float]
) -> CounterMetricFamily:
    """The family for a collector to yield; `series`, a `collections.Counter` for one, are by the values of `labels`.

    Every key is a time series for as long as the process lives: take them from a fixed set.
    """
    family = CounterMetricFamily(name, documentation, labels=labels)
    for values, count in series.items():
        family.add_metric([str(value) for value in values], count)
    return family
