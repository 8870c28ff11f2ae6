# The environment that this runs in has ray; the one that checks types has not.
# pyright: reportAttributeAccessIssue=false, reportMissingImports=false
"""Ray Serve: one replica, its batching on, with the settings that it calls throughput-optimized (see peers.py).

`batch_wait_timeout_s` 0 runs what waits at once.
"""

import os

import numpy as np
import onnxruntime
import ray
from ray import serve
from starlette.requests import Request


@serve.deployment(num_replicas=1, max_ongoing_requests=256)
class Onnx:
    """The model behind /."""

    def __init__(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0)
    async def run(self, rows):
        """A batch."""
        return self.session.run(None, {"input": np.array(rows, dtype=np.float32)})[0].tolist()

    async def __call__(self, request: Request):
        """One row."""
        return {"prediction": await self.run((await request.json())["input"])}


if __name__ == "__main__":
    ray.init(_node_ip_address="127.0.0.1", include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["PORT"])})
    serve.run(Onnx.bind(), blocking=True)
