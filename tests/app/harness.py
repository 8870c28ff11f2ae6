"""Starts the real server as a process, and builds small models for it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import onnx.parser
from onnx import helper

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
        defaults = {"PYTHONPATH": str(APP), "PYTHONDONTWRITEBYTECODE": "1"}
        defaults |= {"HOST": "127.0.0.1", "PORT": "0", "DRAIN_SECONDS": "0"}
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
        def found() -> list[dict[str, Any]]:
            return [line for line in self.logs if line["event"] == name]

        with self._changed:
            self._changed.wait_for(lambda: found() or self.process.poll() is not None, _READY_SECONDS)
            lines = found()
        assert lines, f"no {name!r} in {self.stderr}"
        return lines[0]

    @property
    def url(self) -> str:
        return self.event("ready")["address"]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def post(self, body: str | bytes, path: str = "/predict", **options: Any) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", content=body, timeout=10, trust_env=False, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", timeout=10, trust_env=False, **options)

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
    nodes: str | list[onnx.NodeProto],
    *,
    example: list[Any] | dict[str, Any],
    inputs: list[dict[str, Any]] | None = None,
    outputs: list[dict[str, Any]] | None = None,
    initializers: list[onnx.TensorProto] | None = None,
    **manifest: Any,
) -> Path:
    """A model folder from a few nodes, or their text, between `x` and `y`; by default FP32 [-1, 1] on both sides.

    `example` is a body for /predict, or the row of a model with one input.
    """
    if isinstance(nodes, str):
        nodes = list(onnx.parser.parse_graph(f"test (x) => (y) {{ {nodes} }}").node)
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


def slow_model(folder: Path, steps: int, width: int = 1) -> Path:
    """y = x + steps, one step at a time; the wider, the more a run's time grows with its rows."""
    nodes = f"""
        steps = Constant <value_int = {steps}> ()
        one = Constant <value_floats = [1.0]> ()
        shape = Constant <value_ints = [1, {width}]> ()
        wide = Expand(x, shape)
        stepped = Loop <body = step (int64 i, bool go, float[N, W] value) => (bool go_on, float[N, W] next) {{
            go_on = Identity(go)
            next = Add(value, one)
        }}> (steps, , wide)
        y = ReduceMax <axes = [1], keepdims = 1> (stepped)
    """
    return write_model(folder, nodes, example=[1.0])
