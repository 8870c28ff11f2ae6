# The environment that this runs in has litserve; the one that checks types has not.
# pyright: reportAttributeAccessIssue=false
"""LitServe: one API server and one inference worker, its batching on.

`batch_timeout` 0.01 s answers half as many requests again as 0 does, which runs what waits at once. `fast_queue` is its
ZeroMQ transport, meant for many requests a second.
"""

import os

import litserve
import numpy as np
import onnxruntime


class Onnx(litserve.LitAPI):
    """The model behind /predict."""

    def setup(self, _device):
        """Load the model, in the worker."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])

    def decode_request(self, request):
        """A row."""
        return np.array(request["input"], dtype=np.float32)

    def batch(self, inputs):
        """Rows -> a batch."""
        return np.stack(inputs)

    def predict(self, x):
        """A batch."""
        return self.session.run(None, {"input": x})[0]

    def unbatch(self, output):
        """A batch -> rows."""
        return list(output)

    def encode_response(self, output):
        """A row's answer."""
        return {"prediction": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(
        Onnx(max_batch_size=32, batch_timeout=0.01), accelerator="cpu", workers_per_device=1, fast_queue=True
    )
    server.run(
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )
