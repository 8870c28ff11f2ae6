"""The transformer in its own library, for a model that ONNX cannot hold."""

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
    """The folder `original`, as transformers or sentence-transformers loads it."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self._torch: Any = import_module("torch")
        self._torch.set_num_threads(cpu.usable())
        self._activation: str = settings["activation"]
        path, local = str(folder / "original"), {"local_files_only": True, "trust_remote_code": False}
        if settings["auto_class"] == "SentenceTransformer":
            library: Any = import_module("sentence_transformers")
            self._network = library.SentenceTransformer(path, device="cpu", **local).float().eval()
        else:
            transformers: Any = import_module("transformers")
            auto_class = getattr(transformers, settings["auto_class"])
            network = auto_class.from_pretrained(path, dtype=self._torch.float32, use_safetensors=True, **local)
            self._network = network.eval()

    def run(self, feed: dict[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        """Answer every row."""
        tensors = {name: self._torch.from_numpy(array) for name, array in feed.items()}
        with self._torch.inference_mode():
            if self._activation == "none":
                answer = self._network(tensors)["sentence_embedding"]
            elif self._activation == "sigmoid":
                answer = self._network(**tensors).logits.sigmoid()
            else:
                answer = self._network(**tensors).logits.softmax(-1)
        return answer.numpy()
