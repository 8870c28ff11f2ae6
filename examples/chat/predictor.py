"""Answers questions about Python from its reference, word by word, as a language model would."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sklearn.feature_extraction.text import TfidfVectorizer

EXAMPLE = {"input": {"messages": [{"role": "user", "content": "How does a for statement work?"}], "max_words": 30}}


@dataclass
class Message:
    role: Literal["system", "user", "assistant"]
    content: str


class Predictor:
    def __init__(self, folder: Path) -> None:
        topics: dict[str, str] = json.loads((folder / "topics.json").read_text())
        self.passages = [passage for text in topics.values() for passage in text.split("\n\n") if len(passage) > 80]
        self.vectorizer = TfidfVectorizer(sublinear_tf=True, stop_words="english")
        self.known = self.vectorizer.fit_transform(self.passages)

    def predict(self, messages: list[Message], max_words: int = 100) -> Iterator[str]:
        questions = [message.content for message in messages if message.role == "user"]
        if not questions:
            raise ValueError("the messages have none of the role user")
        likeness = (self.known @ self.vectorizer.transform(questions[-1:]).T).toarray()[:, 0]
        if not likeness.max():
            yield "I know only Python."
            return
        yield from re.findall(r"\S+\s*", self.passages[likeness.argmax()])[:max_words]
