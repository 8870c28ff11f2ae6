"""Formats of /metrics, and the choice among them by a scraper's Accept header [RFC 9110 12.5.1]."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import (
    generate_latest as generate_openmetrics,  # pyright: ignore[reportUnknownVariableType]  # it has no types
)

_MAX_RANGES = 32
"""Media ranges of an Accept header that are looked at; Prometheus sends five."""


class Format(NamedTuple):
    """A text format for metrics."""

    media_type: str
    version: str
    encode: Callable[[CollectorRegistry], bytes]
    more: str = ""
    """Parameters of its own."""

    @property
    def content_type(self) -> str:
        return f"{self.media_type}; version={self.version}; charset=utf-8{self.more}"


_FORMATS = (
    Format("text/plain", "0.0.4", generate_latest),
    Format("text/plain", "1.0.0", generate_latest, "; escaping=underscores"),
    Format("application/openmetrics-text", "1.0.0", generate_openmetrics),
)
"""The first is the one that every scraper reads."""


class _Range(NamedTuple):
    """A media range of an Accept header."""

    media_type: str
    version: str | None
    """None: any."""
    quality: float
    """0: not acceptable."""

    def specificity(self, of: Format) -> int:
        """Rank the range among those that name a format, by how closely it does; 0 if it does not."""
        if self.version not in (None, of.version):
            return 0
        kinds = ("*/*", f"{of.media_type.partition('/')[0]}/*", of.media_type)
        return 2 * kinds.index(self.media_type) + 1 + (self.version is not None) if self.media_type in kinds else 0


def choose(accept: str) -> Format:
    """Return the format that is wanted most, of equals the one named first; the oldest, where none is acceptable."""
    ranges = [_parse(text) for text in accept.lower().split(",")[:_MAX_RANGES]]

    def wish(of: Format) -> tuple[float, int]:
        closest = max(range(len(ranges)), key=lambda index: ranges[index].specificity(of))
        return (ranges[closest].quality, -closest) if ranges[closest].specificity(of) else (0.0, 0)

    best = max(_FORMATS, key=wish)
    return best if wish(best)[0] else _FORMATS[0]


def _parse(text: str) -> _Range:
    media_type, *parameters = (part.strip() for part in text.split(";"))
    values = {name.strip(): value.strip(' "') for name, _, value in (each.partition("=") for each in parameters)}
    try:
        quality = float(values.get("q", "1"))
    except ValueError:
        quality = 0.0
    return _Range(media_type, values.get("version"), quality if 0 <= quality <= 1 else 0.0)
