"""The reference profile: where the training data's values lie, for live traffic to be compared with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tools.model.tensors import Array

BINS = 10
MOST_COLUMNS = 64
"""Of the inputs together, of the outputs together, and of a row."""
MOST_CATEGORIES = 50


def numeric(values: Array) -> dict[str, Any] | None:
    """Bin edges at the quantiles, and how many values fall between each pair; None when there is no finite value.

    The first bin is open below and the last one above, so `edges` has one entry less than `counts`. NaN is `missing`.
    """
    values = values.astype(np.float64)
    finite = values[np.isfinite(values)]
    if not finite.size:
        return None
    spread = float(np.ptp(finite)) or abs(float(finite[0])) or 1.0
    decimals = 6 - math.floor(math.log10(spread))
    edges = np.unique(np.quantile(finite, np.linspace(0, 1, BINS + 1)[1:-1]).round(decimals))
    counts = np.bincount(np.searchsorted(edges, finite, side="left"), minlength=len(edges) + 1)
    column = {
        "kind": "numeric",
        "min": float(finite.min()),
        "max": float(finite.max()),
        "edges": edges.tolist(),
        "counts": counts.tolist(),
    }
    missing = int(np.isnan(values).sum())
    return column | ({"missing": missing} if missing else {})


def categorical(values: Array, labels: Sequence[str] = ()) -> dict[str, Any] | None:
    """How often each value occurs: strings, truths, or indices of `labels`; None when there are too many."""
    if labels:
        known = values[(values >= 0) & (values < len(labels))]
        names = dict(zip(labels, np.bincount(known, minlength=len(labels)).tolist(), strict=True))
    else:
        found, counts = np.unique(values, return_counts=True)
        texts = [str(value).lower() if values.dtype.kind == "b" else str(value) for value in found]
        names = dict(zip(texts, counts.tolist(), strict=True))
    return {"kind": "categorical", "categories": names} if 0 < len(names) <= MOST_CATEGORIES else None


def side(tensors: Sequence[tuple[Array, list[str], Sequence[str]]]) -> dict[str, Any]:
    """The profile of all inputs, or all outputs: each an array, its columns' names and, of class indices, labels."""
    columns: dict[str, Any] = {}
    for array, names, labels in tensors:
        if not 0 < len(names) <= MOST_COLUMNS:
            continue
        values = array.reshape(len(array), -1)
        for index, name in enumerate(names):
            column = values[:, index]
            plain = column.dtype.kind in "iuf" and not labels
            found = numeric(column) if plain else categorical(column, labels)
            if found and len(columns) < MOST_COLUMNS:
                columns[name] = found
    return columns
