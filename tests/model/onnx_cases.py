"""Small ONNX files, each of a kind that exporters write and that packaging must find its way with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING


def value(name: str, shape: list[Any], element: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, element, shape)


def constant(name: str, array: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(array), name)


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: dict[str, Any] | None = None,
    opsets: dict[str, int] | None = None,
    ir: int = 8,
) -> onnx.ModelProto:
    """Write the model; returned for further changes, which the caller saves."""
    weights = [constant(name, array) for name, array in (constants or {}).items()]
    graph = helper.make_graph(nodes, "case", inputs, outputs, weights)
    imports = [helper.make_opsetid(domain, version) for domain, version in (opsets or {"": 17}).items()]
    model = helper.make_model(graph, opset_imports=imports, ir_version=ir)
    onnx.save(model, path)
    return model


node = helper.make_node
_TREE: dict[str, Any] = {
    "domain": "ai.onnx.ml",
    "nodes_treeids": [0, 0, 0],
    "nodes_nodeids": [0, 1, 2],
    "nodes_featureids": [1, 0, 0],
    "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
    "nodes_values": [2.0, 0.0, 0.0],
    "nodes_truenodeids": [1, 0, 0],
    "nodes_falsenodeids": [2, 0, 0],
}


def large_answer(path: Path) -> None:
    weights = {"w": np.full((1, 100_000), 0.25, np.float32)}
    save(path, [node("MatMul", ["x", "w"], ["y"])], [value("x", ["N", 1])], [value("y", ["N", 100_000])], weights)


def minus_one(path: Path) -> None:
    model = save(path, [node("Neg", ["x"], ["y"])], [value("x", ["N", 3])], [value("y", ["N", 3])])
    for each in (*model.graph.input, *model.graph.output):
        each.type.tensor_type.shape.dim[0].dim_value = -1
    onnx.save(model, path)


def large_pictures_only(path: Path) -> None:
    nodes = [node("Pad", ["x", "pads"], ["p"], mode="reflect"), node("GlobalAveragePool", ["p"], ["y"])]
    pads = {"pads": np.array([0, 0, 20, 20, 0, 0, 20, 20])}
    save(path, nodes, [value("x", ["N", 3, "H", "W"])], [value("y", ["N", 3, 1, 1])], pads)


def one_size_only(path: Path, height: int = 7, width: int = 11) -> None:
    """A free size that the graph allows to be one number, which no one would try."""
    nodes = [node("Reshape", ["x", "shape"], ["grid"]), node("ReduceMean", ["grid"], ["y"], axes=[2], keepdims=0)]
    save(path, nodes, [value("x", ["N", "L"])], [value("y", ["N", height])], {"shape": np.array([0, height, width])})


def positions(path: Path, most: int = 77) -> None:
    """Text tokens with a learned position each, as language models have: no row is longer than `most`."""
    nodes = [
        node("Shape", ["ids"], ["shape"]),
        node("Gather", ["shape", "one"], ["length"], axis=0),
        node("Range", ["zero", "length", "one"], ["places"]),
        node("Gather", ["table", "places"], ["position"], axis=0),
        node("Gather", ["words", "ids"], ["word"], axis=0),
        node("Add", ["word", "position"], ["state"]),
        node("ReduceMean", ["state"], ["y"], axes=[1], keepdims=0),
    ]
    rng = np.random.default_rng(0)
    tables = {"table": rng.random((most, 4), np.float32), "words": rng.random((10, 4), np.float32)}
    scalars = {"zero": np.int64(0), "one": np.int64(1)}
    shape = ["batch_size", "sequence_length"]
    save(path, nodes, [value("ids", shape, INT64)], [value("y", ["batch_size", 4])], tables | scalars)


def weights_beside(path: Path) -> None:
    weights = {"w": np.arange(6, dtype=np.float32).reshape(3, 2)}
    model = save(path, [node("MatMul", ["x", "w"], ["y"])], [value("x", ["N", 3])], [value("y", ["N", 2])], weights)
    onnx.save_model(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=0)


def weights_in(path: Path, location: str) -> None:
    """Weights that the file says are at this place."""
    weights_beside(path)
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    path.write_bytes(model.SerializeToString())


def declared_rank(path: Path) -> None:
    targets = {"target_treeids": [0, 0], "target_nodeids": [1, 2], "target_ids": [0, 0], "target_weights": [5.0, 7.0]}
    tree = node("TreeEnsembleRegressor", ["f"], ["y"], n_targets=1, **targets, **_TREE)
    save(path, [tree], [value("f", ["N", 2])], [value("y", ["N"])], opsets={"ai.onnx.ml": 2}, ir=3)


def dict_of_classes(path: Path) -> None:
    classes = {"class_treeids": [0, 0], "class_nodeids": [1, 2], "class_ids": [1, 1], "class_weights": [-1.0, 1.0]}
    nodes = [
        node(
            "TreeEnsembleClassifier",
            ["f"],
            ["label", "p"],
            classlabels_int64s=[0, 1],
            post_transform="LOGISTIC",
            **classes,
            **_TREE,
        ),
        node("ZipMap", ["p"], ["chances"], domain="ai.onnx.ml", classlabels_int64s=[0, 1]),
    ]
    element = helper.make_tensor_type_proto(FLOAT, [])
    kind = helper.make_sequence_type_proto(helper.make_map_type_proto(INT64, element))
    outputs = [value("label", ["N"], INT64), helper.make_value_info("chances", kind)]
    save(path, nodes, [value("f", ["N", 2])], outputs, opsets={"ai.onnx.ml": 2}, ir=3)


def recurrent(path: Path, *, named: bool = True) -> None:
    """A recurrent network as PyTorch makes it by default: time first, then the rows; its state goes in and out."""
    rng = np.random.default_rng(1)
    hidden = 4
    weights = {
        "w": rng.standard_normal((1, hidden, 3)).astype(np.float32),
        "r": rng.standard_normal((1, hidden, hidden)).astype(np.float32),
        "one": np.array([1]),
    }
    nodes = [
        node("RNN", ["x", "w", "r", "", "", "h"], ["all", "h_out"], hidden_size=hidden),
        node("Squeeze", ["all", "one"], ["y"]),
    ]
    time, rows = ("time", "batch") if named else (None, None)
    inputs = [value("x", [time, rows, 3]), value("h", [1, rows, hidden])]
    outputs = [value("y", [time, rows, hidden]), value("h_out", [1, rows, hidden])]
    save(path, nodes, inputs, outputs, weights)


def stateful(path: Path) -> None:
    """A voice detector's shape: sound, a state of two layers, and a rate that is one number for all rows."""
    nodes = [
        node("Cast", ["rate"], ["float_rate"], to=FLOAT),
        node("ReduceMean", ["sound"], ["mean"], axes=[1]),
        node("Div", ["mean", "float_rate"], ["share"]),
        node("Add", ["state", "share"], ["state_out"]),
        node("ReduceSum", ["state_out", "layers"], ["sum"], keepdims=0),
        node("ReduceSum", ["sum", "layers_of_sum"], ["y"], keepdims=1),
    ]
    inputs = [value("sound", [None, None]), value("state", [2, None, 4]), value("rate", [], INT64)]
    outputs = [value("y", [None, 1]), value("state_out", [2, None, 4])]
    save(path, nodes, inputs, outputs, {"layers": np.array([0]), "layers_of_sum": np.array([1])})


def total_of_all_rows(path: Path) -> None:
    nodes = [node("Mul", ["x", "two"], ["y"]), node("ReduceSum", ["y"], ["total"], keepdims=0)]
    outputs = [value("y", ["N", 3]), value("total", [])]
    save(path, nodes, [value("x", ["N", 3])], outputs, {"two": np.float32(2)})


def text_sequence(path: Path) -> None:
    """An answer beside one of a kind that is no tensor."""
    nodes = [node("Neg", ["x"], ["y"]), node("SplitToSequence", ["x"], ["parts"], axis=1)]
    parts = helper.make_value_info("parts", helper.make_sequence_type_proto(helper.make_tensor_type_proto(FLOAT, None)))
    save(path, nodes, [value("x", ["N", 3])], [value("y", ["N", 3]), parts])


def typed(path: Path, element: int, *, rows: Any = "N") -> None:
    save(path, [node("Identity", ["x"], ["y"])], [value("x", [rows, 2], element)], [value("y", [rows, 2], element)])


def half_precision(path: Path) -> None:
    """Layers in half precision, whose rounding differs from one number of rows to another."""
    rng = np.random.default_rng(2)
    nodes: list[onnx.NodeProto] = [node("Cast", ["x"], ["h0"], to=TensorProto.FLOAT16)]
    weights: dict[str, Any] = {}
    for layer in range(3):
        weights[f"w{layer}"] = (rng.standard_normal((64, 64)) / 8).astype(np.float16)
        nodes += [
            node("MatMul", [f"h{layer}", f"w{layer}"], [f"m{layer}"]),
            node("Relu", [f"m{layer}"], [f"h{layer + 1}"]),
        ]
    nodes.append(node("Cast", ["h3"], ["y"], to=FLOAT))
    save(path, nodes, [value("x", ["N", 64])], [value("y", ["N", 64])], weights)


def quantized_by_batch(path: Path) -> None:
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        node("MatMulInteger", ["q", "w", "zero"], ["i"]),
        node("Cast", ["i"], ["f"], to=FLOAT),
        node("Mul", ["f", "scale"], ["y"]),
    ]
    weights = {"w": np.arange(-6, 6, dtype=np.int8).reshape(4, 3)}
    save(path, nodes, [value("x", ["N", 4])], [value("y", ["N", 3])], weights)


def random(path: Path) -> None:
    nodes = [node("RandomNormalLike", ["x"], ["noise"]), node("Add", ["x", "noise"], ["y"])]
    save(path, nodes, [value("x", ["N", 3])], [value("y", ["N", 3])])


def mixes_rows(path: Path) -> None:
    nodes = [node("ReduceMean", ["x"], ["mean"], axes=[0]), node("Sub", ["x", "mean"], ["y"])]
    save(path, nodes, [value("x", ["N", 3])], [value("y", ["N", 3])])


def counts_rows(path: Path) -> None:
    """An answer divided by the number of rows."""
    nodes = [
        node("Shape", ["x"], ["shape"], end=1),
        node("Cast", ["shape"], ["rows"], to=FLOAT),
        node("Div", ["x", "rows"], ["y"]),
    ]
    save(path, nodes, [value("x", ["N", 3])], [value("y", ["N", 3])])


def no_zeros(path: Path) -> None:
    """Not finite for a row of zeros, which the example must not be."""
    save(path, [node("Reciprocal", ["x"], ["y"])], [value("x", ["N", 3])], [value("y", ["N", 3])])


def large_values(path: Path) -> None:
    """Sums of large numbers that cancel: what is left is rounding, which depends on the number of rows."""
    rng = np.random.default_rng(3)
    wide = (rng.standard_normal((512, 8)) * 1e6).astype(np.float32)
    save(path, [node("MatMul", ["x", "w"], ["y"])], [value("x", ["N", 512])], [value("y", ["N", 8])], {"w": wide})


def summed_symbol(path: Path) -> None:
    """Two lengths and their sum, as language models with a cache declare them."""
    inputs = [value("past", ["batch", "past_length"]), value("new", ["batch", "length"])]
    inputs.append(value("mask", ["batch", "past_length + length"]))
    nodes = [node("Concat", ["past", "new"], ["all"], axis=1), node("Mul", ["all", "mask"], ["y"])]
    save(path, nodes, inputs, [value("y", ["batch", "past_length + length"])])


def two_outputs(path: Path) -> None:
    nodes = [node("Neg", ["x"], ["minus"]), node("Abs", ["x"], ["size"]), node("Mul", ["scale", "two"], ["unused"])]
    inputs = [value("x", ["N", 2]), value("scale", ["N", 1])]
    outputs = [value("minus", ["N", 2]), value("size", ["N", 2]), value("unused", ["N", 1])]
    save(path, nodes, inputs, outputs, {"two": np.float32(2)})


def branches(path: Path) -> None:
    """Rows second, used inside the branches of an If."""
    shape: list[Any] = ["time", "batch"]
    then = helper.make_graph([node("Neg", ["x"], ["a"])], "then", [], [value("a", shape)])
    other = helper.make_graph([node("Identity", ["x"], ["b"])], "else", [], [value("b", shape)])
    nodes = [
        node("CumSum", ["x", "first"], ["summed"]),
        node("ReduceSum", ["summed", "first_axis"], ["sum"], keepdims=0),
        node("If", ["yes"], ["z"], then_branch=then, else_branch=other),
        node("ReduceSum", ["z", "first_axis"], ["minus"], keepdims=0),
        node("Add", ["sum", "minus"], ["y"]),
    ]
    constants = {"first": np.int64(0), "first_axis": np.array([0]), "yes": np.bool_(True)}
    save(path, nodes, [value("x", shape)], [value("y", ["batch"])], constants)
