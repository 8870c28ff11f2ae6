"""The server's path of a small prediction without a network, by module: microseconds a request, as a line of JSON.

`PYTHONPATH=app python -m bench.serving.hot <model folder> <body> <connections>`. The connections are real, their
transports are not; each round brings one request on each, and they are answered in one batch, as under load.
"""

from __future__ import annotations

import asyncio
import cProfile
import json
import pstats
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from server.app import App
from server.batching import Batcher, QueueLimits
from server.http.connection import Connection, Limits, Shared
from server.model.loaded_model import load_model
from server.predictor import Predictor
from server.telemetry.drift import DriftCounters
from server.telemetry.metrics import Metrics

_ROUNDS, _PASSES = 300, 7


class _Transport:
    def __init__(self) -> None:
        self.answers = 0

    def write(self, answer: bytes) -> None:
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        self.answers += 1


def _connections(folder: Path, count: int) -> list[Connection]:
    model = load_model(folder)
    model.warm_up()
    manifest, metrics = model.manifest, Metrics()
    app = App(metrics, None)
    limits = QueueLimits(rows=4096, bytes=2**27, seconds=5.0)
    batcher = Batcher(model, limits, metrics, shapes_vary=model.shapes_vary)
    metrics.open(manifest.name, manifest.version, DriftCounters(manifest))
    app.open(Predictor(manifest, batcher, max_rows=4096, timeout_seconds=30, answer=app.answer), lambda: b"{}")
    shared = Shared(app, Limits(body_bytes=2**22, all_bodies_bytes=2**27))
    connections = [Connection(shared) for _ in range(count)]
    for connection in connections:
        connection.connection_made(_Transport())  # type: ignore[arg-type]
    return connections


async def _run(connections: list[Connection], request: bytes) -> None:
    for _ in range(_ROUNDS):
        for connection in connections:
            connection.data_received(request)
        await asyncio.sleep(0)
        await asyncio.sleep(0)


def _module(file: str) -> str:
    path = Path(file)
    if path.parent.name == "server":
        return path.name
    return "onnxruntime" if "onnxruntime" in path.parts else "numpy, msgspec, httptools and the interpreter"


async def measure(folder: Path, body: bytes, count: int) -> dict[str, Any]:
    """The fastest pass's microseconds a request, and how they are shared out, by cProfile's own times."""
    head = "POST /predict HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length:"
    request = f"{head} {len(body)}\r\n\r\n".encode() + body
    connections = _connections(folder, count)
    requests = _ROUNDS * count
    spent: list[float] = []
    for _ in range(_PASSES):
        before = time.process_time()
        await _run(connections, request)
        spent.append((time.process_time() - before) / requests * 1e6)
    profiler = cProfile.Profile()
    profiler.enable()
    await _run(connections, request)
    profiler.disable()
    shares: Counter[str] = Counter()
    for (file, _, function), (_, _, own, _, _) in pstats.Stats(profiler).stats.items():  # type: ignore[attr-defined]
        shares[_module("onnxruntime" if "onnxruntime" in function else file)] += own
    whole = sum(shares.values())
    fastest = min(spent)
    return {"microseconds": fastest, "parts": {name: own / whole * fastest for name, own in shares.most_common()}}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(Path(sys.argv[1]), sys.argv[2].encode(), int(sys.argv[3])))))
