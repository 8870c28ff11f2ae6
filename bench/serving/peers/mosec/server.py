# The environment that this runs in has mosec; the one that checks types has not.
# pyright: reportAttributeAccessIssue=false
"""mosec: its Rust HTTP server before one Python worker, its batching on.

`max_wait_time` is the least it takes, 1 ms. As many rows a batch as the load has connections is its best: batches fill,
so that it never waits; with 64 it always waits, and answers a third as many. JSON is read and written by msgspec,
several times as fast as its default.
"""

import os

import msgspec
import numpy as np
import onnxruntime
from mosec import Server, Worker


class Row(msgspec.Struct):
    """What a client sends."""

    input: list[float]


decoder = msgspec.json.Decoder(Row)
encoder = msgspec.json.Encoder()


class Onnx(Worker):
    """The model behind /inference."""

    def __init__(self):
        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])

    def deserialize(self, data: bytes) -> list[float]:
        """A row."""
        return decoder.decode(data).input

    def forward(self, data: list[list[float]]) -> list[list[float]]:
        """A batch."""
        return self.session.run(None, {"input": np.array(data, dtype=np.float32)})[0].tolist()

    def serialize(self, data: list[float]) -> bytes:
        """A row's answer."""
        return encoder.encode({"prediction": data})


if __name__ == "__main__":
    server = Server()
    server.append_worker(Onnx, num=1, max_batch_size=32, max_wait_time=1)
    server.run()
