"""The reference profile: how the training data's values are distributed, for live traffic to be compared with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from tools.model.tensors import Array

BINS = 10
MAX_COLUMNS = 64
"""Profiled of all inputs, and of all outputs; a tensor with more columns has no profile."""
MAX_CATEGORIES = 50

Columns: TypeAlias = tuple[Array, list[str], Sequence[str]]
"""A tensor's values, its columns' names and, where it has class indices, their labels."""


def numeric(values: Array) -> dict[str, Any] | None:
    """Count the values between edges at their quantiles; None when there is no finite value.

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
    """Count each value: strings, truths, or indices of `labels`; None when there are more than MAX_CATEGORIES.

    None is `missing`.
    """
    missing = [value is None for value in values] if values.dtype.kind == "O" else []
    if any(missing):
        column = categorical(values[np.logical_not(missing)])
        return column and column | {"missing": sum(missing)}
    if labels:
        known = values[(values >= 0) & (values < len(labels))]
        names = dict(zip(labels, np.bincount(known, minlength=len(labels)).tolist(), strict=True))
    else:
        found, counts = np.unique(values, return_counts=True)
        texts = [str(value).lower() if values.dtype.kind == "b" else str(value) for value in found]
        names = dict(zip(texts, counts.tolist(), strict=True))
    return {"kind": "categorical", "categories": names} if 0 < len(names) <= MAX_CATEGORIES else None


def profile_columns(tensors: Sequence[Columns]) -> dict[str, Any]:
    """Profile all inputs, or all outputs, by column; no more than MAX_COLUMNS."""
    columns: dict[str, Any] = {}
    for array, names, labels in tensors:
        if not 0 < len(names) <= MAX_COLUMNS:
            continue
        values = array.reshape(len(array), -1)
        for index, name in enumerate(names):
            column = values[:, index]
            plain = column.dtype.kind in "iuf" and not labels
            found = numeric(column) if plain else categorical(column, labels)
            if found and len(columns) < MAX_COLUMNS:
                columns[name] = found
    return columns
