"""Archives as torch.export.save writes them, by hand: one that is what it should be, and what an attacker makes of it.

The program is y = x @ w.T with x [s0, 2] and w [[1, 2], [3, 4]]. Every attack makes a folder: `marker`.
"""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

JSON = dict[str, Any]
ROWS = {"as_expr": {"expr_str": "Symbol('s0', positive=True, integer=True)", "hint": {"as_int": 2}}}
WEIGHT = np.array([[1, 2], [3, 4]], np.float32)
LEAF: JSON = {"type": None, "context": None, "children_spec": []}


def meta(*sizes: Any, strides: list[int]) -> JSON:
    return {
        "dtype": 7, "sizes": [{"as_int": size} if isinstance(size, int) else size for size in sizes],
        "requires_grad": False, "device": {"type": "cpu", "index": None},
        "strides": [{"as_int": stride} for stride in strides], "storage_offset": {"as_int": 0}, "layout": 7,
    }  # fmt: skip


def tensor(name: str) -> JSON:
    return {"as_tensor": {"name": name}}


def argument(name: str, value: JSON) -> JSON:
    return {"name": name, "arg": value, "kind": 1}


def node(target: str, inputs: list[JSON], outputs: list[JSON], **more: Any) -> JSON:
    return {"target": target, "inputs": inputs, "outputs": outputs, "metadata": {}, "name": None, **more}


def tree(kind: str, *children: JSON, context: str = "null") -> JSON:
    return {"type": f"builtins.{kind}", "context": context, "children_spec": list(children)}


def spec(root: JSON) -> str:
    return json.dumps([1, root])


IN_SPEC = spec(tree("tuple", tree("tuple", LEAF), tree("dict", context="[]")))


def subgraph(inputs: list[str], outputs: list[str], nodes: list[JSON], values: JSON) -> JSON:
    return {
        "inputs": [tensor(name) for name in inputs], "outputs": [tensor(name) for name in outputs],
        "nodes": nodes, "tensor_values": values, "is_single_tensor_return": False,
        "sym_int_values": {}, "sym_bool_values": {}, "sym_float_values": {}, "custom_obj_values": {},
    }  # fmt: skip


def program() -> JSON:
    given = [argument("input", tensor("x")), argument("weight", tensor("p_w"))]
    linear = node("torch.ops.aten.linear.default", given, [tensor("y")])
    values = {name: meta(rows, 2, strides=[2, 1]) for name, rows in (("p_w", 2), ("x", ROWS), ("y", ROWS))}
    input_specs = [
        {"parameter": {"arg": {"name": "p_w"}, "parameter_name": "w"}},
        {"user_input": {"arg": tensor("x")}},
    ]
    call = {"inputs": [], "outputs": [], "in_spec": IN_SPEC, "out_spec": spec(LEAF), "forward_arg_names": ["x"]}
    return {
        "graph_module": {
            "graph": subgraph(["p_w", "x"], ["y"], [linear], values),
            "signature": {"input_specs": input_specs, "output_specs": [{"user_output": {"arg": tensor("y")}}]},
            "module_call_graph": [{"fqn": "", "signature": call}],
            "metadata": {},
            "treespec_namedtuple_fields": {},
        },
        "opset_version": {"aten": 10},
        "range_constraints": {"s0": {"min_val": 0, "max_val": None}},
        "schema_version": {"major": 8, "minor": 20},
        "verifiers": ["TRAINING"],
        "torch_version": "2.15.0",
        "guards_code": [],
    }


def payload(path_name: str = "weight_0", *, pickled: bool = False, is_param: bool = True) -> JSON:
    kept = None if pickled else meta(2, 2, strides=[2, 1])
    return {"path_name": path_name, "is_param": is_param, "use_pickle": pickled, "tensor_meta": kept}


def entries(
    graph: JSON | None = None, weights: JSON | None = None, constants: JSON | None = None, **_: Any
) -> dict[str, bytes]:
    return {
        "archive_format": b"pt2",
        "archive_version": b"0",
        "byteorder": b"little",
        ".data/version": b"6\n",
        "models/model.json": json.dumps(graph or program()).encode(),
        "data/weights/model_weights_config.json": json.dumps({"config": weights or {"w": payload()}}).encode(),
        "data/weights/weight_0": WEIGHT.tobytes(),
        "data/constants/model_constants_config.json": json.dumps({"config": constants or {}}).encode(),
        "data/sample_inputs/model.pt": b"",
    }


def archive(content: dict[str, bytes], root: str = "model/", **options: Any) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **options) as new:
        for name, value in content.items():
            new.writestr(root + name, value)
    return file.getvalue()


class Payload:
    """Unpickled, it makes the folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        import os

        return os.mkdir, (self.marker,)


def pickled(marker: Path) -> bytes:
    return pickle.dumps(Payload(marker), protocol=2)


def code(marker: Path) -> str:
    """A Python expression without quotes, dots, commas and spaces, so that it fits into most places."""

    def text(value: str) -> str:
        return "+".join(f"chr({ord(character)})" for character in value)

    return f"vars(__import__({text('os')}))[{text('mkdir')}]({text(str(marker))})"


@dataclass(frozen=True)
class Attack:
    make: Callable[[Path], bytes]
    said: str
    """What the refusal says."""
    fires: bool = True
    """Whether it works on PyTorch itself; what does not (any more, or yet) is refused all the same."""


def _changed(change: Callable[[JSON, Path], object], marker: Path) -> JSON:
    graph = program()
    change(graph, marker)
    return graph


def _graph(change: Callable[[JSON, Path], object]) -> Callable[[Path], bytes]:
    return lambda marker: archive(entries(_changed(change, marker)))


def _added(name: str, **changed: Any) -> Callable[[Path], bytes]:
    return lambda marker: archive(entries(**changed) | {name: pickled(marker)})


def _call(target: str, *given: tuple[str, Callable[[str], JSON]]) -> Callable[[Path], bytes]:
    """y is what `target` gives for what is made of the marker's path."""

    def change(graph: JSON, marker: Path) -> None:
        inputs = [argument(name, value(str(marker))) for name, value in given]
        graph["graph_module"]["graph"]["nodes"][0] = node(target, inputs, [tensor("y")])

    return _graph(change)


def _text(path: str) -> JSON:
    return {"as_string": path}


def _input(graph: JSON, marker: Path) -> None:
    """One input more, whose name is an argument's with a default value."""
    module, name = graph["graph_module"], f"z={code(marker)}"
    module["graph"]["inputs"].append(tensor(name))
    module["graph"]["tensor_values"][name] = meta(2, strides=[1])
    module["signature"]["input_specs"].append({"user_input": {"arg": tensor(name)}})


def _size(graph: JSON, marker: Path) -> None:
    for name in ("x", "y"):
        size = {"as_expr": {"expr_str": code(marker), "hint": None}}
        graph["graph_module"]["graph"]["tensor_values"][name]["sizes"][0] = size


def _guards(graph: JSON, marker: Path) -> None:
    graph["guards_code"] = [f"{code(marker)}==None"]


def _signature(**members: Callable[[Path], Any]) -> Callable[[Path], bytes]:
    def change(graph: JSON, marker: Path) -> None:
        signature = graph["graph_module"]["module_call_graph"][0]["signature"]
        for name, value in members.items():
            signature[name] = value(marker)

    return _graph(change)


def _parameter(marker: Path) -> bytes:
    path = f'"+{code(marker)})#'
    graph = program()
    graph["graph_module"]["signature"]["input_specs"][0]["parameter"]["parameter_name"] = path
    return archive(entries(graph, weights={path: payload()}))


def _second_program(marker: Path) -> bytes:
    second = {name.replace("model", "m").replace("ms/", "models/"): value for name, value in entries().items()}
    return archive(entries() | second | {"data/sample_inputs/m.pt": pickled(marker)})


def _submodule(
    name: Callable[[Path], str], argument_name: Callable[[Path], str] = lambda _: ""
) -> Callable[[Path], bytes]:
    """y is what torch.ops.higher_order.wrap_with_set_grad_enabled gives for a graph that has a name."""

    def change(graph: JSON, marker: Path) -> None:
        inner = graph["graph_module"]["graph"]
        relu = node("torch.ops.aten.relu.default", [argument("self", tensor("a"))], [tensor("b")])
        values = {each: meta(ROWS, 2, strides=[2, 1]) for each in ("a", "b")}
        inside = subgraph(["a"], ["b"], [relu], values)
        given = {"name": argument_name(marker), "arg": tensor("x"), "kind": 2 if argument_name(marker) else 1}
        inner["nodes"][0] = node(
            "torch.ops.higher_order.wrap_with_set_grad_enabled",
            [
                argument("", {"as_bool": False}),
                argument("", {"as_graph": {"name": name(marker), "graph": inside}}),
                given,
            ],
            [tensor("y")],
            is_hop_single_tensor_return=False,
        )

    return _graph(change)


def _old_layout(marker: Path) -> bytes:
    content = {
        "version": b"8.20",
        "serialized_exported_program.json": json.dumps(program()).encode(),
        "serialized_state_dict.pt": pickled(marker),
        "serialized_constants.pt": b"",
        "serialized_example_inputs.pt": b"",
    }
    return archive(content, root="")


def _imports(kind: str) -> Callable[[Path], str]:
    """A tree spec that names a module to import: one beside the marker, which PyTorch finds when it is on the path."""

    def make(marker: Path) -> str:
        if kind == "enum":
            context = json.dumps({"__enum__": True, "fqn": f"{marker.name}_module:x", "name": "x"})
            return spec({"type": "builtins.dict", "context": context, "children_spec": []})
        context = {"default_factory_module": f"{marker.name}_module", "default_factory_name": "x", "dict_context": []}
        return spec({"type": "collections.defaultdict", "context": context, "children_spec": []})

    return make


_SAMPLE = archive({"data.pkl": pickle.dumps(((1.0,), {}), protocol=2), "version": b"3\n", "byteorder": b"little"})
"""Sample inputs as torch.save keeps them: PyTorch turns guards into code only where there are some."""

ATTACKS: dict[str, Attack] = {
    "a pickled weight": Attack(_added("data/weights/weight_0", weights={"w": payload(pickled=True)}), "as a pickle"),
    "a pickled constant": Attack(
        _added("data/constants/tensor_0", constants={"c": payload("tensor_0", pickled=True)}), "as a pickle"
    ),
    "a pickled object": Attack(
        _added("data/constants/opaque_obj_0", constants={"c": payload("opaque_obj_0", pickled=True)}),
        "'data/constants/opaque_obj_0', which is no part",
    ),
    "a TorchScript object": Attack(
        _added("data/constants/custom_obj_0", constants={"c": payload("custom_obj_0", pickled=True)}),
        "'data/constants/custom_obj_0', which is no part",
        fires=False,  # an unpickler of its own, which knows TorchScript's classes only
    ),
    "weights in an older file": Attack(_added("data/weights/model.pt"), "'data/weights/model.pt', which is no part"),
    "constants in an older file": Attack(_added("data/constants/model.pt"), "'data/constants/model.pt', which"),
    "the layout before 2.8": Attack(_old_layout, "was not written by torch.export.save of PyTorch 2.8 or newer"),
    "a second program": Attack(_second_program, "which is no part"),
    "a compiled library": Attack(
        _added("data/aotinductor/model/model.wrapper.so"),
        "'data/aotinductor/model/model.wrapper.so', which",
        fires=False,  # it does with a library, whose initializers run; that takes a compiler
    ),
    "a call": Attack(
        _call("torch.os.mkdir", ("", _text)),
        "calls 'torch.os.mkdir', which is not one of PyTorch's own",
        fires=False,  # PyTorch's verifier refuses it as well
    ),
    "a call handed to an operator": Attack(
        _call(
            "torch.ops.higher_order.wrap",
            ("", lambda _: {"as_operator": "torch.serialization.io.FileIO"}),
            ("", _text),
            ("", lambda _: _text("w")),
        ),
        "calls 'torch.ops.higher_order.wrap'",
        fires=False,  # by luck: the code that PyTorch writes for it is no Python
    ),
    "a file to be made": Attack(
        _call(
            "torch.ops.aten.from_file.default",
            ("filename", _text),
            ("shared", lambda _: {"as_bool": True}),
            ("size", lambda _: {"as_int": 4}),
        ),
        "gives the text '.*' to an operator as its 'filename'",
    ),
    "a file's name where a number should be": Attack(
        _call(
            "torch.ops.aten.from_file.default",
            ("filename", lambda path: {"as_int": path}),
            ("shared", lambda _: {"as_bool": True}),
            ("size", lambda _: {"as_int": 4}),
        ),
        "Expected `int`, got `str`",
    ),
    "a size": Attack(_graph(_size), "holds the size 'vars.*', which is not arithmetic on sizes"),
    "an input's name": Attack(_graph(_input), "names something 'z=vars.*', which is no name"),
    "a parameter's path": Attack(_parameter, "has a tensor '\"\\+vars.*', which is no path"),
    "an argument's name": Attack(
        _signature(forward_arg_names=lambda marker: [f"x={code(marker)}):\n    z='''#"]), "names something 'x=vars.*'"
    ),
    "a keyword's name": Attack(
        _signature(
            in_spec=lambda marker: spec(
                tree("tuple", tree("tuple", LEAF), tree("dict", LEAF, context=json.dumps([f"k={code(marker)}"])))
            ),
            forward_arg_names=lambda _: None,
        ),
        "takes its inputs by keyword",
        fires=False,  # not with one call that does not know the keyword
    ),
    "a submodule's name": Attack(
        _submodule(lambda marker: f'"+{code(marker)})#'), "names something '\"\\+vars.*', which is no name"
    ),
    "an operator's keyword": Attack(
        _submodule(lambda _: "inner", lambda marker: f"k={code(marker)},l"), "names something 'k=vars.*'"
    ),
    "a module to import": Attack(_signature(out_spec=_imports("enum")), "Expected `str` matching"),
    "a factory to import": Attack(_signature(out_spec=_imports("factory")), "Invalid enum value|Expected `str"),
}
HARMLESS: dict[str, Attack] = {
    "sample inputs": Attack(_added("data/sample_inputs/model.pt"), ""),
    "guards": Attack(
        lambda marker: archive(entries(_changed(_guards, marker)) | {"data/sample_inputs/model.pt": _SAMPLE}), ""
    ),
}
"""Attacks on what is left out: the model runs, and they do not."""
