"""Files of real PyTorch, packaged by the command and answered for by the real server."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.model.conftest import Ask
from tests.model.harness import ROOT, package, run_in

_SCRIPT = """
import json, runpy, sys, warnings
import torch
sys.argv = ["train.py", "."]
sys.path.insert(0, {example!r})
runpy.run_path({example!r} + "/train.py", run_name="__main__")
from net import Net
warnings.simplefilter("ignore")
network = Net()
network.load_state_dict(torch.load("model.pth", weights_only=True))
network.eval()
torch.save({{"epoch": 3, "model_state_dict": network.state_dict()}}, "checkpoint.pt")
torch.save(network.state_dict(), "old.pth", _use_new_zipfile_serialization=False)
torch.save(network, "whole.pth")
torch.save({{f"module.{{name}}": each for name, each in network.state_dict().items()}}, "wrapped.pth")
import safetensors.torch
safetensors.torch.save_file(network.state_dict(), "model.safetensors")
x = torch.zeros(2, 3)
rows = {{0: torch.export.Dim.DYNAMIC}}
torch.export.save(torch.export.export(network, (x,), dynamic_shapes=(rows,)), "model.pt2")
torch.jit.save(torch.jit.trace(network, x), "script.pt")
print(json.dumps(network(torch.tensor([[1.0, 2.0, 3.0]])).item()))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A folder with the example's files, and what the network itself says about [1, 2, 3]."""
    here = tmp_path_factory.mktemp("torch")
    example = str(ROOT / "examples/torch")
    printed = run_in("torch", _SCRIPT.format(example=example), here)
    shutil.copy(ROOT / "examples/torch/net.py", here)
    return here, json.loads(printed.splitlines()[-1])


def test_a_model_pth_is_served(trained: tuple[Path, float], ask: Ask) -> None:
    here, expected = trained
    made = package(
        here, "model.pth", "--class=net.py:Net", "--data=train.csv", "--target=failed", "--name=pump", to="pump"
    )

    [measurements], [output] = made.description["inputs"], made.description["outputs"]
    assert measurements == {
        "name": "measurements",
        "datatype": "FP32",
        "shape": [-1, 3],
        "features": ["vibration", "temperature", "load"],
    }
    assert output == {"name": "output", "datatype": "FP32", "shape": [-1, 1]}
    profile = made.description["profile"]
    assert (profile["rows"], list(profile["features"])) == (600, measurements["features"])
    assert sum(profile["outputs"]["output"]["counts"]) == 600
    source = made.description["source"]
    assert (source["file"], source["format"], source["compared_rows"]) == ("model.pth", "PyTorch state dict", 600)
    assert 0 < source["largest_difference"]["absolute"] < 1e-5
    assert f"largest difference {source['largest_difference']['absolute']:.2g} absolute" in made.output
    assert str(ROOT).encode() not in (made.folder / "model.onnx").read_bytes()

    answer = ask(made.folder, '{"input": [1, 2, 3]}')
    assert answer["model"] == {"name": "pump", "version": "1"}
    assert answer["prediction"] == pytest.approx(expected, abs=1e-5)


def test_an_exported_program(trained: tuple[Path, float], ask: Ask) -> None:
    here, expected = trained
    made = package(here, "model.pt2", "--data=train.csv", "--target=failed", "--outputs=risk", to="exported")
    assert made.description["outputs"][0]["name"] == "risk"
    assert "format" not in made.description
    assert ask(made.folder, '{"input": [1, 2, 3]}')["prediction"] == pytest.approx(expected, abs=1e-5)


def test_torchscript_that_is_trusted_and_pinned(trained: tuple[Path, float], ask: Ask) -> None:
    here, expected = trained
    refused = package(here, "script.pt", to="script")
    digest = refused.errors.split("--sha256 ")[1].split()[0]
    made = package(
        here, "script.pt", "--trust=torchscript", f"--sha256={digest}", "--input=3", "--batch=2", to="script"
    )
    assert (made.description["batching"], made.description["inputs"][0]["shape"]) == ("fixed", [2, 3])
    assert made.description["source"]["sha256"] == digest
    assert ask(made.folder, '{"input": [1, 2, 3]}')["prediction"] == pytest.approx(expected, abs=1e-5)


_MISTAKES = {
    "model.pth --class=net.py:Nett": ["net.py has no Nett; its networks: Net"],
    'model.pth --class=net.py:Net --args={"width":3}': [
        "cannot be made with --args {'width': 3}",
        "it is Net(hidden=16)",
    ],
    'model.pth --class=net.py:Net --args={"hidden":8}': [
        "does not fit Net",
        "layers.0.weight is [16, 3] in the file, [8, 3] in the network",
    ],
    "model.pth --class=net.py:Net --input=4": ["the network fails on torch.float32 [64, 4]", "--input "],
    "model.pth --class=net.py:Net --input=x=3": ["forward takes measurements, not x"],
    "model.pth --class=net.py:Net --outputs=a,b": ["--outputs has 2 names, the network gives 1 outputs"],
    "model.pth --class=net.py:Net --key=ema": ["--key ema: there is no ema; it has layers.0.weight"],
    "model.pth --class=broken.py:Net": [
        "broken.py cannot be imported: broken.py line 2: ModuleNotFoundError",
        "transformers",
    ],
    "whole.pth --class=net.py:Net": ["whole.pth is more than tensors", "net.Net", "It was not loaded."],
}
_IN_ONE_PROCESS = """
import json, pathlib
import torch
from tools.model.converters import state_dict, torch_network
from tools.model.errors import ModelError
from tools.model.settings import parse
def settings_of(text): return parse(text.split(), pathlib.Path.cwd())
said = {{}}
for text in {mistakes!r}:
    try: state_dict.convert(settings_of(text), None)
    except ModelError as error: said[text] = str(error)
for name in ("checkpoint.pt", "old.pth", "wrapped.pth", "model.safetensors"):
    settings, notes = settings_of(name + " --class=net.py:Net"), []
    built = torch_network.build(settings)
    state_dict.load(settings, built, state_dict.state_dict(settings, notes), notes)
    said[name] = [built.eval()(torch.tensor([[1.0, 2.0, 3.0]])).item(), notes]
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said(trained: tuple[Path, float]) -> dict[str, Any]:
    """The converter's message for each mistake, and the answers of each state dict's network."""
    here, _ = trained
    (here / "broken.py").write_text("import torch\nimport transformers\n")
    script = _IN_ONE_PROCESS.format(mistakes=list(_MISTAKES))
    return json.loads(run_in("torch", script, here).splitlines()[-1])


@pytest.mark.parametrize("text", _MISTAKES)
def test_what_is_wrong_is_said(said: dict[str, Any], text: str) -> None:
    assert all(each in said[text] for each in _MISTAKES[text]), said[text]


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("checkpoint.pt", "the state dict is the checkpoint's 'model_state_dict'"),
        ("old.pth", None),
        ("wrapped.pth", "'module.' before each name was left out"),
        ("model.safetensors", None),
    ],
)
def test_other_homes_of_a_state_dict(
    trained: tuple[Path, float], said: dict[str, Any], name: str, note: str | None
) -> None:
    answer, notes = said[name]
    assert answer == pytest.approx(trained[1], abs=1e-6)
    assert notes == ([note] if note else [])


def test_a_state_dict_without_its_class(trained: tuple[Path, float]) -> None:
    outcome = package(trained[0], "model.pth", to="nothing")
    assert outcome.status == 1
    assert "--class is missing: model.pth has tensors only" in outcome.errors
    assert not outcome.folder.exists()


_BLOCKS = """
import torch

class Scale(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)

    def forward(self, x):
        return self.layer(x)
"""
_RELATIVE = """
import torch
from .parts.blocks import Scale

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = Scale()

    def forward(self, x):
        return self.scale(x)
"""
_SAVED = """
import sys, torch
sys.path.insert(0, ".")
from {package}.net import Net
torch.manual_seed(0)
network = Net(){double}.eval()
torch.save(network.state_dict(), "model.pth")
print(network(torch.tensor([[0.1, 0.2, 0.3]], dtype=next(network.parameters()).dtype)).item())
"""


@pytest.mark.parametrize("package_files", [True, False])
@pytest.mark.parametrize("name", ["mynet", "tools"])
def test_a_class_in_a_package_with_relative_imports(tmp_path: Path, ask: Ask, name: str, package_files: bool) -> None:
    (tmp_path / name / "parts").mkdir(parents=True)
    (tmp_path / name / "parts/blocks.py").write_text(_BLOCKS)
    (tmp_path / name / "net.py").write_text(_RELATIVE)
    if package_files:
        (tmp_path / name / "__init__.py").touch()
        (tmp_path / name / "parts/__init__.py").touch()
    expected = float(run_in("torch", _script_of_a_package(name), tmp_path))
    made = package(tmp_path, "model.pth", f"--class={name}/net.py:Net", "--input=3")
    assert made.status == 0, made.errors
    assert ask(made.folder, '{"input": [0.1, 0.2, 0.3]}')["prediction"] == pytest.approx(expected, abs=1e-6)


def _script_of_a_package(name: str, double: str = "") -> str:
    script = _SAVED.format(package=name, double=double)
    return script if name != "tools" else f"import sys\nsys.modules.pop('tools', None)\n{script}"


def test_doubles_stay_doubles(tmp_path: Path, ask: Ask) -> None:
    (tmp_path / "mynet/parts").mkdir(parents=True)
    (tmp_path / "mynet/parts/blocks.py").write_text(_BLOCKS)
    (tmp_path / "mynet/net.py").write_text(_RELATIVE)
    expected = float(run_in("torch", _script_of_a_package("mynet", ".double()"), tmp_path))
    made = package(tmp_path, "model.pth", "--class=mynet/net.py:Net", "--input=3", "--tolerance=1e-12")
    assert made.description["inputs"][0]["datatype"] == "FP64"
    assert ask(made.folder, '{"input": [0.1, 0.2, 0.3]}')["prediction"] == pytest.approx(expected, abs=1e-14)


def test_a_network_that_needs_large_pictures(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\n\n\nclass Net(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.layer = torch.nn.Conv2d(3, 2, 21)\n\n    def forward(self, x):\n"
        "        return self.layer(x).mean((2, 3))\n"
    )
    run_in("torch", "import torch\nfrom net import Net\ntorch.save(Net().state_dict(), 'model.pth')", tmp_path)
    made = package(tmp_path, "model.pth", "--class=net.py:Net", "--input=3x*x*")
    assert made.description["inputs"][0]["shape"] == [-1, 3, -1, -1]
