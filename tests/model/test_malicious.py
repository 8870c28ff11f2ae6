"""Files that run code when they are loaded naively: each is shown to do so, and then packaged, which must not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.model.harness import Outcome, package, run_in

_NAIVE = """
import pathlib

class Payload:
    def __init__(self, name): self.name = name
    def __reduce__(self): return open, (f"{self.name}.ran", "w")

def naively(name, load):
    mark = pathlib.Path(f"{name}.ran")
    assert not mark.exists(), name
    try: load(name)
    except Exception as error: print(name, type(error).__name__)
    assert mark.exists(), f"{name} does nothing when it is loaded naively, so it proves nothing"
    mark.unlink()
"""
"""The head of both scripts."""

_TORCH_FILES = (
    _NAIVE
    + """
import io, json, pathlib, pickle, warnings, zipfile
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)
    def forward(self, x): return self.layer(x)

def rewritten(name, change):
    with zipfile.ZipFile("good.pt2") as good, zipfile.ZipFile(name, "w") as bad:
        for entry in good.namelist():
            bad.writestr(entry, change(entry, good.read(entry)))

def torch_pickle(name):
    buffer = io.BytesIO()
    torch.save((Payload(name),), buffer)
    return buffer.getvalue()

def unsafe(name): torch.load(name, weights_only=False)
def exported(name): torch.export.load(name)

torch.save(Payload("zip.pth"), "zip.pth")
torch.save(Payload("old.pth"), "old.pth", _use_new_zipfile_serialization=False)
torch.save({"layer.weight": torch.zeros(1, 3), "layer.bias": Payload("dict.pt")}, "dict.pt")
for name in ("zip.pth", "old.pth", "dict.pt"): naively(name, unsafe)

x = torch.zeros(2, 3)
torch.export.save(torch.export.export(Net(), (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)), "good.pt2")
exported("good.pt2")

def sample(entry, content): return torch_pickle("sample.pt2") if "sample_inputs" in entry else content
rewritten("sample.pt2", sample)

def weight(entry, content):
    if entry.endswith("weights_config.json"):
        config = json.loads(content)
        for each in config["config"].values(): each["use_pickle"] = True
        return json.dumps(config)
    return torch_pickle("weight.pt2") if "weights/weight_" in entry else content
rewritten("weight.pt2", weight)

def constant(entry, content):
    if entry.endswith("constants_config.json"):
        return json.dumps({"config": {"c": {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True,
                                            "tensor_meta": None}}})
    return content
rewritten("object.pt2", constant)
with zipfile.ZipFile("object.pt2", "a") as archive:
    archive.writestr("good/data/constants/opaque_obj_0", pickle.dumps(Payload("object.pt2")))

def expression(entry, content):
    code = "__import__('builtins').open('size.pt2.ran', 'w')"
    def changed(members): return members | {"expr_str": code} if "expr_str" in members else members
    return json.dumps(json.loads(content, object_hook=changed)) if "models/" in entry else content
rewritten("size.pt2", expression)
for name in ("sample.pt2", "weight.pt2", "object.pt2", "size.pt2"): naively(name, exported)

warnings.simplefilter("ignore")
torch.jit.save(torch.jit.trace(Net().eval(), x), "script.pt")
pathlib.Path("script.pth").write_bytes(pathlib.Path("script.pt").read_bytes())
"""
)

_SKLEARN_FILES = (
    _NAIVE
    + """
import pathlib, pickle
from functools import partial
import joblib, numpy as np, skops.io
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

def unpickle(name): pickle.loads(pathlib.Path(name).read_bytes())
def trusting(name):
    skops.io.load(name, trusted=skops.io.get_untrusted_types(file=name)).predict(np.zeros((2, 2)))

for name in ("pickle.skops", "pickle.pkl", "pickle.onnx", "pickle.pth", "pickle.csv"):
    pathlib.Path(name).write_bytes(pickle.dumps(Payload(name)))
    naively(name, unpickle)
for protocol in (0, 1):
    name = f"protocol{protocol}.pkl"
    pathlib.Path(name).write_bytes(pickle.dumps(Payload(name), protocol))
    naively(name, unpickle)
joblib.dump(Payload("model.joblib"), "model.joblib")
joblib.dump(Payload("zipped.joblib"), "zipped.joblib", compress=3)
for name in ("model.joblib", "zipped.joblib"): naively(name, joblib.load)

rows = np.arange(8.0).reshape(4, 2)
pipeline = make_pipeline(FunctionTransformer(), LinearRegression()).fit(rows, rows[:, 0])
pipeline.steps[0][1].func = partial(np.savetxt, "function.skops.ran")
skops.io.dump(pipeline, "function.skops")
naively("function.skops", trusting)

objects = np.empty(2, dtype=object)
objects[0] = Payload("objects.npz")
np.savez("objects.npz", input=objects)
naively("objects.npz", lambda name: np.load(name, allow_pickle=True)["input"])
np.savez("good.npz", input=np.zeros((3, 3), np.float32))
"""
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every malicious file, each of which was seen to run its payload."""
    here = tmp_path_factory.mktemp("malicious")
    run_in("torch", _TORCH_FILES, here)
    run_in("sklearn", _SKLEARN_FILES, here)
    (here / "net.py").write_text(
        "import torch\nclass Net(torch.nn.Linear):\n    def __init__(self): super().__init__(3, 1)\n"
    )
    return here


def _refused(files: Path, *arguments: str) -> Outcome:
    outcome = package(files, *arguments)
    assert outcome.status == 1
    assert not list(files.glob("*.ran")), "the payload ran"
    assert not outcome.folder.exists()
    assert any(line.startswith("error: ") for line in outcome.errors.splitlines()), outcome.errors
    return outcome


@pytest.mark.parametrize("name", ["zip.pth", "old.pth", "dict.pt"])
def test_a_pickle_in_a_pytorch_file(files: Path, name: str) -> None:
    outcome = _refused(files, name, "--class=net.py:Net", "--input=3")
    assert f"{name} is more than tensors" in outcome.errors
    assert "io.open" in outcome.errors
    assert "torch.save(network.state_dict(), 'model.pth')" in outcome.errors


@pytest.mark.parametrize(
    ("name", "reason"),
    [("weight.pt2", "pickle"), ("object.pt2", "opaque_obj_0"), ("size.pt2", "which is not arithmetic")],
)
def test_code_in_an_exported_program(files: Path, name: str, reason: str) -> None:
    outcome = _refused(files, name)
    assert f"{name} is refused, and was not loaded" in outcome.errors
    assert reason in outcome.errors


def test_sample_inputs_of_an_exported_program_are_not_even_read(files: Path, tmp_path: Path) -> None:
    (tmp_path / "sample.pt2").write_bytes((files / "sample.pt2").read_bytes())
    outcome = package(tmp_path, "sample.pt2", "--keep=pt2")
    assert outcome.description["format"] == "pt2"
    assert b"sample.pt2.ran" not in (outcome.folder / "model.pt2").read_bytes()
    assert not list(tmp_path.glob("*.ran"))


@pytest.mark.parametrize(
    "name",
    ["pickle.skops", "pickle.pkl", "pickle.onnx", "pickle.pth", "protocol0.pkl", "protocol1.pkl", "model.joblib"],
)
def test_a_pickle_under_any_name(files: Path, name: str) -> None:
    outcome = _refused(files, name)
    assert f"{name} is a pickle, which runs code" in outcome.errors
    assert "skops.io.dump" in outcome.errors


def test_a_compressed_pickle(files: Path) -> None:
    assert "zipped.joblib is compressed" in _refused(files, "zipped.joblib").errors


def test_types_that_skops_does_not_know(files: Path) -> None:
    outcome = _refused(files, "function.skops")
    assert "was not loaded: functools.partial, numpy.savetxt" in outcome.errors
    assert "--trust functools.partial,numpy.savetxt" in outcome.errors


def test_trust_in_one_type_is_not_trust_in_another(files: Path) -> None:
    assert "was not loaded: numpy.savetxt" in _refused(files, "function.skops", "--trust=functools.partial").errors


@pytest.mark.parametrize("name", ["script.pt", "script.pth"])
@pytest.mark.parametrize("more", [[], ["--trust=torchscript"], [f"--sha256={'0' * 64}", "--trust=torchscript"]])
def test_torchscript_is_loaded_only_when_it_is_trusted_and_pinned(files: Path, name: str, more: list[str]) -> None:
    errors = _refused(files, name, *more).errors
    assert "--sha256" in errors
    assert "--trust torchscript" in errors or "is not that of" in errors


@pytest.mark.parametrize("data", ["objects.npz", "pickle.csv"])
def test_a_pickle_in_the_data(files: Path, data: str) -> None:
    identity = helper.make_graph(
        [helper.make_node("Identity", ["input"], ["output"])],
        "identity",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["rows", 3])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["rows", 3])],
    )
    onnx.save(
        helper.make_model(identity, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]), files / "good.onnx"
    )
    assert data in _refused(files, "good.onnx", f"--data={data}").errors


def test_weights_in_another_file(tmp_path: Path) -> None:
    weight = onnx.numpy_helper.from_array(np.zeros((3, 1), np.float32), "weight")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "/etc/passwd"), ("length", "12")):
        entry = weight.external_data.add()
        entry.key, entry.value = key, value
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "weight"], ["output"])],
        "reader",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["rows", 3])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["rows", 1])],
        [weight],
    )
    (tmp_path / "model.onnx").write_bytes(helper.make_model(graph, ir_version=8).SerializeToString())
    outcome = _refused(tmp_path, "model.onnx")
    assert "has weights in /etc/passwd, which is not in its folder, and was not read" in outcome.errors
