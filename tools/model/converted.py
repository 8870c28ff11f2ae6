"""What the process that converts hands back, as files in a scratch folder."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tools.model import arrays
from tools.model.tensors import Tensor, Tensors

Batching = Literal["dynamic", "fixed", "none"]
_OPTIONAL = ("expected", "probe", "probe_expected")
COMPARED_ROWS = 1000
"""The original model answers at most so many."""


@dataclass(frozen=True, kw_only=True)
class Converted:
    """A model as ONNX (or a checked .pt2), with rows for it and what the original says about them."""

    model: bytes
    inputs: list[Tensor]
    feed: Tensors
    """Rows that the model takes."""
    expected: Tensors | None = None
    """What the original says about the first of them, by output; None where nothing was converted."""
    probe: Tensors | None = None
    """More rows to compare, chosen to find differences; not for the profile."""
    probe_expected: Tensors | None = None
    """What the original says about them."""
    batching: Batching = "dynamic"
    batch_rows: int = 0
    """With batching "fixed": the rows of a run."""
    format: Literal["onnx", "pt2"] = "onnx"
    labels: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """Class names that the file itself has, by output."""
    notes: list[str] = field(default_factory=list[str])
    """What was decided that the user did not say."""
    versions: dict[str, str] = field(default_factory=dict[str, str])
    """Of the packages that converted it."""

    def save(self, folder: Path) -> None:
        """Write everything, result.json last."""
        (folder / "model").write_bytes(self.model)
        arrays.save(folder / "feed.npz", self.feed)
        for name in _OPTIONAL:
            if getattr(self, name) is not None:
                arrays.save(folder / f"{name}.npz", getattr(self, name))
        members = vars(self) | {"inputs": [vars(tensor) for tensor in self.inputs]}
        for name in ("model", "feed", *_OPTIONAL):
            del members[name]
        (folder / "result.json").write_text(json.dumps(members))

    @staticmethod
    def load(folder: Path) -> Converted:
        """What `save` wrote."""
        members = json.loads((folder / "result.json").read_text())
        members["inputs"] = [Tensor.of(tensor) for tensor in members["inputs"]]
        files = {name: folder / f"{name}.npz" for name in _OPTIONAL}
        return Converted(
            model=(folder / "model").read_bytes(),
            feed=arrays.load(folder / "feed.npz"),
            **{name: arrays.load(file) for name, file in files.items() if file.is_file()},
            **members,
        )
