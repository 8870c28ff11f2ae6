"""A text's entities: names, places, and whatever else the model was trained to mark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from text_encoder import TextEncoder

_OUTSIDE = "O"


class Predictor:
    """Tokens that follow each other with the same label are one entity, as `aggregation_strategy="simple"` has it."""

    def __init__(self, folder: Path) -> None:
        self._encoder = TextEncoder(folder)
        self._labels: list[str] = self._encoder.settings["labels"]

    def predict(self, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Answer every text of the batch."""
        texts: list[str] = inputs["text"].tolist()
        encodings = self._encoder.encode(texts)
        entities = np.empty(len(texts), dtype=object)
        for row, probabilities in enumerate(self._encoder.run(encodings)):
            entities[row] = self._entities(texts[row], encodings[row], probabilities)
        return {"entities": entities}

    def _entities(self, text: str, encoding: Any, probabilities: NDArray[np.float32]) -> list[dict[str, Any]]:
        groups: list[tuple[str, list[int]]] = []
        following = None  # the label of the token just before, None where it was not one of the text
        for token, row in enumerate(probabilities):
            if encoding.special_tokens_mask[token]:
                continue
            begins, label = _split(self._labels[int(row.argmax())])
            if groups and label == following and not begins:
                groups[-1][1].append(token)
            else:
                groups.append((label, [token]))
            following = label
        found: list[dict[str, Any]] = []
        for label, tokens in groups:
            if label != _OUTSIDE:
                start, end = encoding.offsets[tokens[0]][0], encoding.offsets[tokens[-1]][1]
                score = float(np.mean(probabilities[tokens].max(axis=1), dtype=np.float64))
                found.append({"label": label, "word": text[start:end], "start": start, "end": end, "score": score})
        return found


def _split(label: str) -> tuple[bool, str]:
    """Tell a label's begin mark from its name: B-PER starts an entity, I-PER goes on with one."""
    mark, dash, name = label.partition("-")
    return (mark == "B", name) if dash and mark in ("B", "I") else (False, label)
