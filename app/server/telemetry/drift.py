"""What live traffic looks like beside the training data, column by column, as counters that add up over replicas.

Whoever reads them compares `..._bin_total` (live) with `..._reference_ratio` (the profile in model.json): the
population stability index is a query, and its sample size is the sum of the same bins.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ..errors import StartError
from ..model.manifest import Categorical, Input, Manifest, Numeric, Output, Tensor, columns
from ..model.tensors import DTYPES, Array, Tensors

OTHER = "other"
"""The bin of all categories that the profile does not name."""
_PENDING_ROWS = 4096
_PENDING_BYTES = 4 * 2**20


class _Column:
    """The values of one column so far: each is in a bin, or `missing`, or `nan`."""

    def __init__(self, name: str, bins: Sequence[str], reference: Sequence[int], *, nullable: bool) -> None:
        self.name = name
        self.bins = bins
        total = sum(reference) or 1
        self.reference = [count / total for count in reference]
        self.counts = [0] * len(bins)
        self.missing = 0
        self.nan = 0
        self._nullable = nullable

    def add(self, values: Array) -> None:
        """Count the values, `[rows]`: numbers, or str as objects."""
        raise NotImplementedError

    def _finite(self, values: Array) -> Array:
        """The numbers among the values, after the others have been counted. In a nullable column NaN is a null."""
        finite = np.isfinite(values)
        others = len(values) - int(np.count_nonzero(finite))
        if not others:
            return values
        missing = int(np.count_nonzero(np.isnan(values))) if self._nullable else 0
        self.missing += missing
        self.nan += others - missing
        return values[finite]


class _NumericColumn(_Column):
    """Bins "0", "1", ... between the profile's edges. What is outside min..max is in the first or last bin as well."""

    def __init__(self, name: str, profile: Numeric, *, nullable: bool) -> None:
        super().__init__(name, [str(index) for index in range(len(profile.counts))], profile.counts, nullable=nullable)
        self.out_of_range = 0
        self._profile = profile

    def add(self, values: Array) -> None:
        """As doubles, which is what the profile holds."""
        values = self._finite(values).astype(np.float64)
        profile = self._profile
        self.out_of_range += int(np.count_nonzero(values < profile.min) + np.count_nonzero(values > profile.max))
        # One comparison of everything for each edge: several times as fast as a search for every value.
        above = len(values)
        for index, edge in enumerate(profile.edges):
            higher = int(np.count_nonzero(values > edge))
            self.counts[index] += above - higher
            above = higher
        self.counts[-1] += above


class _CategoricalColumn(_Column):
    """A bin for each category of the profile and one for all others; `keys` has what the tensor holds for each."""

    def __init__(self, name: str, profile: Categorical, keys: dict[str, Any], *, nullable: bool) -> None:
        categories = {**profile.categories}
        categories.setdefault(OTHER, 0)
        super().__init__(name, list(categories), list(categories.values()), nullable=nullable)
        self.unseen = 0
        self._bin_of = {key: self.bins.index(category) for category, key in keys.items()}
        self._other = self.bins.index(OTHER)

    def add(self, values: Array) -> None:
        """Strings by hash; of numbers, one comparison of everything for each category."""
        unseen = len(values)
        if values.dtype == np.object_:
            strings: list[str] = values.tolist()
            found: Iterable[tuple[Any, int]] = Counter(strings).items()
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
        self.unseen += unseen


class _Table:
    """The profiled columns of one tensor, and the batches that are not counted yet."""

    def __init__(self, tensor: Tensor, width: int, at: list[int], profiled: list[_Column]) -> None:
        """`width` is the number of values a row, `at` where the columns are among them."""
        self.name = tensor.name
        self.columns = profiled
        self._dtype = DTYPES[tensor.datatype]
        self._text = tensor.datatype == "BYTES"
        self._width = width
        self._at = at
        self._numbers = bytearray()
        self._strings: list[str] = []

    def note(self, array: Array) -> int:
        """Keep a copy of a batch, `[rows, ...]`; the answer is its size in bytes.

        A copy is cheaper than the array: thousands of small ones take long to join, and a view of a request's body
        would keep all of it.
        """
        if self._text:
            strings: list[str] = array.ravel().tolist()
            self._strings += strings
            return sum(map(len, strings))
        if array.dtype != self._dtype:
            array = array.astype(self._dtype)
        numbers = array.tobytes()
        self._numbers += numbers
        return len(numbers)

    def fold(self) -> None:
        """Count what was kept."""
        if self._text:
            values = np.array(self._strings, dtype=np.object_)
        else:
            values = np.frombuffer(self._numbers, dtype=self._dtype)
        self._numbers, self._strings = bytearray(), []
        by_column = np.ascontiguousarray(values.reshape(-1, self._width)[:, self._at].T)
        for column, of_column in zip(self.columns, by_column, strict=True):
            column.add(of_column)


class Monitor(Collector):
    """Register it with the registry that /metrics shows. Without a profile in the manifest it does nothing."""

    def __init__(self, manifest: Manifest) -> None:
        """A StartError if the profile of a column does not fit its datatype."""
        profile = manifest.profile
        self._inputs = _tables(manifest, manifest.inputs, profile.features if profile else {})
        self._outputs = _tables(manifest, manifest.outputs, profile.outputs if profile else {})
        self._rows = 0
        self._bytes = 0

    def note(self, inputs: Tensors, outputs: Tensors) -> None:
        """A batch as clients sent it and as it is answered: every tensor of model.json, with the same rows on axis 0.

        For the thread that calls `collect`.
        """
        rows = 0
        for tables, tensors in ((self._inputs, inputs), (self._outputs, outputs)):
            for table in tables:
                array = tensors[table.name]
                rows = len(array)
                self._bytes += table.note(array)
        self._rows += rows
        if self._rows >= _PENDING_ROWS or self._bytes >= _PENDING_BYTES:
            self._fold()

    def collect(self) -> Iterator[Metric]:
        """The families of features and outputs, up to date."""
        self._fold()
        for side, tables in (("feature", self._inputs), ("output", self._outputs)):
            if tables:
                yield from _families(side, [column for table in tables for column in table.columns])

    def _fold(self) -> None:
        self._rows = self._bytes = 0
        for table in (*self._inputs, *self._outputs):
            table.fold()


def _families(side: str, profiled: list[_Column]) -> list[Metric]:
    def family(what: str, documentation: str) -> CounterMetricFamily:
        return CounterMetricFamily(f"model_{side}_{what}", documentation, labels=[side])

    bins = CounterMetricFamily(f"model_{side}_bin", "Values by the bins of the profile", labels=[side, "bin"])
    reference = GaugeMetricFamily(
        f"model_{side}_reference_ratio", "Share of the training data's values in each bin", labels=[side, "bin"]
    )
    missing = family("missing", "Values that were null")
    nan = family("nan", "Values that were NaN or infinite")
    out_of_range = family("out_of_range", "Values below the least or above the greatest of the training data")
    unseen = family("unseen", "Values of a category that the profile does not name")
    for column in profiled:
        for name, count, ratio in zip(column.bins, column.counts, column.reference, strict=True):
            bins.add_metric([column.name, name], count)
            reference.add_metric([column.name, name], ratio)
        missing.add_metric([column.name], column.missing)
        nan.add_metric([column.name], column.nan)
        if isinstance(column, _NumericColumn):
            out_of_range.add_metric([column.name], column.out_of_range)
        if isinstance(column, _CategoricalColumn):
            unseen.add_metric([column.name], column.unseen)
    return [bins, reference, missing, nan, out_of_range, unseen]


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
    """Each category of the profile -> the tensor's value for it; those that it cannot hold are left out."""
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
