"""The models that are served, made from seeded numbers: the same bytes on every machine.

Each has one FP32 input and one FP32 output with rows on axis 0, so that a row is a list of numbers to every peer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[np.float32]

TINY, HEAVY, WIDE = "tiny", "heavy", "wide"
_SEED = 6
_OPSET, _IR = 17, 8
"""Old enough for every ONNX Runtime that a peer may hold."""
_SAMPLES = 8
WIDE_VALUES = 2**18
"""1 MiB of FP32."""


@dataclass(frozen=True)
class Model:
    """A served model's folder, as our server takes it; the peers take its model.onnx."""

    name: str
    folder: Path
    rows: Array
    """Inputs to try, one a row."""

    @property
    def file(self) -> Path:
        """What everyone serves."""
        return self.folder / "model.onnx"

    @cached_property
    def expected(self) -> Array:
        """ONNX Runtime's own answers to `rows`, each computed alone."""
        session = session_of(self.file)
        return np.concatenate([session.run(None, {"input": self.rows[i : i + 1]})[0] for i in range(len(self.rows))])


def session_of(file: Path) -> Any:
    """A bare ONNX Runtime session with one thread, as every server here has."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def make(folder: Path) -> dict[str, Model]:
    """All models, each in a folder of its own below `folder`; by name."""
    return {
        name: _write(folder / name, graph)
        for name, graph in (
            (TINY, _tiny()),
            (HEAVY, _heavy()),
            (WIDE, _wide()),
        )
    }


@dataclass(frozen=True)
class _Graph:
    nodes: Sequence[onnx.NodeProto]
    weights: dict[str, npt.NDArray[Any]]
    width: int
    """Values in a row of the input."""
    answers: int
    """Values in a row of the output."""


def _tiny() -> _Graph:
    """An MLP of 3 features, 16 hidden units and 3 classes: the model costs nothing, the server everything."""
    random = np.random.default_rng(_SEED)
    weights = {
        "w0": random.normal(size=(3, 16)),
        "b0": random.normal(size=16),
        "w1": random.normal(size=(16, 3)),
        "b1": random.normal(size=3),
    }
    nodes = [
        helper.make_node("Gemm", ["input", "w0", "b0"], ["h0"]),
        helper.make_node("Relu", ["h0"], ["h1"]),
        helper.make_node("Gemm", ["h1", "w1", "b1"], ["h2"]),
        helper.make_node("Softmax", ["h2"], ["output"], axis=1),
    ]
    return _Graph(nodes, weights, width=3, answers=3)


def _heavy() -> _Graph:
    """A convolutional network on a grid of 16 x 16 values: milliseconds a row on one core, whatever the batch."""
    random = np.random.default_rng(_SEED)
    channels = [1, 64, 128, 128, 128, 128, 128]
    nodes = [helper.make_node("Reshape", ["input", "grid"], ["c0"])]
    weights: dict[str, npt.NDArray[Any]] = {"grid": np.array([-1, 1, 16, 16], dtype=np.int64)}
    for layer, (taken, given) in enumerate(pairwise(channels)):
        weights[f"w{layer}"] = random.normal(scale=(2 / (9 * taken)) ** 0.5, size=(given, taken, 3, 3))
        nodes += [
            helper.make_node("Conv", [f"c{layer}", f"w{layer}"], [f"r{layer}"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"r{layer}"], [f"c{layer + 1}"]),
        ]
    weights["w"] = random.normal(scale=0.1, size=(channels[-1], 10))
    nodes += [
        helper.make_node("ReduceMean", [f"c{len(channels) - 1}"], ["pooled"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["pooled", "w"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["output"], axis=1),
    ]
    return _Graph(nodes, weights, width=256, answers=10)


def _wide() -> _Graph:
    """The mean of 2^18 values: a row that is long to carry and quick to compute."""
    nodes = [helper.make_node("ReduceMean", ["input"], ["output"], axes=[1], keepdims=1)]
    return _Graph(nodes, {}, width=WIDE_VALUES, answers=1)


def _write(folder: Path, graph: _Graph) -> Model:
    folder.mkdir(parents=True)
    weights = [
        numpy_helper.from_array(value if value.dtype == np.int64 else value.astype(np.float32), name)
        for name, value in graph.weights.items()
    ]
    tensors = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", size])
        for name, size in (("input", graph.width), ("output", graph.answers))
    ]
    made = helper.make_model(
        helper.make_graph(graph.nodes, folder.name, tensors[:1], tensors[1:], weights),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR,
    )
    onnx.checker.check_model(made)
    # As numbers that JSON and FP32 both hold exactly, every peer is given the very same row.
    rows = np.random.default_rng(_SEED).integers(-1024, 1024, size=(_SAMPLES, graph.width)) / np.float32(256)
    model = Model(folder.name, folder, rows.astype(np.float32))
    model.file.write_bytes(made.SerializeToString())
    description = {
        "name": folder.name,
        "version": "1",
        "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, graph.width]}],
        "outputs": [{"name": "output", "datatype": "FP32", "shape": [-1, graph.answers]}],
        "example": {"input": model.rows[0].tolist()},
    }
    (folder / "model.json").write_text(json.dumps(description))
    return model
