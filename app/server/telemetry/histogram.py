"""Histograms that cost an observation next to nothing: values are sorted into buckets in bulk, or at a scrape.

`prometheus_client` takes a lock and finds the bucket at every observation, more than a microsecond each; its families
are filled from here instead.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence

import numpy as np
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

_MAX_PENDING_VALUES = 8192


class Histogram:
    """Values by buckets, for one thread. `bounds` rise; a value is in the bucket of the first bound not below it."""

    __slots__ = ("_bounds", "_count", "_cumulative", "_pending", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._cumulative = [0] * len(bounds)
        self._count = 0
        self._sum = 0.0
        self._pending = array("d")

    def add(self, value: float) -> None:
        """Observe a value, in the unit of `bounds`."""
        self._pending.append(value)
        if len(self._pending) >= _MAX_PENDING_VALUES:
            self._fold()

    def read(self) -> tuple[list[tuple[str, float]], float]:
        """Prometheus's cumulative buckets `(le, values up to it)`, up to `("+Inf", all values)`, and the sum."""
        self._fold()
        texts = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        return list(zip(texts, map(float, (*self._cumulative, self._count)), strict=True)), self._sum

    def _fold(self) -> None:
        values, self._pending = np.frombuffer(self._pending), array("d")
        self._count += len(values)
        self._sum += float(values.sum())
        # Comparing all values with each bound in turn is several times as fast as searching the bounds for each value.
        for index, bound in enumerate(self._bounds):
            self._cumulative[index] += int(np.count_nonzero(values <= bound))


def histogram(
    name: str, documentation: str, labels: Sequence[str], series: Mapping[tuple[str, ...], Histogram]
) -> HistogramMetricFamily:
    """Family for a collector to yield; `series` has a histogram for each tuple of label values."""
    family = HistogramMetricFamily(name, documentation, labels=labels)
    for values, each in series.items():
        buckets, total = each.read()
        family.add_metric(values, buckets, total)
    return family


def counter(
    name: str, documentation: str, labels: Sequence[str], series: Mapping[tuple[object, ...], float]
) -> CounterMetricFamily:
    """Family for a collector to yield; `series` has a count for each tuple of label values.

    Every key is a time series for as long as the process lives: take them from a fixed set.
    """
    family = CounterMetricFamily(name, documentation, labels=labels)
    for values, count in series.items():
        family.add_metric([str(value) for value in values], count)
    return family
