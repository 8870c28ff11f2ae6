"""A measured figure, its target, and how figures are shown and kept."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Result:
    """One figure: the runs' values, in `unit`, and what their median may be (neither bound: shown, not judged)."""

    name: str
    values: list[float]
    unit: str
    most: float | None = None
    least: float | None = None

    @property
    def median(self) -> float:
        """The quoted figure."""
        return statistics.median(self.values)

    def met(self) -> bool:
        """Whether the median keeps the target."""
        return (self.most is None or self.median <= self.most) and (self.least is None or self.median >= self.least)

    def as_json(self) -> dict[str, Any]:
        """All of it, for the kept file."""
        values = [round(value, 3) for value in self.values]
        return {
            "name": self.name,
            "unit": self.unit,
            "median": round(self.median, 3),
            "most": self.most,
            "least": self.least,
            "runs": values,
        }

    def row(self) -> str:
        """One row of a Markdown table."""
        bounds = [("at least", self.least), ("at most", self.most)]
        target = " and ".join(f"{word} {bound:g} {self.unit}" for word, bound in bounds if bound is not None)
        verdict = f"{target}: {'met' if self.met() else '**MISSED**'}" if target else ""
        spread = f"{min(self.values):.2f} to {max(self.values):.2f}"
        return f"| {self.name} | {self.median:.2f} {self.unit} | {spread} | {len(self.values)} | {verdict} |\n"


def table(results: Iterable[Result]) -> str:
    """Figures with their targets, for docs/benchmarks.md and for a terminal."""
    head = "| figure | median | from, to | runs | target |\n|---|---|---|---|---|\n"
    return head + "".join(result.row() for result in results)


def machine() -> str:
    """The machine that the figures were measured on, without its name."""
    model = _processor() or platform.processor() or platform.machine()
    return f"{len(os.sched_getaffinity(0))} cores, {model}, {platform.system()}, Python {platform.python_version()}"


def _processor() -> str | None:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def keep(file: Path, results: Iterable[Result], **more: Any) -> None:
    """Write the figures, and whatever else there is to compare later ones with."""
    kept: Mapping[str, Any] = {"machine": machine(), "results": [result.as_json() for result in results], **more}
    file.write_text(json.dumps(kept, indent=2) + "\n")


def write_section(page: Path, name: str, text: str) -> None:
    """Put the text between the page's markers for `name`; ValueError when it has none."""
    page.write_text(with_section(page.read_text(), name, text, command="make bench"))


def with_section(page: str, name: str, text: str, *, command: str) -> str:
    """The page's text with `text` between its markers for `name`; ValueError when it has none."""
    begin, end = f"<!-- {name}: written by `{command}` -->\n", f"<!-- end of {name} -->\n"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"the page has no lines {begin.strip()} and {end.strip()}")
    return f"{before}{begin}\n{text.strip()}\n\n{end}{after}"
