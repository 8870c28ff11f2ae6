# The environment that this runs in has mlserver; the one that checks types has not.
# pyright: reportAttributeAccessIssue=false, reportMissingImports=false
"""MLServer: a custom runtime in the server's own process, without worker processes, as settings.json has it.

Adaptive batching stays off, which is its default: with it the tiny model answers a tenth fewer requests here, a lone
request waits 1 ms or more for others, and the heavy model is no faster.
"""

import os

import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Onnx(MLModel):
    """The model behind /v2/models/<name>/infer."""

    async def load(self) -> bool:
        """Before it is ready."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """A batch."""
        rows = NumpyCodec.decode_input(payload.inputs[0])
        answers = self.session.run(None, {"input": rows})[0]
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("output", answers)])
