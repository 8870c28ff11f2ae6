"""What the tests have PyTorch do, by the Python of an environment that has it; the last line is JSON.

`attack <folder>...`: what the models in each folder's folders naive and ours say to ones of [2, 2], or the error.
`export <folder>`: real models, each exported into a folder of its own and run by PyTorch and by the server.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]  # the interpreter that runs this script has it
from torch import nn  # pyright: ignore[reportMissingImports]
from torch.export import Dim  # pyright: ignore[reportMissingImports]


def naive(folder: Path) -> str:
    """As PyTorch's documentation has it."""
    module = torch.export.load(folder / "model.pt2").module()
    return str(module(torch.ones(2, 2)).tolist())


def ours(folder: Path) -> str:
    from server.model.loaded_model import load_model
    from server.predictor import warm_up

    model = load_model(folder)
    warm_up(model)
    return str(model.run({"x": np.ones((2, 2), dtype=np.float32)})["y"].tolist())


def attacked(folders: list[str]) -> dict[str, list[str]]:
    """What `naive` and `ours` say to the model in each folder's folder of that name: each in a process of its own.

    The first model is loaded here, so that the others need not load PyTorch's parts.
    """
    torch.set_num_threads(1)  # more would not outlive the fork
    naive(Path(folders[0], "naive"))
    return {folder: [alone(how, Path(folder, how.__name__)) for how in (naive, ours)] for folder in folders}


def alone(how: Callable[[Path], str], folder: Path) -> str:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        sys.path.insert(0, str(folder))
        with os.fdopen(writing, "w") as pipe:
            try:
                pipe.write(how(folder))
            except BaseException as error:
                pipe.write(f"{type(error).__name__}: {error}")
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


class Tabular(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.GELU("tanh"), nn.Dropout(), nn.Linear(8, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x).softmax(-1) + torch.tensor([0.0, 1.0])


class Text(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encode = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.decode = nn.Linear(8, 50, bias=False)
        self.decode.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.decode(self.encode(self.embed(ids)).mean(1))


class Picture(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3, padding="same"), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1))

    def forward(self, picture: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
        found = self.layers(picture).flatten(1) * scale[:, None]
        return {"values": found, "best": found.argmax(1)}


class Branch(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.cond(x.sum() > 0, lambda x: x.sin(), lambda x: x.cos(), (x,))
        return y, torch.div(x, 3, rounding_mode="floor").to(torch.int32)


ROWS = Dim("rows")
MODELS: dict[str, tuple[nn.Module, dict[str, torch.Tensor], dict[str, Any], list[str]]] = {
    "tabular": (Tabular(), {"x": torch.randn(4, 3)}, {"x": {0: ROWS}}, ["y"]),
    "text": (Text(), {"ids": torch.randint(0, 50, (4, 7))}, {"ids": {0: ROWS, 1: Dim("words", max=64)}}, ["y"]),
    "picture": (
        Picture(), {"picture": torch.rand(4, 3, 8, 8), "scale": torch.rand(4)},
        {"picture": {0: ROWS}, "scale": {0: ROWS}}, ["values", "best"],
    ),
    "branch": (Branch(), {"x": torch.randn(4, 3)}, {"x": {0: ROWS}}, ["y", "z"]),
}  # fmt: skip
DATATYPES = {"float32": "FP32", "int64": "INT64", "int32": "INT32"}


def described(tensors: dict[str, torch.Tensor], varies: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "datatype": DATATYPES[str(tensor.dtype).removeprefix("torch.")],
            "shape": [-1 if axis in varies.get(name, {0}) else size for axis, size in enumerate(tensor.shape)],
        }
        for name, tensor in tensors.items()
    ]


def export(folder: Path) -> dict[str, float]:
    """The largest difference between PyTorch and the server, by model; samples lie in each folder's expected.json."""
    from server.model.loaded_model import load_model

    torch.manual_seed(1)
    differences: dict[str, float] = {}
    for kind, (module, inputs, varies, names) in MODELS.items():
        target = folder / kind
        target.mkdir()
        with torch.inference_mode():
            given = module.eval()(*inputs.values())
        answers = dict(
            zip(
                names,
                given.values() if isinstance(given, dict) else given if isinstance(given, tuple) else [given],
                strict=True,
            )
        )
        exported = torch.export.export(module, tuple(inputs.values()), dynamic_shapes=tuple(varies.values()))
        torch.export.save(exported, target / "model.pt2")
        plain = {name: tensor.tolist() for name, tensor in inputs.items()}
        manifest = {
            "name": kind, "version": "1", "format": "pt2",
            "inputs": described(inputs, varies), "outputs": described(answers, {}),
            "example": {"inputs": {name: rows[0] for name, rows in plain.items()}},
        }  # fmt: skip
        (target / "model.json").write_text(json.dumps(manifest))
        (target / "expected.json").write_text(
            json.dumps([plain, {name: rows.tolist() for name, rows in answers.items()}])
        )
        found = load_model(target).run({name: tensor.numpy() for name, tensor in inputs.items()})
        differences[kind] = max(float(np.abs(found[name] - rows.numpy()).max()) for name, rows in answers.items())
    return differences


if __name__ == "__main__":
    what, *folders = sys.argv[1:]
    print(json.dumps(attacked(folders) if what == "attack" else export(Path(folders[0]))))
