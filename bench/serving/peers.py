"""How each server is started, by its own documented way, and how it is asked for a row."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
OURS, CONSTANT = "ours", "constant"

Row = list[float]


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A server. It finds the model's file in MODEL, its folder in MODEL_DIR and its port in PORT."""

    name: str
    title: str
    """For people."""
    lock: str
    """Its environment, a lock file below the root."""
    packages: tuple[str, ...]
    """Whose versions are worth a line, besides ONNX Runtime's."""
    command: tuple[str, ...]
    """A program of its environment and its arguments; `{port}` stands for the port, `{root}` for this project."""
    files: str | None = None
    """The folder below the root whose files it finds in its working directory."""
    environment: Mapping[str, str] = field(default_factory=dict)
    ready: str
    """Answers 200 from when it is ready."""
    path: str
    """Where a row is posted."""
    body: Callable[[Row], Any] = lambda row: {"input": row}
    answer: Callable[[Any], Row] | None = lambda body: body["prediction"]
    """The row's values in the decoded answer; None: it has nothing to do with the row."""
    stop: signal.Signals = signal.SIGTERM
    settings: str
    """In words."""

    def versions(self) -> dict[str, str]:
        """As locked."""
        pins = dict(re.findall(r"^([\w.-]+)(?:\[\S+\])?==([^\s;]+)", (ROOT / self.lock).read_text(), re.MULTILINE))
        return {package: pins[package] for package in (*self.packages, "onnxruntime")}


def _peer(name: str, **arguments: Any) -> Peer:
    folder = f"bench/serving/peers/{name}"
    return Peer(name=name, lock=f"{folder}/requirements.lock", files=folder, **arguments)


_SERVER = ("python", "server.py")

PEERS = (
    Peer(
        name=OURS,
        title="this server",
        lock="app/requirements.lock",
        packages=("httptools", "msgspec", "uvloop"),
        command=("python", "-m", "server"),
        environment={"PYTHONPATH": "{root}/app", "HOST": "127.0.0.1"},
        ready="/v2/health/ready",
        path="/predict",
        settings="as it comes: one process, batches of what waits",
    ),
    Peer(
        name=CONSTANT,
        title="its HTTP alone, a constant for an answer",
        lock="app/requirements.lock",
        packages=("httptools", "uvloop"),
        command=("python", "{root}/bench/serving/constant.py"),
        environment={"PYTHONPATH": "{root}/app"},
        ready="/",
        path="/predict",
        answer=None,
        settings="no model: what is left for everything else to spend",
    ),
    _peer(
        "fastapi",
        title="FastAPI",
        packages=("fastapi", "uvicorn", "pydantic", "uvloop", "httptools"),
        command=(
            *("uvicorn", "server:app", "--host=127.0.0.1", "--port={port}", "--workers=1"),
            *("--loop=uvloop", "--http=httptools", "--no-access-log", "--log-level=warning"),
        ),
        ready="/ready",
        path="/predict",
        settings="uvicorn, 1 worker, uvloop, httptools, async def, pydantic in and out, no access log",
    ),
    _peer(
        "mosec",
        title="mosec",
        packages=("mosec", "msgspec"),
        command=(*_SERVER, "--address=127.0.0.1", "--port={port}", "--log-level=error", "--timeout=60000"),
        ready="/",
        path="/inference",
        settings="1 worker, batches up to 32 rows, 1 ms wait (its least), JSON by msgspec",
    ),
    _peer(
        "litserve",
        title="LitServe",
        packages=("litserve", "fastapi", "uvicorn", "uvloop", "httptools"),
        command=_SERVER,
        ready="/health",
        path="/predict",
        stop=signal.SIGINT,  # it takes no notice of SIGTERM
        settings="1 API server, 1 worker, batches up to 32 rows, 10 ms wait, fast_queue, uvloop, httptools",
    ),
    _peer(
        "bentoml",
        title="BentoML",
        packages=("bentoml", "uvicorn", "uvloop", "httptools"),
        command=("bentoml", "serve", "server:Onnx", "--host=127.0.0.1", "--port={port}", "--quiet"),
        environment={"BENTOML_DO_NOT_TRACK": "true", "BENTOML_HOME": "{work}"},
        ready="/readyz",
        path="/predict",
        body=lambda row: {"input": [row]},
        answer=lambda body: body[0],
        settings="1 worker, async def, uvloop, httptools, no access log; no batching, which is slower here",
    ),
    _peer(
        "mlserver",
        title="MLServer",
        packages=("mlserver", "fastapi", "uvicorn", "uvloop", "httptools"),
        command=("mlserver", "start", "."),
        environment={"MLSERVER_HTTP_PORT": "{port}", "MLSERVER_GRPC_PORT": "{another_port}"},
        ready="/v2/models/onnx/ready",
        path="/v2/models/onnx/infer",
        body=lambda row: {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, len(row)], "data": row}]},
        answer=lambda body: body["outputs"][0]["data"],
        settings="custom runtime in the server's process, no gzip, no access log; no batching, which is slower here",
    ),
    _peer(
        "kserve",
        title="KServe",
        packages=("kserve", "fastapi", "uvicorn", "uvloop", "httptools", "orjson"),
        command=_SERVER,
        ready="/v1/models/onnx",
        path="/v1/models/onnx:predict",
        body=lambda row: {"instances": [row]},
        answer=lambda body: body["predictions"][0],
        settings="custom predictor, v1 protocol, 1 worker, uvloop, httptools, no gRPC, no log line a request",
    ),
    _peer(
        "ray",
        title="Ray Serve",
        packages=("ray", "uvicorn", "uvloop", "httptools"),
        command=_SERVER,
        environment={
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_TMPDIR": "{work}",
        },
        ready="/-/healthz",
        path="/",
        settings="1 replica, batches up to 32 rows, no wait, RAY_SERVE_THROUGHPUT_OPTIMIZED=1",
    ),
)
