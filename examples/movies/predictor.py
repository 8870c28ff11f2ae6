"""Recommends films that a user has not rated: a user's name in, titles and scores out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

EXAMPLE = {"input": {"user": "15", "k": 3}}


@dataclass
class Film:
    title: str
    score: float


class Predictor:
    def __init__(self, folder: Path) -> None:
        with np.load(folder / "factors.npz") as file:
            self.rows = {name: row for row, name in enumerate(file["user_names"].tolist())}
            self.titles: list[str] = file["titles"].tolist()
            self.users, self.films, self.seen = file["users"], file["films"], file["seen"]

    def predict(self, user: str, k: int = 10) -> list[Film]:
        if user not in self.rows:
            raise ValueError(f"there is no user {user!r}")
        if not 1 <= k <= 100:
            raise ValueError(f"k must be from 1 to 100, not {k}")
        row = self.rows[user]
        scores = self.users[row] @ self.films
        scores[np.unpackbits(self.seen[row], count=len(scores)).astype(bool)] = -np.inf
        return [Film(self.titles[film], float(scores[film])) for film in np.argsort(-scores)[:k]]
