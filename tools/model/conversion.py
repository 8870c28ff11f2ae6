"""The result of a conversion, which the process that converts hands back as files in a scratch folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from tools.model import npz
from tools.model.batching import Batching
from tools.model.tensors import Tensor, Tensors

_OPTIONAL = ("expected", "probe", "probe_expected")
COMPARED_ROWS = 1000
"""The original model answers at most so many."""


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A model as ONNX (or a checked .pt2), with rows for it and the original's answers to them."""

    model: bytes
    inputs: list[Tensor]
    feed: Tensors
    """Rows that the model takes."""
    expected: Tensors | None = None
    """The original's answers to the first of them, by output; None where nothing was converted."""
    probe: Tensors | None = None
    """More rows to compare, chosen to find differences; not for the profile."""
    probe_expected: Tensors | None = None
    """The original's answers to them."""
    batching: Batching = field(default_factory=Batching)
    format: Literal["onnx", "pt2", "python"] = "onnx"
    files: dict[str, bytes | Path] = field(default_factory=dict[str, "bytes | Path"])
    """Of format "python": the folder's files but model.json, by path; predictor.py is one, and `model` is empty.

    Each is the content, or where it lies.
    """
    call: Literal["tensors", "batch", "row"] | None = "tensors"
    """Of format "python": see server.model.manifest.PredictorCode; None: read it, and the inputs, from the code."""
    requirements: str = ""
    """The requirements.txt of the folder's code."""
    labels: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """Class names that the file itself has, by output."""
    notes: list[str] = field(default_factory=list[str])
    """Decisions that the user did not ask for."""
    versions: dict[str, str] = field(default_factory=dict[str, str])
    """The packages that converted it."""

    def save(self, folder: Path) -> None:
        """Write everything, result.json last."""
        (folder / "model").write_bytes(self.model)
        for name, content in self.files.items():
            (folder / "files" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "files" / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
        npz.save(folder / "feed.npz", self.feed)
        for name in _OPTIONAL:
            if getattr(self, name) is not None:
                npz.save(folder / f"{name}.npz", getattr(self, name))
        members = {
            name: getattr(self, name) for name in ("format", "call", "requirements", "labels", "notes", "versions")
        }
        members |= {"inputs": [asdict(tensor) for tensor in self.inputs], "batching": asdict(self.batching)}
        (folder / "result.json").write_text(json.dumps(members))

    @staticmethod
    def load(folder: Path) -> Conversion:
        """Read what `save` wrote."""
        members = json.loads((folder / "result.json").read_text())
        members["inputs"] = [Tensor.from_json(tensor) for tensor in members["inputs"]]
        members["batching"] = Batching(**members["batching"])
        arrays = {name: folder / f"{name}.npz" for name in _OPTIONAL}
        below = folder / "files"
        return Conversion(
            model=(folder / "model").read_bytes(),
            files={
                file.relative_to(below).as_posix(): file.read_bytes() for file in below.rglob("*") if file.is_file()
            },
            feed=npz.load(folder / "feed.npz"),
            **{name: npz.load(file) for name, file in arrays.items() if file.is_file()},
            **members,
        )
