"""Every answer belongs to its request, over real HTTP, whatever else is asked at the same time."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.app.client import Client
from tests.app.conftest import StartServer
from tests.app.harness import slow_model, tensor, write_model
from tests.app.wire import seeded

CLIENTS = 64
REQUESTS = 60
"""Of each client: 3,840 together, each with numbers of its own."""


async def predict(client: Client, given: list[float], wanted: list[float], rng: Any) -> None:
    rows = [[value] for value in given]
    one: dict[str, Any] = rng.choice([{"input": rows[0]}, {"input": given[0]}, {"inputs": {"x": rows[0]}}])
    many: dict[str, Any] = rng.choice([{"input": rows}, {"inputs": [{"x": row} for row in rows]}])
    alone = len(rows) == 1 and rng.random() < 0.5
    name = f"request-{wanted[0]}"
    answer = await client.post("/predict", json.dumps(one if alone else many).encode(), x_request_id=name)
    assert answer.status == 200, answer
    assert json.loads(answer.body)["prediction" if alone else "predictions"] == (wanted[0] if alone else wanted)
    assert answer.headers["x-request-id"] == name


async def infer(client: Client, given: list[float], wanted: list[float], *, binary: bool) -> None:
    data = np.array(given, np.float32).tobytes() if binary else b""
    more = {"parameters": {"binary_data_size": len(data)}} if binary else {"data": given}
    request = {
        "id": f"{wanted[0]}",
        "inputs": [tensor("x", "FP32", [len(given), 1], **more)],
        "parameters": {"binary_data_output": binary},
    }
    header = json.dumps(request).encode()
    lengths = {"inference_header_content_length": str(len(header))} if binary else {}
    answer = await client.post("/v2/models/test/infer", header + data, **lengths)
    assert answer.status == 200, answer
    end = int(answer.headers.get("inference-header-content-length", len(answer.body)))
    content = json.loads(answer.body[:end])
    assert content["id"] == request["id"]
    [output] = content["outputs"]
    assert (np.frombuffer(answer.body[end:], np.float32).tolist() if binary else output["data"]) == wanted


async def ask_all(port: int, offset: float, *, rowless: bool) -> None:
    async def many(number: int) -> None:
        rng = seeded(number)
        async with Client(port) as client:
            for turn in range(REQUESTS):
                first = (number * REQUESTS + turn) * 8.0
                wanted = [first + row for row in range(rng.choice([1, 1, 2, 8]))]
                given = [value - offset for value in wanted]
                if rng.random() < 0.6 or rowless:
                    await predict(client, given, wanted, rng)
                else:
                    await infer(client, given, wanted, binary=rng.random() < 0.5)

    await asyncio.gather(*map(many, range(CLIENTS)))


@pytest.mark.parametrize(
    ("batching", "shape"), [("dynamic", [-1, 1]), ("fixed", [4, 1]), ("none", [1])], ids=["dynamic", "fixed", "none"]
)
async def test_every_answer_of_a_quick_model_belongs_to_its_request(
    start_server: StartServer, tmp_path: Path, batching: str, shape: list[int]
) -> None:
    inputs, outputs = [tensor("x", "FP32", shape)], [tensor("y", "FP32", shape)]
    folder = write_model(tmp_path, "y = Identity(x)", inputs=inputs, outputs=outputs, example=[1.0], batching=batching)
    port = start_server(MODEL_DIR=str(folder)).port
    async with asyncio.timeout(60):
        await ask_all(port, 0, rowless=batching == "none")


async def test_every_answer_of_a_slow_model_belongs_to_its_request(start_server: StartServer, tmp_path: Path) -> None:
    """On the inference thread, in batches, while more comes."""
    steps = 400
    server = start_server(MODEL_DIR=str(slow_model(tmp_path, steps, width=4096)))
    assert server.event("ready")["inline_rows"] < 8
    async with asyncio.timeout(60):
        await ask_all(server.port, steps, rowless=False)
    runs = next(line for line in server.get("/metrics").text.splitlines() if line.startswith("model_batch_rows_count"))
    assert float(runs.split()[1]) < CLIENTS * REQUESTS / 2
