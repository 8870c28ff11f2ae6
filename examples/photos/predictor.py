"""Tells what is in a photo: the five likeliest of 1,000 classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

SIZE, CROP = 256, 224
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
TOP = 5


@dataclass
class Guess:
    label: str
    probability: float


class Predictor:
    def __init__(self, folder: Path) -> None:
        self.session = onnxruntime.InferenceSession(folder / "network.onnx", providers=["CPUExecutionProvider"])
        self.labels = (folder / "labels.txt").read_text().splitlines()

    def predict(self, photo: list[Image.Image]) -> list[list[Guess]]:
        scores = self.session.run(None, {"pixels": np.stack([pixels(each) for each in photo])})[0]
        return [self.guesses(row) for row in scores]

    def guesses(self, scores: np.ndarray) -> list[Guess]:
        odds = np.exp(scores - scores.max())
        best = np.argsort(-odds)[:TOP]
        return [Guess(self.labels[label], float(odds[label] / odds.sum())) for label in best]


def pixels(photo: Image.Image) -> np.ndarray:
    """Scale the shorter side to 256, cut the middle 224 x 224, normalise; channels first."""
    scale = SIZE / min(photo.size)
    photo = photo.resize([round(side * scale) for side in photo.size], Image.Resampling.BICUBIC)
    left, top = ((side - CROP) // 2 for side in photo.size)
    values = np.asarray(photo.crop((left, top, left + CROP, top + CROP)), dtype=np.float32) / 255
    return ((values - MEAN) / STD).transpose(2, 0, 1)
