# The environment that this runs in has bentoml; the one that checks types has not.
# pyright: reportAttributeAccessIssue=false, reportReturnType=false
"""BentoML: one worker and an `async def`, which spares the thread pool; it uses uvloop and httptools when installed.

Its adaptive batching stays off, which is its default: with it the tiny model answers a tenth fewer requests here, and
the heavy one is no faster.
"""

import os

import bentoml
import numpy as np
import onnxruntime


@bentoml.service(workers=1, traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class Onnx:
    """The model behind /predict."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])

    @bentoml.api
    async def predict(self, input: np.ndarray) -> np.ndarray:  # noqa: A002 - the name in the request
        """A request's rows."""
        return self.session.run(None, {"input": input.astype(np.float32)})[0]
