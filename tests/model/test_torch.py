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
        here, FROM="model.pth", CLASS="net.py:Net", DATA="train.csv", TARGET="failed", NAME="pump", TO="pump"
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
    made = package(here, FROM="model.pt2", TO="exported", DATA="train.csv", TARGET="failed", OUTPUTS="risk")
    assert made.description["outputs"][0]["name"] == "risk"
    assert "format" not in made.description
    assert ask(made.folder, '{"input": [1, 2, 3]}')["prediction"] == pytest.approx(expected, abs=1e-5)


def test_torchscript_that_is_trusted_and_pinned(trained: tuple[Path, float], ask: Ask) -> None:
    here, expected = trained
    refused = package(here, FROM="script.pt", TO="script")
    digest = refused.errors.split("SHA256=")[1].split()[0]
    made = package(here, FROM="script.pt", TO="script", TRUST="torchscript", SHA256=digest, INPUT="3", BATCH="2")
    assert (made.description["batching"], made.description["inputs"][0]["shape"]) == ("fixed", [2, 3])
    assert made.description["source"]["sha256"] == digest
    assert ask(made.folder, '{"input": [1, 2, 3]}')["prediction"] == pytest.approx(expected, abs=1e-5)


_MISTAKES = {
    "CLASS=net.py:Nett": ["net.py has no Nett; its networks: Net"],
    'CLASS=net.py:Net ARGS={"width":3}': ["cannot be made with ARGS={'width': 3}", "it is Net(hidden=16)"],
    'CLASS=net.py:Net ARGS={"hidden":8}': [
        "does not fit Net",
        "layers.0.weight is [16, 3] in the file, [8, 3] in the network",
    ],
    "CLASS=net.py:Net INPUT=4": ["the network fails on torch.float32 [64, 4]", "INPUT="],
    "CLASS=net.py:Net INPUT=x=3": ["forward takes measurements, not x"],
    "CLASS=net.py:Net OUTPUTS=a,b": ["OUTPUTS has 2 names, the network gives 1 outputs"],
    "CLASS=net.py:Net KEY=ema": ["KEY=ema: there is no ema; it has layers.0.weight"],
    "CLASS=broken.py:Net": ["broken.py cannot be imported: broken.py line 2: ModuleNotFoundError", "transformers"],
    "CLASS=net.py:Net FROM=whole.pth": ["whole.pth is more than tensors", "net.Net", "It was not loaded."],
}
_IN_ONE_PROCESS = """
import json, pathlib, sys
sys.path.insert(0, {root!r})
from tools.model import from_state_dict, network
from tools.model.problem import ModelError
from tools.model.settings import parse
def chosen(text):
    given = {{"FROM": "model.pth"}} | dict(each.split("=", 1) for each in text.split())
    return parse(given, pathlib.Path.cwd())
said = {{}}
for text in {mistakes!r}:
    try: from_state_dict.convert(chosen(text), None)
    except ModelError as error: said[text] = str(error)
for name in ("checkpoint.pt", "old.pth", "wrapped.pth", "model.safetensors"):
    settings, notes = chosen("CLASS=net.py:Net FROM=" + name), []
    built = network.build(settings)
    from_state_dict.load(settings, built, from_state_dict.state_dict(settings, notes), notes)
    import torch
    said[name] = [built.eval()(torch.tensor([[1.0, 2.0, 3.0]])).item(), notes]
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said(trained: tuple[Path, float]) -> dict[str, Any]:
    """What the part that runs beside PyTorch says about each mistake, and the answers of each state dict's network."""
    here, _ = trained
    (here / "broken.py").write_text("import torch\nimport transformers\n")
    script = _IN_ONE_PROCESS.format(root=str(ROOT), mistakes=list(_MISTAKES))
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
    outcome = package(trained[0], FROM="model.pth", TO="nothing")
    assert outcome.status == 1
    assert "CLASS is missing: model.pth has tensors only" in outcome.errors
    assert not outcome.folder.exists()
