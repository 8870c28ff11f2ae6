"""A text's vector: its embedding, or the probabilities of its classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from text_encoder import TextEncoder


class Predictor:
    """One vector a text."""

    def __init__(self, folder: Path) -> None:
        self._encoder = TextEncoder(folder)

    def predict(self, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """Answer every text of the batch."""
        rows = self._encoder.run(self._encoder.encode(inputs["text"].tolist()))
        return {self._encoder.settings["output"]: np.stack(rows)}
