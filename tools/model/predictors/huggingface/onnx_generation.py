"""The language model in ONNX: a step that takes tokens and the cache of those before them."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.model import cpu

_PREFILL_TOKENS = 512
"""Tokens of the prompt in one run: they bound its memory."""


class Network:
    """model.onnx in ONNX Runtime."""

    def __init__(self, folder: Path) -> None:
        self._runtime: Any = import_module("onnxruntime")
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = cpu.usable()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers = ["CPUExecutionProvider"]
        self._session = self._runtime.InferenceSession(folder / "model.onnx", options, providers=providers)

    def cache(self) -> Cache:
        """Start a text."""
        return Cache(self._runtime.OrtValue.ortvalue_from_numpy, self._session)


class Cache:
    """What the model keeps of the tokens so far."""

    def __init__(self, value: Any, session: Any) -> None:
        self._value = value
        self._session = session
        self._states: dict[str, Any] = {}
        self._count = 0
        for given in session.get_inputs():
            if given.name not in ("input_ids", "position_ids"):
                shape = [size if isinstance(size, int) else 0 for size in given.shape]
                self._states[given.name] = value(np.zeros(shape, dtype=np.float32))

    def run(self, tokens: list[int]) -> NDArray[np.float32]:
        """Take in the tokens; the logits of the one that follows the last."""
        logits: Any = None
        for start in range(0, len(tokens), _PREFILL_TOKENS):
            part = np.array([tokens[start : start + _PREFILL_TOKENS]], dtype=np.int64)
            positions = np.arange(self._count, self._count + part.size, dtype=np.int64)[np.newaxis]
            feed = {"input_ids": self._value(part), "position_ids": self._value(positions), **self._states}
            logits, *states = self._session.run_with_ort_values(None, feed)
            self._states = dict(zip(self._states, states, strict=True))
            self._count += part.size
        return logits.numpy()[0, -1]
