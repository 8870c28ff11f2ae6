"""The language model in its own library, for one that ONNX cannot hold."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.model import cpu

os.environ |= {"HF_HUB_OFFLINE": "1"}  # before the imports: never the network


class Network:
    """The folder `original`, as transformers loads it."""

    def __init__(self, folder: Path) -> None:
        self._torch: Any = import_module("torch")
        transformers: Any = import_module("transformers")
        self._torch.set_num_threads(cpu.usable())
        network = transformers.AutoModelForCausalLM.from_pretrained(
            str(folder / "original"),
            dtype=self._torch.float32,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
        self._network = network.eval()

    def cache(self) -> Cache:
        """Start a text."""
        return Cache(self._torch, self._network)


class Cache:
    """What the model keeps of the tokens so far."""

    def __init__(self, torch: Any, network: Any) -> None:
        self._torch = torch
        self._network = network
        self._state: Any = None

    def run(self, tokens: list[int]) -> NDArray[np.float32]:
        """Take in the tokens; the logits of the one that follows the last."""
        with self._torch.inference_mode():
            answer = self._network(self._torch.tensor([tokens]), cache=self._state, use_cache=True)
        self._state = answer.cache
        return answer.logits[0, -1].numpy()
