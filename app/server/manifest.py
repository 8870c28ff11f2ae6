"""model.json: what a model is called, takes and gives. Names follow the Open Inference Protocol."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import msgspec

from .problem import StartError

Datatype = Literal["BOOL", "INT32", "INT64", "FP32", "FP64", "BYTES"]


class Input(msgspec.Struct, frozen=True, kw_only=True):
    """A tensor that the model takes; the first dimension, -1, counts the rows of a batch."""

    name: str
    datatype: Datatype
    shape: list[int]
    features: list[str] = []
    """What the numbers of a row mean, in order."""

    @property
    def width(self) -> int:
        """Values in a row."""
        return self.shape[1]


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """A tensor that the model gives."""

    name: str
    datatype: Datatype
    shape: list[int]
    labels: list[str] = []
    """Names of the classes: an integer output of shape [-1] is one of them, shape [-1, n] has a value for each."""


class FeatureProfile(msgspec.Struct, frozen=True, kw_only=True):
    """One feature on the training data: `counts[i]` values lie above `edges[i - 1]` and up to `edges[i]`."""

    min: float
    max: float
    edges: list[float]
    counts: list[int]


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """The training data that live traffic is compared with."""

    rows: int
    features: dict[str, FeatureProfile] = {}
    outputs: dict[str, dict[str, int]] = {}


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The whole file. Members it does not name are the author's own and ignored."""

    name: str
    version: str
    inputs: list[Input]
    outputs: list[Output]
    example: msgspec.Raw
    """A body for POST /predict that the model can answer."""
    profile: Profile | None = None


def read_manifest(path: Path) -> Manifest:
    """The checked manifest, or a StartError that names the member at fault."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StartError(f"{path} cannot be read: {error.strerror}") from None
    try:
        manifest = msgspec.json.decode(content, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StartError(f"{path} is not a model description: {error}") from None
    mistake = _mistake(manifest)
    if mistake:
        raise StartError(f"{path}: {mistake}")
    return manifest


def _mistake(manifest: Manifest) -> str | None:
    if not manifest.name or not manifest.version:
        return "name and version must not be empty"
    if len(manifest.inputs) != 1:
        return f"inputs must be one tensor, not {len(manifest.inputs)}"
    tensor = manifest.inputs[0]
    if len(tensor.shape) != 2 or tensor.shape[0] != -1 or tensor.shape[1] < 1:
        return f"the shape of input {tensor.name!r} must be [-1, values in a row], not {tensor.shape}"
    if tensor.features and len(tensor.features) != tensor.width:
        return f"input {tensor.name!r} has {tensor.width} values in a row but {len(tensor.features)} features"
    if not manifest.outputs:
        return "outputs must name at least one tensor"
    for output in manifest.outputs:
        if not output.shape or output.shape[0] != -1:
            return f"the shape of output {output.name!r} must start with -1 (rows), not be {output.shape}"
        if output.labels and output.shape not in ([-1], [-1, len(output.labels)]):
            return f"output {output.name!r} has {len(output.labels)} labels but shape {output.shape}"
        if output.labels and output.shape == [-1] and output.datatype not in ("INT32", "INT64"):
            return f"output {output.name!r} has labels, so its datatype must be INT32 or INT64"
    return _profile_mistake(manifest)


def _profile_mistake(manifest: Manifest) -> str | None:
    features = manifest.inputs[0].features
    for name, profile in (manifest.profile.features if manifest.profile else {}).items():
        if name not in features:
            return f"the profile names feature {name!r}, which no input has"
        if len(profile.counts) != len(profile.edges) + 1 or min(profile.counts) < 0:
            return f"the profile of {name!r} must have one count more than it has edges"
        if any(low >= high for low, high in zip(profile.edges, profile.edges[1:], strict=False)):
            return f"the edges in the profile of {name!r} must rise"
        if not all(math.isfinite(value) for value in (profile.min, profile.max, *profile.edges)):
            return f"the profile of {name!r} must be finite"
    return None
