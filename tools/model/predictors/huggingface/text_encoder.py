"""Texts through a transformer: tokenized, run in batches of about the same length, each text's result alone."""

from __future__ import annotations

import json
import os
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.model import cpu

_MAX_RUN_TOKENS = 16384
"""Tokens of one run, with padding: they bound its memory."""


class TextEncoder:
    """`encoder.json` beside the model says how texts are prepared, and how many tokens it takes."""

    def __init__(self, folder: Path) -> None:
        os.environ.setdefault("RAYON_NUM_THREADS", str(cpu.usable()))  # those of the tokenizer
        tokenizers: Any = import_module("tokenizers")
        self.settings: dict[str, Any] = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
        self.tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        if self.settings["truncate"]:
            self.tokenizer.enable_truncation(self.settings["max_tokens"])
        network: Any = import_module(self.settings["network"])
        self._network = network.Network(folder, self.settings)

    def encode(self, texts: list[str]) -> list[Any]:
        """Tokenize; a ValueError where a text is longer than the model takes."""
        encodings: list[Any] = self.tokenizer.encode_batch([self.settings["prompt"] + text for text in texts])
        longest = max(len(encoding.ids) for encoding in encodings)
        if longest > self.settings["max_tokens"]:
            raise ValueError(f"a text has {longest} tokens, and the model takes {self.settings['max_tokens']} at most")
        return encodings

    def run(self, encodings: list[Any]) -> list[NDArray[np.float32]]:
        """Run the model, each text beside those of about its length; its own answer, which padding is no part of."""
        answers: list[Any] = [None] * len(encodings)
        order = sorted(range(len(encodings)), key=lambda index: len(encodings[index].ids), reverse=True)
        while order:
            longest = max(1, len(encodings[order[0]].ids))
            rows = max(1, _MAX_RUN_TOKENS // longest)
            group, order = order[:rows], order[rows:]
            output = self._network.run(self._feed([encodings[index] for index in group], longest))
            for index, answer in zip(group, output, strict=True):
                answers[index] = answer[: len(encodings[index].ids)] if self.settings["per_token"] else answer
        return answers

    def _feed(self, encodings: list[Any], longest: int) -> dict[str, NDArray[np.int64]]:
        feed = {name: np.zeros((len(encodings), longest), dtype=np.int64) for name in self.settings["inputs"]}
        feed["input_ids"].fill(self.settings["padding"])
        for row, encoding in enumerate(encodings):
            values = {
                "input_ids": encoding.ids,
                "attention_mask": encoding.attention_mask,
                "token_type_ids": encoding.type_ids,
            }
            for name, array in feed.items():
                array[row, : len(encoding.ids)] = values[name]
        return feed
