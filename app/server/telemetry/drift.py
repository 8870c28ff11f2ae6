"""Data drift: counters of live values by the bins of the training data's profile, which add up over replicas.

The population stability index is a query that compares `model_values_total` (live) with `model_reference_ratio` (the
profile in model.json); its sample size is the sum of the same bins.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import numpy as np
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ..errors import StartError
from ..model.manifest import Categorical, Input, Manifest, Numeric, Output, Tensor, columns
from ..model.tensors import DTYPES, Array, Tensors

OTHER = "other"
"""Bin of the categories that the profile does not name."""
_MAX_PENDING_ROWS = 4096
_MAX_PENDING_BYTES = 4 * 2**20


class _Column:
    """Counts of one column's values: each value is in a bin, or `missing`, or `nan`."""

    def __init__(self, name: str, bins: Sequence[str], reference: Sequence[int], *, nullable: bool) -> None:
        """`reference` has the training data's count for each bin."""
        self.name = name
        self.bins = bins
        total = sum(reference) or 1
        self.reference_ratios = [count / total for count in reference]
        self.counts = [0] * len(bins)
        self.unusual = {"missing": 0, "nan": 0}
        self._nullable = nullable

    def add(self, values: Array) -> None:
        """Count values of shape `[rows]`: numbers, or str as objects."""
        raise NotImplementedError

    def _finite(self, values: Array) -> Array:
        """Count values that are not finite, and return the others. NaN is a null in a nullable column."""
        finite = np.isfinite(values)
        others = len(values) - int(np.count_nonzero(finite))
        if not others:
            return values
        missing = int(np.count_nonzero(np.isnan(values))) if self._nullable else 0
        self.unusual["missing"] += missing
        self.unusual["nan"] += others - missing
        return values[finite]


class _NumericColumn(_Column):
    """Bins "0", "1", ... between the profile's edges. Values outside min..max are in the first or last bin as well."""

    def __init__(self, name: str, profile: Numeric, *, nullable: bool) -> None:
        super().__init__(name, [str(index) for index in range(len(profile.counts))], profile.counts, nullable=nullable)
        self.unusual["out_of_range"] = 0
        self._profile = profile

    def add(self, values: Array) -> None:
        """Count numbers, compared as doubles like the profile's."""
        values = self._finite(values).astype(np.float64)
        profile = self._profile
        outside = np.count_nonzero(values < profile.min) + np.count_nonzero(values > profile.max)
        self.unusual["out_of_range"] += int(outside)
        # Comparing all values with each edge in turn is several times as fast as searching the edges for each value.
        above = len(values)
        for index, edge in enumerate(profile.edges):
            higher = int(np.count_nonzero(values > edge))
            self.counts[index] += above - higher
            above = higher
        self.counts[-1] += above


class _CategoricalColumn(_Column):
    """A bin for each category of the profile and one for all others; `keys` maps categories to the tensor's values."""

    def __init__(self, name: str, profile: Categorical, keys: dict[str, Any], *, nullable: bool) -> None:
        categories = {**profile.categories}
        categories.setdefault(OTHER, 0)
        super().__init__(name, list(categories), list(categories.values()), nullable=nullable)
        self.unusual["unseen"] = 0
        self._bin_of = {key: self.bins.index(category) for category, key in keys.items()}
        self._other = self.bins.index(OTHER)

    def add(self, values: Array) -> None:
        """Count strings by hash, and numbers by comparing all of them with each category."""
        unseen = len(values)
        if values.dtype == np.object_:
            strings = Counter(cast("list[str | None]", values.tolist()))
            missing = strings.pop(None, 0)
            self.unusual["missing"] += missing
            unseen -= missing
            found: Iterable[tuple[Any, int]] = strings.items()
        else:
            values = self._finite(values)
            unseen = len(values)
            found = [(key, int(np.count_nonzero(values == key))) for key in self._bin_of]
        for key, count in found:
            index = self._bin_of.get(key)
            if index is not None:
                self.counts[index] += count
                unseen -= count
        self.counts[self._other] += unseen
        self.unusual["unseen"] += unseen


class _Table:
    """Profiled columns of one tensor, and its batches that are not counted yet."""

    def __init__(self, tensor: Tensor, width: int, at: list[int], profiled: list[_Column]) -> None:
        """`width` is the number of values in a row, `at` has the columns' positions among them."""
        self.name = tensor.name
        self.columns = profiled
        self._dtype = DTYPES[tensor.datatype]
        self._text = tensor.datatype == "BYTES"
        self._width = width
        self._at = at
        self._numbers = bytearray()
        self._strings: list[str | None] = []

    def note(self, array: Array) -> int:
        """Keep a copy of a batch of shape `[rows, ...]`, and return its size in bytes.

        A copy is cheaper than the array: thousands of small ones take long to join, and a view of a request's body
        would keep all of it.
        """
        if self._text:
            strings: list[str | None] = array.ravel().tolist()
            self._strings += strings
            return sum(map(len, filter(None, strings)))
        if array.dtype != self._dtype:
            array = array.astype(self._dtype)
        numbers = array.tobytes()
        self._numbers += numbers
        return len(numbers)

    def fold(self) -> None:
        """Count the pending batches."""
        if self._text:
            values = np.array(self._strings, dtype=np.object_)
        else:
            values = np.frombuffer(self._numbers, dtype=self._dtype)
        self._numbers, self._strings = bytearray(), []
        by_column = np.ascontiguousarray(values.reshape(-1, self._width)[:, self._at].T)
        for column, of_column in zip(self.columns, by_column, strict=True):
            column.add(of_column)


class DriftCounters(Collector):
    """Counts model inputs and outputs by the bins of the manifest's profile; without a profile it yields no metrics."""

    def __init__(self, manifest: Manifest) -> None:
        """Raises a StartError if the profile of a column does not fit its datatype."""
        profile = manifest.profile
        self._inputs = _tables(manifest, manifest.inputs, profile.features if profile else {})
        self._outputs = _tables(manifest, manifest.outputs, profile.outputs if profile else {})
        self._pending_rows = 0
        self._pending_bytes = 0

    def note(self, inputs: Tensors, outputs: Tensors) -> None:
        """Count a batch: every tensor of model.json, inputs as clients sent them, with the same rows on axis 0.

        Call it on the thread that calls `collect`.
        """
        rows = 0
        for tables, tensors in ((self._inputs, inputs), (self._outputs, outputs)):
            for table in tables:
                array = tensors[table.name]
                rows = len(array)
                self._pending_bytes += table.note(array)
        self._pending_rows += rows
        if self._pending_rows >= _MAX_PENDING_ROWS or self._pending_bytes >= _MAX_PENDING_BYTES:
            self._fold()

    def collect(self) -> Iterator[Metric]:
        """Yield the families, pending batches included."""
        self._fold()
        if not self._inputs and not self._outputs:
            return
        labels = ["side", "column"]
        values = CounterMetricFamily(
            "model_values", "Values by the bins of the reference profile", labels=[*labels, "bin"]
        )
        reference = GaugeMetricFamily(
            "model_reference_ratio", "Share of the training data's values in each bin", labels=[*labels, "bin"]
        )
        unusual = CounterMetricFamily(
            "model_unusual_values", "Values missing, not finite, or unlike the training data", labels=[*labels, "kind"]
        )
        for side, tables in (("feature", self._inputs), ("output", self._outputs)):
            for column in (column for table in tables for column in table.columns):
                for name, count, ratio in zip(column.bins, column.counts, column.reference_ratios, strict=True):
                    values.add_metric([side, column.name, name], count)
                    reference.add_metric([side, column.name, name], ratio)
                for kind, count in column.unusual.items():
                    unusual.add_metric([side, column.name, kind], count)
        yield from (values, reference, unusual)

    def _fold(self) -> None:
        self._pending_rows = self._pending_bytes = 0
        for table in (*self._inputs, *self._outputs):
            table.fold()


def _tables(manifest: Manifest, tensors: Sequence[Tensor], profiles: dict[str, Numeric | Categorical]) -> list[_Table]:
    tables: list[_Table] = []
    for tensor in tensors:
        if isinstance(tensor, Input) and tensor.image:
            continue
        row_shape = manifest.row_shape(tensor)
        found = [(at, name) for at, name in enumerate(columns(tensor, row_shape)) if name in profiles]
        if found:
            profiled = [_column(tensor, row_shape, name, profiles[name]) for _, name in found]
            tables.append(_Table(tensor, math.prod(row_shape), [at for at, _ in found], profiled))
    return tables


def _column(tensor: Tensor, row_shape: list[int], name: str, profile: Numeric | Categorical) -> _Column:
    nullable = isinstance(tensor, Input) and tensor.nullable
    if isinstance(profile, Categorical):
        labels = tensor.labels if isinstance(tensor, Output) and not row_shape else []
        return _CategoricalColumn(name, profile, _keys(tensor, labels, profile), nullable=nullable)
    if tensor.datatype == "BYTES":
        raise StartError(f"the profile of {name!r} in model.json must be categorical: its values are strings")
    return _NumericColumn(name, profile, nullable=nullable)


def _keys(tensor: Tensor, labels: list[str], profile: Categorical) -> dict[str, Any]:
    """Map categories of the profile to the tensor's values for them; what its datatype cannot hold is left out."""
    dtype = DTYPES[tensor.datatype]
    keys: dict[str, Any] = {}
    if labels:
        keys = dict(zip(labels, range(len(labels)), strict=True))
    elif dtype == np.bool_:
        keys = {"false": False, "true": True}
    elif dtype == np.object_:
        keys = {category: category for category in profile.categories}
    else:
        for category in profile.categories:
            with contextlib.suppress(ValueError, OverflowError):
                keys[category] = dtype.type(float(category) if dtype.kind == "f" else int(category))
    return {category: key for category, key in keys.items() if category in profile.categories}
