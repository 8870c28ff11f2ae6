"""model.json: a model's name, inputs, outputs and reference profile, named as in the Open Inference Protocol."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, cast

import msgspec
from msgspec import Meta

from ..errors import StartError
from .datatypes import FLOATS, INTEGERS, Datatype

Batching = Literal["dynamic", "fixed", "none"]
DEFAULT_MAX_SIZE = 2048
DEFAULT_MAX_CHARACTERS = 2**16
_ESCAPED = re.compile(r'["\\\x00-\x1f]')
"""Characters that JSON must escape in a key, or may not have there."""


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """Preprocessing of a picture into a row: `(pixel * scale - mean) / std`, channel by channel."""

    mode: Literal["RGB", "L"] = "RGB"
    layout: Literal["CHW", "HWC"] = "CHW"
    scale: float = 1 / 255
    mean: list[float] = []
    std: list[float] = []

    @property
    def channels(self) -> int:
        """Values per pixel."""
        return len(self.mode)


class Tensor(msgspec.Struct, frozen=True, kw_only=True):
    """Members that inputs and outputs share."""

    name: str
    datatype: Datatype
    shape: list[int]
    """The model's own shape: the rows of a batch come first, unless batching is "none"; -1 is any size."""
    json_schema: dict[str, Any] = {}
    """Schema of a row's value, where the datatype is JSON; empty: any value."""


class Input(Tensor, frozen=True, kw_only=True):
    """Tensor that a client sends."""

    features: list[str] = []
    """Names of a row's values, in order."""
    nullable: bool = False
    """Accept null for a missing value, which the model gets as NaN."""
    image: Image | None = None
    """Preprocessing, where the client sends pictures."""
    max_size: Annotated[int, Meta(ge=1)] = DEFAULT_MAX_SIZE
    """Largest size of an axis of any size (-1); the example's own, where that is larger."""
    max_characters: Annotated[int, Meta(ge=1)] = DEFAULT_MAX_CHARACTERS
    """Longest text of a BYTES input; the example's own, where that is longer."""


class Output(Tensor, frozen=True, kw_only=True):
    """Tensor that a client gets."""

    labels: list[str] = []
    """Class names: a row of one integer is the index of a class, a row of n values has one for each class."""


class Numeric(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="numeric"):
    """Distribution of a numeric column in the training data.

    `counts[i]` values lie above `edges[i - 1]` and up to `edges[i]`; the first bin is open below, the last one above.
    """

    min: float
    max: float
    edges: list[float]
    counts: list[int]
    missing: int = 0


class Categorical(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="categorical"):
    """Counts of a categorical column's values in the training data."""

    categories: dict[str, int]
    missing: int = 0


ColumnProfile: TypeAlias = "Numeric | Categorical"


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """Distributions of the training data, by column (see `columns`), that live traffic is compared with."""

    rows: int
    features: dict[str, Numeric | Categorical] = {}
    outputs: dict[str, Numeric | Categorical] = {}


class Hooks(msgspec.Struct, frozen=True, kw_only=True):
    """Digest of hooks.py, without which that code does not run."""

    sha256: str


class PredictorCode(msgspec.Struct, frozen=True, kw_only=True):
    """The author's code of format "python": how it is called, and the digests without which it does not run."""

    entry: str = "Predictor"
    """Class or function of predictor.py."""
    call: Literal["tensors", "batch", "row"]
    """Arguments: all tensors in one dict; a list or an array for each input; one row's value for each input."""
    streams: bool = False
    """Whether it yields a row's answer piece by piece."""
    sha256: dict[str, str]
    """Of each Python file in the model folder, by its path there."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The whole of model.json. Unknown members are the author's own and ignored."""

    name: str
    version: str
    format: Literal["onnx", "pt2", "python"] = "onnx"
    batching: Batching = "dynamic"
    """Rows per run: any number (dynamic), always the same (fixed), or one without a batch dimension (none)."""
    inputs: list[Input]
    outputs: list[Output]
    example: msgspec.Raw
    """Body for POST /predict that the model can answer."""
    hooks: Hooks | None = None
    predictor: PredictorCode | None = None
    profile: Profile | None = None

    def row_shape(self, tensor: Tensor) -> list[int]:
        """Shape of a tensor's row, without the batch dimension."""
        return tensor.shape if self.batching == "none" else tensor.shape[1:]

    @property
    def sizes_vary(self) -> bool:
        """Whether rows differ in size: by an axis of any size, or by the length of their texts."""
        return any(
            -1 in self.row_shape(tensor) or (tensor.datatype == "BYTES" and not tensor.image) for tensor in self.inputs
        )

    @property
    def fixed_rows(self) -> int | None:
        """Rows that every run must have; None when any number will do, or the model has no batch dimension."""
        return self.inputs[0].shape[0] if self.batching == "fixed" else None


def columns(tensor: Tensor, row_shape: list[int]) -> list[str]:
    """Names of a row's values, in row-major order; empty when their number varies.

    Features have their own names, a single value has its tensor's; others are `tensor[label]` or `tensor[i]`.
    """
    width = math.prod(row_shape)
    if -1 in row_shape:
        return []
    if isinstance(tensor, Input) and tensor.features:
        return tensor.features
    if width == 1:
        return [tensor.name]
    labels = tensor.labels if isinstance(tensor, Output) and tensor.labels else range(width)
    return [f"{tensor.name}[{label}]" for label in labels]


def read_manifest(path: Path) -> Manifest:
    """Read and check model.json; raises a StartError that names the file and the member at fault."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StartError(f"{path} cannot be read: {error.strerror}") from None
    try:
        return parse_manifest(content)
    except ValueError as mistake:
        raise StartError(f"{path}: {mistake}") from None


def parse_manifest(content: bytes) -> Manifest:
    """Decode and check model.json; raises a ValueError that names the member at fault and reads well after `path: `."""
    try:
        manifest = msgspec.json.decode(content, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"this is not a model description: {error}") from None
    _check(manifest)
    return _with_room_for_example(manifest)


def _with_room_for_example(manifest: Manifest) -> Manifest:
    """Raise the maxima to what the example has: a model folder from before they existed must answer it still."""
    try:
        size, characters = _largest(msgspec.json.decode(manifest.example))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return manifest  # a mistake that is told where the example is decoded as a request
    inputs = [
        msgspec.structs.replace(
            tensor,
            max_size=max(tensor.max_size, size),
            max_characters=max(tensor.max_characters, characters),
        )
        for tensor in manifest.inputs
    ]
    return msgspec.structs.replace(manifest, inputs=inputs)


def _largest(value: Any) -> tuple[int, int]:
    """Find the length of the longest list and that of the longest text in decoded JSON."""
    if isinstance(value, str):
        return 0, len(value)
    if not isinstance(value, list | dict):
        return 0, 0
    children = list(cast("dict[str, Any]", value).values()) if isinstance(value, dict) else cast("list[Any]", value)
    sizes, characters = zip(*map(_largest, children), strict=True) if children else ((0,), (0,))
    return max(len(children), *sizes), max(characters)


def check_hooks(manifest: Manifest, code: bytes) -> None:
    """Raise a ValueError unless the manifest declares `code`, the content of hooks.py, by its digest."""
    if manifest.hooks is None:
        raise ValueError(
            "is code that model.json does not declare, so it does not run: "
            "package the model again with `make model`, which writes its digest, or remove the file"
        )
    digest = hashlib.sha256(code).hexdigest()
    if digest != manifest.hooks.sha256.lower():
        raise ValueError(
            f"is not the file that model.json declares: its SHA-256 is {digest}, not {manifest.hooks.sha256}"
        )


def check_predictor(manifest: Manifest, files: Mapping[str, bytes]) -> None:
    """Raise a ValueError unless the manifest declares exactly `files`, the folder's Python files by path."""
    declared = {} if manifest.predictor is None else manifest.predictor.sha256
    for name in sorted(declared.keys() | files.keys()):
        if name not in files:
            raise ValueError(f"{name} does not exist, and model.json declares it")
        if name not in declared:
            raise ValueError(
                f"{name} is code that model.json does not declare, so it does not run: "
                "package the model again with `make model`, which writes its digest, or remove the file"
            )
        digest = hashlib.sha256(files[name]).hexdigest()
        if digest != declared[name].lower():
            raise ValueError(
                f"{name} is not the file that model.json declares: its SHA-256 is {digest}, not {declared[name]}"
            )


def _check(manifest: Manifest) -> None:
    if not manifest.name or not manifest.version:
        raise ValueError("name and version must not be empty")
    if (manifest.format == "python") != (manifest.predictor is not None):
        raise ValueError('predictor says how the code of format "python" is called, and is for that format alone')
    if manifest.predictor:
        _check_predictor(manifest, manifest.predictor)
    for kind, tensors in (("inputs", manifest.inputs), ("outputs", manifest.outputs)):
        names = [tensor.name for tensor in tensors]
        if not names or "" in names or len(set(names)) < len(names):
            raise ValueError(f"{kind} must name at least one tensor, each by a name of its own")
        _check_keys(names)
        for tensor in tensors:
            _check_shape(manifest, tensor, kind[:-1])
    for tensor in manifest.inputs:
        _check_input(tensor, manifest.row_shape(tensor))
    for tensor in manifest.outputs:
        _check_output(tensor, manifest.row_shape(tensor))
    if manifest.profile:
        _check_profile(manifest, manifest.profile)


def _check_predictor(manifest: Manifest, predictor: PredictorCode) -> None:
    if manifest.batching != "dynamic":
        raise ValueError(f'format "python" takes any number of rows: its batching is dynamic, not {manifest.batching}')
    if manifest.hooks:
        raise ValueError('format "python" has no hooks: what they would do is for predictor.py')
    if predictor.streams and (predictor.call == "tensors" or len(manifest.outputs) != 1):
        raise ValueError("a predictor that streams is called by row or batch, and has one output")


def _check_keys(names: list[str]) -> None:
    for name in names:
        if _ESCAPED.search(name):
            raise ValueError(f"the name {name!r} must have no quotation mark, backslash or control character")


def _check_shape(manifest: Manifest, tensor: Tensor, kind: str) -> None:
    what = f"the shape of {kind} {tensor.name!r}"
    if any(size == 0 or size < -1 for size in tensor.shape):
        raise ValueError(f"{what} has sizes that are neither positive nor -1: {tensor.shape}")
    if manifest.batching == "dynamic" and tensor.shape[:1] != [-1]:
        raise ValueError(f"{what} must start with -1 (rows), not be {tensor.shape}, unless batching is fixed or none")
    if manifest.batching == "fixed" and (not tensor.shape or tensor.shape[0] != manifest.inputs[0].shape[0]):
        raise ValueError(f"{what} must start with the batch's size like all others, not be {tensor.shape}")
    if manifest.batching == "fixed" and tensor.shape[0] < 1:
        raise ValueError(f"{what} must start with the batch's size, not be {tensor.shape}, when batching is fixed")


def _check_input(tensor: Input, row: list[int]) -> None:
    if tensor.features and (len(row) != 1 or row[0] != len(tensor.features)):
        raise ValueError(f"input {tensor.name!r} has {len(tensor.features)} features but rows of shape {row}")
    if len(set(tensor.features)) < len(tensor.features):
        raise ValueError(f"input {tensor.name!r} has a feature twice")
    if tensor.nullable and tensor.datatype not in FLOATS:
        raise ValueError(f"input {tensor.name!r} is nullable, so its datatype must be a float, not {tensor.datatype}")
    if tensor.image:
        _check_image(tensor.name, tensor, row, tensor.image)


def _check_image(name: str, tensor: Input, row: list[int], image: Image) -> None:
    channels = row[0 if image.layout == "CHW" else -1] if len(row) == 3 else None
    if channels != image.channels or -1 in row:
        raise ValueError(f"input {name!r} is an image of {image.mode} in {image.layout}, but its rows are {row}")
    if tensor.datatype not in ("FP32", "UINT8"):
        raise ValueError(f"input {name!r} is an image, so its datatype must be FP32 or UINT8, not {tensor.datatype}")
    if (
        any(len(values) not in (0, image.channels) for values in (image.mean, image.std))
        or min(image.std, default=1) <= 0
    ):
        raise ValueError(f"the image's mean and std of input {name!r} must be {image.channels} numbers, std above zero")
    if tensor.datatype == "UINT8" and (image.mean or image.std):
        raise ValueError(f"input {name!r} is an image in UINT8, which leaves pixels as they are: no mean and std")


def _check_output(tensor: Output, row: list[int]) -> None:
    if not tensor.labels:
        return
    if len(set(tensor.labels)) < len(tensor.labels):
        raise ValueError(f"output {tensor.name!r} has a label twice")
    if row not in ([], [len(tensor.labels)]):
        raise ValueError(f"output {tensor.name!r} has {len(tensor.labels)} labels but rows of shape {row}")
    if row:
        _check_keys(tensor.labels)
    elif tensor.datatype not in INTEGERS:
        raise ValueError(f"output {tensor.name!r} has labels, so its datatype must be an integer")


def _check_profile(manifest: Manifest, profile: Profile) -> None:
    for kind, tensors, profiles in (
        ("feature", manifest.inputs, profile.features),
        ("output", manifest.outputs, profile.outputs),
    ):
        names = [name for tensor in tensors for name in columns(tensor, manifest.row_shape(tensor))]
        for name, column in profiles.items():
            if names.count(name) != 1:
                raise ValueError(f"the profile names {kind} {name!r}, which is not one column of the {kind}s")
            if isinstance(column, Numeric):
                _check_numeric(name, column)
            elif not column.categories or min(column.categories.values()) < 0:
                raise ValueError(f"the profile of {name!r} must have categories with counts of at least 0")


def _check_numeric(name: str, column: Numeric) -> None:
    if len(column.counts) != len(column.edges) + 1 or min(column.counts) < 0:
        raise ValueError(f"the profile of {name!r} must have one count more than it has edges")
    if any(low >= high for low, high in zip(column.edges, column.edges[1:], strict=False)):
        raise ValueError(f"the edges in the profile of {name!r} must rise")
    if not all(math.isfinite(value) for value in (column.min, column.max, *column.edges)):
        raise ValueError(f"the profile of {name!r} must be finite")
