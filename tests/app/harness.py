"""Starts the real server as a process, and builds small models for it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
from onnx import TensorProto, helper

from server.model.tensors import DTYPES

APP = Path(__file__).resolve().parents[2] / "app"
MODEL = APP / "model"
IRIS = json.loads((MODEL / "model.json").read_text())
SETOSA = [5.1, 1.4, 0.2]
_READY_SECONDS = 20


class Server:
    """A server process with what it logs, as JSON objects."""

    def __init__(
        self, environment: Mapping[str, str], pass_fds: tuple[int, ...] = (), python: str = sys.executable
    ) -> None:
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        defaults = {
            "PYTHONPATH": str(APP),
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOST": "127.0.0.1",
            "PORT": "0",
            "DRAIN_SECONDS": "0",
        }
        self.process = subprocess.Popen(
            [python, "-m", "server"],
            env=inherited | defaults | dict(environment),
            cwd=APP.parent / "tests",
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=pass_fds,
        )
        self.stderr: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._changed:
                self.stderr.append(line)
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    @property
    def logs(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stderr]

    def event(self, name: str) -> dict[str, Any]:
        """Wait for a log line with this event."""

        def found() -> dict[str, Any] | None:
            return next((line for line in self.logs if line["event"] == name), None)

        with self._changed:
            if not self._changed.wait_for(lambda: found() or self.process.poll() is not None, _READY_SECONDS):
                raise AssertionError(f"no {name!r} in {self.stderr}")
            line = found()
        assert line is not None, self.stderr
        return line

    @property
    def url(self) -> str:
        return self.event("ready")["address"]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def post(self, body: str | bytes, path: str = "/predict", **options: Any) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", content=body, timeout=10, trust_env=False, **options)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", timeout=10, trust_env=False)

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = 10) -> int:
        status = self.process.wait(seconds)
        self._reader.join(seconds)
        return status

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.wait()
        for stream in (self.process.stderr, self.process.stdout):
            assert stream is not None
            stream.close()


def tensor(name: str, datatype: str, shape: list[int], **more: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, **more}


def write_model(
    folder: Path,
    nodes: list[onnx.NodeProto],
    *,
    example: list[Any] | dict[str, Any],
    inputs: list[dict[str, Any]] | None = None,
    outputs: list[dict[str, Any]] | None = None,
    initializers: list[onnx.TensorProto] | None = None,
    **manifest: Any,
) -> Path:
    """A model folder from a few nodes between `x` and `y`; by default FP32 [-1, 1] on both sides.

    `example` is a body for /predict, or the row of a model with one input.
    """
    inputs = inputs or [tensor("x", "FP32", [-1, 1])]
    outputs = outputs or [tensor("y", "FP32", [-1, 1])]
    graph = helper.make_graph(nodes, "test", _values(inputs), _values(outputs), initializers or [])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), folder / "model.onnx")
    body = example if isinstance(example, dict) else {"input": example}
    description = {"name": "test", "version": "1", "inputs": inputs, "outputs": outputs, "example": body}
    (folder / "model.json").write_text(json.dumps(description | manifest))
    return folder


def _values(tensors: list[dict[str, Any]]) -> list[onnx.ValueInfoProto]:
    return [
        helper.make_tensor_value_info(
            each["name"],
            helper.np_dtype_to_tensor_dtype(DTYPES[each["datatype"]]),
            [None if size == -1 else size for size in each["shape"]],
        )
        for each in tensors
    ]


def constant(name: str, values: Any) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(np.array(values), name)


def slow_model(folder: Path, steps: int, width: int = 1, **manifest: Any) -> Path:
    """y = x + steps, one step at a time; the wider, the more a run's time grows with its rows."""
    scalar, row = [], [None, width]
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Add", ["value", "one"], ["next"]),
        ],
        "step",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, scalar),
            helper.make_tensor_value_info("go", TensorProto.BOOL, scalar),
            helper.make_tensor_value_info("value", TensorProto.FLOAT, row),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, scalar),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, row),
        ],
    )
    return write_model(
        folder,
        [
            helper.make_node("Add", ["x", "zeros"], ["wide"]),
            helper.make_node("Loop", ["steps", "", "wide"], ["stepped"], body=body),
            helper.make_node("ReduceMax", ["stepped"], ["y"], axes=[1], keepdims=1),
        ],
        example=[1.0],
        initializers=[
            constant("steps", np.int64(steps)),
            constant("one", np.array([1.0], np.float32)),
            constant("zeros", np.zeros(width, dtype=np.float32)),
        ],
        **manifest,
    )
