"""The figures that `make e2e` takes on its cluster: what each is called, what it may be at most, and where they go."""

from __future__ import annotations

from pathlib import Path

from tools.figures import Result, keep, machine, table

FIGURES: dict[str, tuple[str, str, float | None]] = {
    "first answer": ("`up` to first answer, cluster and image ready", "s", 10),
    "program": ("- the program, until the image is asked for", "s", None),
    "image": ("- build and push, nothing of it new", "s", None),
    "apply": ("- Deployment applied, first pod made", "s", None),
    "pod start": ("- pod to container start", "s", None),
    "ready": ("- container start to first answer", "s", None),
    "up": ("`up` as a whole, cluster and image ready", "s", None),
    "first build": ("first build of the image, packages not cached", "s", None),
    "first push": ("first push of the image", "s", None),
    "up, no change": ("`up` that changes nothing", "s", 5),
    "preview, no change": ("`preview` that finds nothing", "s", 5),
    "layer base": ("image, compressed: the base here", "MB", None),
    "layer packages": ("image, compressed: packages", "MB", None),
    "layer server": ("image, compressed: server", "MB", None),
    "layer model": ("image, compressed: model", "MB", None),
    "layers beyond base": ("image, compressed: all beyond the base", "MB", 110),
    "model build": ("another model: rebuild", "s", None),
    "model push": ("another model: push", "s", None),
    "model layers": ("another model: layers that are new", "layers", 1),
    "rollout": ("another model: `up` until three pods have it", "s", None),
    "cold start": ("cold start of a pod: container start to ready", "s", 1.5),
    "memory at rest": ("memory of a replica at rest (resident)", "MiB", None),
    "memory under load": ("memory of a replica under load (resident)", "MiB", None),
}
"""Name -> what the table says, the unit, and the most that the median may be."""


class Figures:
    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}

    def add(self, name: str, *values: float) -> None:
        assert name in FIGURES, name
        self._values.setdefault(name, []).extend(values)

    def results(self) -> list[Result]:
        return [
            Result(label, self._values[name], unit, most)
            for name, (label, unit, most) in FIGURES.items()
            if self._values.get(name)
        ]

    def complete(self) -> bool:
        return self._values.keys() == FIGURES.keys()

    def table(self) -> str:
        return f"Measured by `make e2e` on {machine()}.\n\n{table(self.results())}"

    def keep(self, file: Path) -> None:
        keep(file, self.results())
