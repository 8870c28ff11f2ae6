"""The network of this example: a pump's risk of failing within a week, from three measurements."""

from __future__ import annotations

import torch


class Net(torch.nn.Module):
    """Two hidden layers; the answer is a probability, one a row."""

    def __init__(self, hidden: int = 16) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(3, hidden),
            torch.nn.BatchNorm1d(hidden),
            torch.nn.ReLU(),
            torch.nn.Dropout(0.1),
            torch.nn.Linear(hidden, hidden),
            torch.nn.ReLU(),
            torch.nn.Linear(hidden, 1),
        )

    def forward(self, measurements: torch.Tensor) -> torch.Tensor:
        """Rows of vibration, temperature and load; the risk of each."""
        return torch.sigmoid(self.layers(measurements))
