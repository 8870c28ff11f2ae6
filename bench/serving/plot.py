"""The measurements as a picture: four panels of bars, as SVG that follows the reader's light or dark theme."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from xml.sax.saxutils import escape

from bench.serving import runs
from bench.serving.peers import CONSTANT, OURS, PEERS
from bench.serving.runs import BARE, Measured

_TITLES = {peer.name: peer.title for peer in PEERS} | {CONSTANT: "its HTTP alone", BARE: "no server"}
_WIDTH, _LABELS, _VALUES = 430, 110, 60
"""Of a panel, in pixels; of what stands left of the bars and right of them."""
_ROW, _BAR, _TITLE, _GAP = 22, 14, 30, 24
_STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #1f2328; }
  .title { font-weight: 600; }
  .label { text-anchor: end; }
  .bar { fill: #afb8c1; }
  .ours { fill: #0969da; }
  .limit { fill: none; stroke: #afb8c1; stroke-dasharray: 3 2; }
  .range { stroke: #1f2328; stroke-width: 1; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .bar { fill: #545d68; }
    .ours { fill: #2f81f7; }
    .limit { stroke: #768390; }
    .range { stroke: #e6edf3; }
  }
"""


@dataclass(frozen=True)
class Panel:
    """One measurement of every server that has it."""

    title: str
    what: str
    form: str
    """How a value is written."""


PANELS = (
    Panel("Tiny model, 32 connections: requests/s", runs.TINY_MANY.rate, ",.0f"),
    Panel("Heavy model, 32 connections: rows/s", runs.HEAVY_MANY.rate, ",.0f"),
    Panel("Start to first answer: s (less is better)", runs.START, ".2f"),
    Panel("Memory at rest: MB (less is better)", runs.MEMORY, ".0f"),
)
_OUTLINED = (CONSTANT, BARE)
"""Bounds, not servers."""


def svg(measured: Measured) -> str:
    """Two panels a line; a bar is the median, the line across its end goes from the least to the most."""
    rows = max((len(_values(panel, measured)) for panel in PANELS), default=0)
    height = _TITLE + rows * _ROW + _GAP
    drawn = [
        f'<g transform="translate({index % 2 * (_WIDTH + _GAP)} {index // 2 * height})">{_panel(panel, measured)}</g>'
        for index, panel in enumerate(PANELS)
    ]
    width, total = 2 * _WIDTH + _GAP, -(-len(PANELS) // 2) * height
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {total}" width="{width}" height="{total}" '
        f'role="img" aria-label="Servers compared">\n<style>{_STYLE}</style>\n' + "\n".join(drawn) + "\n</svg>\n"
    )


def _values(panel: Panel, measured: Measured) -> dict[str, list[float]]:
    # The constant has no model: it is a bound for requests, but its start and memory say nothing.
    names = [*(peer.name for peer in PEERS if peer.name != CONSTANT or panel.what == runs.TINY_MANY.rate), BARE]
    return {name: values for name in names if (values := measured.values(name, panel.what))}


def _panel(panel: Panel, measured: Measured) -> str:
    values = _values(panel, measured)
    longest = max((max(each) for each in values.values()), default=1.0)
    scale = (_WIDTH - _LABELS - _VALUES) / longest
    bars = [_bar(panel, name, each, scale, _TITLE + row * _ROW) for row, (name, each) in enumerate(values.items())]
    return f'<text class="title" x="0" y="16">{escape(panel.title)}</text>' + "".join(bars)


def _bar(panel: Panel, name: str, values: list[float], scale: float, top: float) -> str:
    median, low, high = statistics.median(values), min(values), max(values)
    kind = "bar ours" if name == OURS else "limit" if name in _OUTLINED else "bar"
    middle, text = top + _BAR / 2, top + _BAR - 2
    end = _LABELS + high * scale
    return (
        f'<text class="label" x="{_LABELS - 8}" y="{text:g}">{escape(_TITLES[name])}</text>'
        f'<rect class="{kind}" x="{_LABELS}" y="{top}" width="{median * scale:.1f}" height="{_BAR}"/>'
        f'<line class="range" x1="{_LABELS + low * scale:.1f}" x2="{end:.1f}" y1="{middle:g}" y2="{middle:g}"/>'
        f'<text x="{end + 6:.1f}" y="{text:g}">{median:{panel.form}}</text>'
    )
