"""Train a small PyTorch network and save it as most people do: `model.pth`, the state dict.

    python examples/torch/train.py [folder]

writes `model.pth` and the training data, `train.csv`, into the folder (default: the current one). It needs PyTorch and
nothing else.
The data are made up: a pump fails when it is shaken while it is hot, or runs above what it was built for.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import torch
from net import Net

FEATURES = ("vibration", "temperature", "load")
ROWS = 600
EPOCHS = 80
SEED = 7


def data() -> tuple[torch.Tensor, torch.Tensor]:
    """Measurements, a row each, and whether the pump failed."""
    generator = torch.Generator().manual_seed(SEED)
    measurements = torch.rand(ROWS, 3, generator=generator) * torch.tensor([4.0, 6.0, 5.0])
    vibration, temperature, load = measurements.T
    risk = torch.sigmoid(vibration * temperature / 3 - 6 + 2 * (load - 3.5).clamp(min=0))
    return measurements, (torch.rand(ROWS, generator=generator) < risk).float()


def train(measurements: torch.Tensor, failed: torch.Tensor) -> Net:
    """The network after a second of training."""
    torch.manual_seed(SEED)
    network = Net()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(EPOCHS):
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy(network(measurements)[:, 0], failed)
        loss.backward()
        optimizer.step()
    return network.eval()


def main(folder: Path) -> None:
    """Train, and write both files."""
    measurements, failed = data()
    network = train(measurements, failed)
    with torch.no_grad():
        right = ((network(measurements)[:, 0] > 0.5) == failed.bool()).float().mean().item()
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), folder / "model.pth")
    with (folder / "train.csv").open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow([*FEATURES, "failed"])
        rows.writerows(
            [*(f"{value:.4f}" for value in row), int(label)]
            for row, label in zip(measurements.tolist(), failed.tolist(), strict=True)
        )
    print(f"{folder}: {right:.0%} of the training rows are told right")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path.cwd())
