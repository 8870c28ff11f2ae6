"""What of a .pt2 file reaches PyTorch, without PyTorch: archives made by hand."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from server.model.pt2_file import read_archive
from tests.app import pt2_archives
from tests.app.pt2_archives import ATTACKS, HARMLESS, JSON, archive, argument, entries, program, tensor


def read(path: Path, content: bytes) -> dict[str, bytes]:
    (path / "model.pt2").write_bytes(content)
    with zipfile.ZipFile(io.BytesIO(read_archive(path / "model.pt2"))) as new:
        return {name.removeprefix("model/"): new.read(name) for name in new.namelist()}


def test_the_program_and_its_tensors_come_through(tmp_path: Path) -> None:
    graph = program()
    found = read(tmp_path, archive(entries(graph), root="another name/"))

    written = json.loads(found["models/model.json"])
    assert written["graph_module"]["graph"]["tensor_values"] == graph["graph_module"]["graph"]["tensor_values"]
    assert written["graph_module"]["signature"] == graph["graph_module"]["signature"]
    assert found["data/weights/weight_0"] == pt2_archives.WEIGHT.tobytes()
    assert set(found) == set(entries())
    assert read(tmp_path, archive(found)) == found


def test_what_pytorch_needs_not_know_stays_behind(tmp_path: Path) -> None:
    graph = program()
    graph["guards_code"] = ["True"]
    graph["graph_module"]["metadata"] = {"custom": "{}"}
    graph["graph_module"]["module_call_graph"].append({"fqn": "inner", "signature": None})
    graph["graph_module"]["graph"]["nodes"][0]["metadata"] = {"stack_trace": "a", "source_fn_stack": "b"}
    more = {"extra/labels.txt": b"a", "data/sample_inputs/model.pt": b"a pickle", ".data/serialization_id": b"1"}

    found = read(tmp_path, archive(entries(graph) | more))

    assert found == read(tmp_path, archive(entries()))
    assert found["data/sample_inputs/model.pt"] == b""


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_an_attack_is_refused(tmp_path: Path, attack: pt2_archives.Attack) -> None:
    with pytest.raises(ValueError, match=attack.said):
        read(tmp_path, attack.make(tmp_path / "marker"))
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("attack", HARMLESS.values(), ids=HARMLESS)
def test_an_attack_on_what_stays_behind_changes_nothing(tmp_path: Path, attack: pt2_archives.Attack) -> None:
    assert read(tmp_path, attack.make(tmp_path / "marker")) == read(tmp_path, archive(entries()))


def test_a_reader_of_its_own_is_no_way_around(tmp_path: Path) -> None:
    """Another archive before this one: some readers of zip files find the one, some the other."""
    hidden = ATTACKS["a pickled weight"].make(tmp_path / "marker")
    assert read(tmp_path, hidden + archive(entries())) == read(tmp_path, archive(entries()))


BROKEN: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "zip file"),
    "no zip": (b"PK\x03\x04 something", "zip file"),
    "an empty zip": (archive({}), "no models/model.json"),
    "cut short": (archive(entries())[:-30], "zip file"),
    "a changed byte": (archive(entries()).replace(pt2_archives.WEIGHT.tobytes(), b"\0" * 16), "zip file"),
    "compressed": (archive(entries() | {"extra/a": b"0" * 10_000}, compression=zipfile.ZIP_DEFLATED), "compressed"),
    "a newer version": (archive(entries() | {"archive_version": b"1"}), "another archive_version than 0"),
    "big-endian": (archive(entries() | {"byteorder": b"big"}), "another byteorder than little"),
    "no weights": (archive(entries(weights={"w": pt2_archives.payload("weight_1")})), "no data/weights/weight_1"),
    "a weight from elsewhere": (archive(entries(weights={"w": pt2_archives.payload("../../x")})), "as a pickle"),
    "no json": (archive(entries() | {"models/model.json": b"\xff"}), "not a plain exported program"),
    "deep json": (archive(entries() | {"models/model.json": b"[" * 100_000}), "not a plain exported program"),
}


@pytest.mark.parametrize(("content", "said"), BROKEN.values(), ids=BROKEN)
def test_what_is_broken_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read(tmp_path, content)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_entry_twice_is_refused(tmp_path: Path) -> None:
    file = io.BytesIO(archive(entries()))
    with zipfile.ZipFile(file, "a") as more:
        more.writestr("model/models/model.json", b"{}")
    with pytest.raises(ValueError, match="holds an entry twice"):
        read(tmp_path, file.getvalue())


def _training(graph: JSON) -> None:
    graph["graph_module"]["signature"]["output_specs"].insert(
        0, {"buffer_mutation": {"arg": {"name": "y"}, "buffer_name": "seen"}}
    )


def _on_a_gpu(graph: JSON) -> None:
    graph["graph_module"]["graph"]["tensor_values"]["x"]["device"]["type"] = "cuda"


def _mode(name: str, text: str) -> Callable[[JSON], None]:
    def change(graph: JSON) -> None:
        graph["graph_module"]["graph"]["nodes"][0]["inputs"].append(argument(name, {"as_string": text}))

    return change


def _member(name: str, value: Any) -> Callable[[JSON], None]:
    def change(graph: JSON) -> None:
        graph["graph_module"]["graph"]["nodes"][0][name] = value

    return change


UNFIT: dict[str, tuple[Callable[[JSON], None], str]] = {
    "a model in training": (_training, r"changes its buffer 'seen' .* call the model's .eval\(\)"),
    "a model on a GPU": (_on_a_gpu, "Invalid enum value 'cuda'"),
    "an object as input": (
        lambda graph: graph["graph_module"]["graph"]["inputs"].append({"as_custom_obj": {"name": "a"}}),
        "unknown field `as_custom_obj`",
    ),
    "a text as a file's name": (_mode("filename", "/etc/passwd"), "gives the text '/etc/passwd' to an operator"),
    "an operator of a library": (_member("target", "torch.ops.mylib.op.default"), "calls 'torch.ops.mylib.op.default'"),
    "an operator's attribute": (
        _member("target", "torch.ops.aten.add.__init__"),
        "calls 'torch.ops.aten.add.__init__'",
    ),
    "what stands behind an operator": (_member("target", "torch.ops.aten.from_file.op"), "calls 'torch.ops.aten.from_"),
    "a text without a name": (_mode("", "/etc/passwd"), "gives the text '/etc/passwd' to an operator"),
    "the namespace's attribute": (_member("target", "torch.ops.aten.__dict__.pop"), "calls"),
    "the namespace's name": (_member("target", "torch.ops.aten.name.format"), "calls"),
    "a line after the operator": (_member("target", "torch.ops.aten.add.Tensor\n"), "calls"),
    "a line after the name": (_member("outputs", [tensor("y\n")]), r"names something 'y\\n'"),
    "a number as name": (_member("outputs", [tensor(1)]), "names something 1"),  # pyright: ignore[reportArgumentType]
}


@pytest.mark.parametrize(("change", "said"), UNFIT.values(), ids=UNFIT)
def test_what_does_not_fit_is_refused(tmp_path: Path, change: Callable[[JSON], None], said: str) -> None:
    graph = program()
    change(graph)
    with pytest.raises(ValueError, match=said):
        read(tmp_path, archive(entries(graph)))


@pytest.mark.parametrize(
    "target",
    [
        "torch.ops.aten._softmax.default",
        "torch.ops.aten.__and__.Tensor",
        "torch.ops.higher_order.cond",
        "_operator.mul",
    ],
)
def test_operators_pass(tmp_path: Path, target: str) -> None:
    graph = program()
    _member("target", target)(graph)
    _mode("mode", "reflect")(graph)
    assert target.encode() in read(tmp_path, archive(entries(graph)))["models/model.json"]


@pytest.mark.parametrize(
    "size",
    [
        "Mul(Integer(16), Symbol('s27', positive=True, integer=True))",
        "FloorDiv(Add(Symbol('s0', integer=True), Integer(-1)), Integer(2))",
        "StrictLessThan(Symbol('u0', integer=True), Integer(4))",
        "Float('0.5', precision=53)",
        "true",
    ],
)
def test_sizes_pass(tmp_path: Path, size: str) -> None:
    graph = program()
    graph["graph_module"]["graph"]["sym_int_values"] = {"a": {"as_expr": {"expr_str": size, "hint": None}}}
    assert size.encode() in read(tmp_path, archive(entries(graph)))["models/model.json"]
