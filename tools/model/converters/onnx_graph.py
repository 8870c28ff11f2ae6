"""An ONNX file's graph: read with its weights, repaired where exporters err, and rewritten at its edges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeAlias

from server.model.onnx_file import has_external_data
from tools.model.batching import Batching
from tools.model.errors import ModelError, explained

onnx: Any = import_module("onnx")

MAX_MODEL_BYTES = 2**31 - 1
"""A protobuf message can be no larger."""
OWN_RUNTIME = (
    "put the files into a folder with a predictor.py that runs them by onnxruntime, and a requirements.txt:"
    " make model FROM=that-folder"
)
DEFAULT_DOMAINS = ("", "ai.onnx")

Sizes: TypeAlias = tuple["int | str", ...]
"""A shape: numbers, and symbols for what is free; a size without a name has a symbol of its own."""


def parse(name: str, content: bytes) -> Any:
    """Read the model; ModelError when it is none."""
    with explained(f"{name} is not an ONNX model"):
        return onnx.load_model_from_string(content)


def read(path: Path, notes: list[str]) -> Any:
    """Read the model with the weights that lie in files beside it."""
    if path.stat().st_size > MAX_MODEL_BYTES:
        raise ModelError(_too_large(path, path.stat().st_size))
    content = path.read_bytes()
    model = parse(path.name, content)
    if has_external_data(content):
        files = _external_files(path, model)
        size = len(content) + sum(file.stat().st_size for file in files)
        if size > MAX_MODEL_BYTES:
            raise ModelError(_too_large(path, size))
        with explained(f"the weights of {path.name} cannot be read from {', '.join(file.name for file in files)}"):
            onnx.external_data_helper.load_external_data_for_model(model, str(path.parent))
        notes.append(f"the weights in {', '.join(file.name for file in files)} are now in model.onnx")
    return model


def _too_large(path: Path, size: int) -> str:
    return (
        f"{path.name} has {size:,} bytes with its weights; a single ONNX file, which the server loads, ends at"
        f" {MAX_MODEL_BYTES:,}.\n  Quantize it (onnxruntime.quantization), or {OWN_RUNTIME}"
    )


def _external_files(path: Path, model: Any) -> list[Path]:
    """List the files with weights; ModelError when one is not a plain file in the model's folder."""
    folder = path.parent.resolve()
    files: dict[str, Path] = {}
    for tensor in _tensors(model):
        for entry in tensor.external_data:
            if entry.key == "location":
                files[entry.value] = path.parent / entry.value
    for location, file in files.items():
        inside = not (PurePosixPath(location).is_absolute() or PureWindowsPath(location).anchor)
        if not (inside and ".." not in Path(location).parts and file.resolve().is_relative_to(folder)):
            raise ModelError(
                f"{path.name} has weights in {location}, which is not in its folder, and was not read: the model could"
                " name any file of this machine.\n"
                "  If they are yours: onnx.save(onnx.load('model.onnx'), 'one.onnx') writes a single file"
            )
        if not file.is_file():
            raise ModelError(
                f"{path.name} has weights in {location}, and there is no such file beside it: copy it to {file}"
            )
    return list(files.values())


def _tensors(message: Any) -> Iterator[Any]:
    """Find each tensor of the model, wherever it is."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for child in value if field.is_repeated else [value]:
            if field.message_type.name == "TensorProto":
                yield child
            else:
                yield from _tensors(child)


def repair(model: Any) -> None:
    """Mend what exporters get wrong: sizes below one, which stand for free ones; a domain that is not imported."""
    del model.graph.value_info[:]  # hints, which must not contradict what is mended here
    for value in (*model.graph.input, *model.graph.output):
        if value.type.HasField("tensor_type"):
            for dimension in value.type.tensor_type.shape.dim:
                if dimension.HasField("dim_value") and dimension.dim_value < 1:
                    dimension.ClearField("dim_value")
    imported = {opset.domain for opset in model.opset_import}
    if not imported.intersection(DEFAULT_DOMAINS):
        released = [row[2] for row in onnx.helper.VERSION_TABLE if row[1] <= max(model.ir_version, 3)]
        model.opset_import.append(onnx.helper.make_opsetid("", max(released)))


def remove_zipmaps(model: Any) -> dict[str, list[str]]:
    """Take out each ZipMap, which makes a dict of a row's probabilities; return the classes' names by output."""
    labels: dict[str, list[str]] = {}
    for node in [node for node in model.graph.node if node.op_type == "ZipMap"]:
        values = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        classes: list[Any] = values.get("classlabels_strings") or values.get("classlabels_int64s") or []
        names = [each.decode() if isinstance(each, bytes) else str(each) for each in classes]
        for output in model.graph.output:
            if output.name == node.output[0]:
                labels[output.name] = names
                shape = [None, len(names)]
                output.CopyFrom(onnx.helper.make_tensor_value_info(output.name, onnx.TensorProto.FLOAT, shape))
        node.CopyFrom(onnx.helper.make_node("Identity", [node.input[0]], [node.output[0]]))
    return labels


def share_row_symbol(model: Any) -> None:
    """Give the outputs the inputs' symbol for rows, where a converter has declared one row."""
    rows = {sizes(value)[:1] for value in inputs(model)}
    if rows and all(size and not isinstance(size[0], int) for size in rows):
        symbol = next((size[0] for size in rows if size[0]), "rows")
        for value in model.graph.output:
            dimensions = value.type.tensor_type.shape.dim
            if len(dimensions) and dimensions[0].HasField("dim_value"):
                dimensions[0].dim_param = symbol


def inputs(model: Any) -> list[Any]:
    """The inputs without the initializers, which old files list among them."""
    initializers = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in initializers]


def sizes(value: Any) -> Sizes:
    """A tensor's declared shape."""
    return tuple(
        dimension.dim_value if dimension.HasField("dim_value") else dimension.dim_param or f"{value.name}[{axis}]"
        for axis, dimension in enumerate(value.type.tensor_type.shape.dim)
    )


def kind(value: Any) -> str:
    """A value's type, for messages: tensor, sequence, map, optional."""
    return str(value.type.WhichOneof("value") or "unknown").removesuffix("_type")


def choose_outputs(model: Any, wanted: Sequence[str], labels: dict[str, list[str]]) -> None:
    """Keep the outputs that --outputs names, in its order, or give all of them these names."""
    found = {output.name: output for output in model.graph.output}
    if not wanted:
        strange = [name for name, output in found.items() if kind(output) != "tensor"]
        plain = [name for name in found if name not in strange]
        if strange:
            way = (
                f"--outputs {','.join(plain)} leaves {'it' if len(strange) == 1 else 'them'} out"
                if plain
                else OWN_RUNTIME
            )
            kinds = ", ".join(f"{name} (a {kind(found[name])})" for name in strange)
            raise ModelError(f"the server answers with tensors only, and the model also gives {kinds}.\n  {way}")
        return
    if not set(wanted) <= set(found):
        if len(wanted) != len(found):
            raise ModelError(
                f"--outputs {','.join(wanted)}: the model gives {', '.join(found)}; name some of them, or all anew"
            )
        for old, new in zip(list(found), wanted, strict=True):
            _rename(model.graph, old, f"{old}.named")
            model.graph.node.append(onnx.helper.make_node("Identity", [f"{old}.named"], [new]))
            found[old].name = new
            if old in labels:
                labels[new] = labels.pop(old)
        return
    outputs = [onnx.ValueInfoProto.FromString(found[name].SerializeToString()) for name in wanted]
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    for name in set(labels) - set(wanted):
        del labels[name]
    _remove_unused(model.graph)


def _remove_unused(graph: Any) -> None:
    """Remove what no output needs: nodes, weights, and inputs."""
    needed = {output.name for output in graph.output}
    kept: list[Any] = []
    for node in reversed(list(graph.node)):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input, _captured(node))
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(kept)]
    del graph.node[:]
    graph.node.extend(nodes)
    for members in (graph.initializer, graph.input, graph.value_info):
        for member in [each for each in members if each.name not in needed]:
            members.remove(member)


def _captured(node: Any) -> set[str]:
    """The names that a node's own graphs, the branches of If and the bodies of loops, use."""
    names: set[str] = set()
    for graph in _subgraphs(node):
        names.update(output.name for output in graph.output)
        for inner in graph.node:
            names.update(inner.input, _captured(inner))
    return names


def _subgraphs(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _rename(graph: Any, old: str, new: str) -> None:
    """Rename a value wherever it is made or used, but not among the graph's own inputs and outputs."""
    for node in graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == old:
                    names[index] = new
        for inner in _subgraphs(node):
            _rename(inner, old, new)
            for output in inner.output:
                if output.name == old:
                    output.name = new


def put_rows_first(model: Any, axes: Mapping[str, int | None], row_ranks: Mapping[str, int]) -> None:
    """Have each input and output start with the rows, which are at `axes` now (None: nowhere, a run has one row)."""
    graph = model.graph
    for value in inputs(model):
        axis = axes[value.name]
        if axis != 0:
            inner = f"{value.name}.rows"
            _rename(graph, value.name, inner)
            graph.node.insert(0, _moved(model, value.name, inner, axis, row_ranks[value.name], to_front=False))
    for value in graph.output:
        axis = axes[value.name]
        if axis != 0:
            inner = f"{value.name}.rows"
            _rename(graph, value.name, inner)
            graph.node.append(_moved(model, inner, value.name, axis, row_ranks[value.name], to_front=True))


def declare(model: Any, batching: Batching, row_shapes: Mapping[str, Sequence[int]]) -> None:
    """Declare the inputs and outputs as they are: exporters declare ranks and sizes that the answers do not have."""
    for value in (*inputs(model), *model.graph.output):
        shape = batching.shape(tuple(row_shapes[value.name]))
        named: list[int | str] = [f"{value.name}_{axis}" if size == -1 else size for axis, size in enumerate(shape)]
        if batching.mode == "dynamic":
            named[0] = "rows"
        element = value.type.tensor_type.elem_type
        value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, element, named))


def _moved(model: Any, before: str, after: str, axis: int | None, rank: int, *, to_front: bool) -> Any:
    """Make the node that moves the rows' axis; `rank` is a row's."""
    if axis is None:
        operator = "Unsqueeze" if to_front else "Squeeze"
        version = next(opset.version for opset in model.opset_import if opset.domain in DEFAULT_DOMAINS)
        if version < 13:
            return onnx.helper.make_node(operator, [before], [after], axes=[0])
        name = f"{after}.axes"
        model.graph.initializer.append(onnx.helper.make_tensor(name, onnx.TensorProto.INT64, [1], [0]))
        return onnx.helper.make_node(operator, [before, name], [after])
    if to_front:
        order = [axis, *(other for other in range(rank + 1) if other != axis)]
    else:
        order = [*range(1, axis + 1), 0, *range(axis + 1, rank + 1)]
    return onnx.helper.make_node("Transpose", [before], [after], perm=order)
