"""A measured figure, its target, and how both are shown."""

from __future__ import annotations

import os
import platform
import statistics
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Result:
    """One figure: the runs' values, in `unit`, and the most that their median may be (None: shown, not judged)."""

    name: str
    values: list[float]
    unit: str
    most: float | None

    @property
    def median(self) -> float:
        """What is quoted."""
        return statistics.median(self.values)

    def met(self) -> bool:
        """Whether the median keeps the target."""
        return self.most is None or self.median <= self.most

    def as_json(self) -> dict[str, Any]:
        """All of it, for the kept file."""
        values = [round(value, 3) for value in self.values]
        return {
            "name": self.name,
            "unit": self.unit,
            "median": round(self.median, 3),
            "most": self.most,
            "runs": values,
        }

    def row(self) -> str:
        """A line of the README's table."""
        target = "" if self.most is None else f"at most {self.most:g} {self.unit}" + ("" if self.met() else " (missed)")
        spread = f"{min(self.values):.2f} to {max(self.values):.2f}"
        return f"| {self.name} | {self.median:.2f} {self.unit} | {spread} | {len(self.values)} | {target} |\n"


def machine() -> str:
    """What the figures were measured on, without its name."""
    model = platform.processor() or platform.machine()
    return f"{len(os.sched_getaffinity(0))} cores, {model}, {platform.system()}, Python {platform.python_version()}"


def section(where: str, results: list[Result]) -> str:
    """The README's text."""
    head = "| figure | median | from, to | runs | target |\n|---|---|---|---|---|\n"
    rows = "".join(result.row() for result in results)
    return f"\nMeasured by [`bench/stack.py`](bench/stack.py) on {where}.\n\n{head}{rows}\n"
