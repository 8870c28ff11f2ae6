"""The transformer in ONNX, with what follows it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.model import cpu


class Network:
    """model.onnx in ONNX Runtime."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        del settings  # the graph has it all
        onnxruntime: Any = import_module("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = cpu.usable()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])

    def run(self, feed: dict[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        """Answer every row."""
        [answer] = self._session.run(None, feed)
        return answer
