# The environment that this runs in has kserve; the one that checks types has not.
# pyright: reportAttributeAccessIssue=false
"""KServe: a custom predictor with its v1 protocol, which is the shorter one.

gRPC and the log line for each request are off. Batching is the business of a sidecar that it has for Kubernetes only.
"""

import os

import kserve
import numpy as np
import onnxruntime


class Onnx(kserve.Model):
    """The model behind /v1/models/onnx:predict."""

    def __init__(self):
        super().__init__("onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
        self.ready = True

    async def predict(self, payload, *_):
        """A request's rows."""
        rows = np.array(payload["instances"], dtype=np.float32)
        return {"predictions": self.session.run(None, {"input": rows})[0].tolist()}


if __name__ == "__main__":
    server = kserve.ModelServer(
        http_port=int(os.environ["PORT"]), workers=1, enable_grpc=False, enable_latency_logging=False
    )
    server.start([Onnx()])
