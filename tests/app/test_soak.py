"""An hour of requests at ten a second, as fast as they go: memory, descriptors and threads do not grow."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from pathlib import Path

from tests.app.client import Client
from tests.app.conftest import StartServer
from tests.app.harness import SETOSA, tensor

REQUESTS = 36_000
CLIENTS = 16
PARTS = 5
"""The first is for what is made once: caches, the allocator's pools, time series."""
GIVES_BACK = {"MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
"""For glibc: what is freed does not stay with the process, where it would look like a leak or hide one."""
MOST_GROWTH = 2 * 2**20
"""Bytes. A leak of 75 bytes a request would show; the rest is for pools that are torn by what lives in them."""
ABANDON_EVERY = 50
"""Requests, whose answer is not waited for: another connection for each."""

_GOOD = json.dumps({"input": SETOSA}).encode()
_MANY = json.dumps({"input": [SETOSA] * 20}).encode()
_LARGE = json.dumps({"input": [SETOSA] * 4000}).encode()
_INFER = json.dumps({"inputs": [tensor("input", "FP32", [2, 3], data=SETOSA * 2)]}).encode()
_BAD = [b"", b"{", b'{"input": [1, 2]}', b'{"input": [1, 2, NaN]}', b'{"input": "x"}', b"\xff" * 5000, b"[" * 100_000]


async def ask(client: Client, number: int, one_at_a_time: asyncio.Lock) -> int:
    match number % 100:
        case 0:
            async with one_at_a_time:  # how many happen to meet would decide what memory is held
                return (await client.post("/predict", _LARGE)).status
        case 1 | 2:
            return (await client.get("/metrics")).status
        case 3:
            return (await client.get(f"/nothing/{number}")).status  # a path of its own: no time series must come of it
        case 4:
            return (await client.post("/predict", _GOOD, content_type="text/plain")).status
        case kind if kind < 15:
            return (await client.post("/predict", _BAD[number // 100 % len(_BAD)])).status
        case kind if kind < 30:
            return (await client.post("/v2/models/iris/infer", _INFER)).status
        case kind if kind < 45:
            return (await client.post("/predict", _MANY)).status
        case _:
            return (await client.post("/predict", _GOOD, x_request_id=f"request-{number}")).status


async def part(port: int, first: int, end: int) -> Counter[int]:
    statuses: Counter[int] = Counter()
    numbers = iter(range(first, end))
    lock = asyncio.Lock()

    async def many() -> None:
        for number in numbers:
            async with Client(port) as client:
                for _ in range(ABANDON_EVERY):
                    statuses[await ask(client, number, lock)] += 1
                    number = next(numbers, end)
                    if number == end:
                        return
                client.send("POST", "/predict", _MANY)
                client.leave()

    await asyncio.gather(*(many() for _ in range(CLIENTS)))
    return statuses


def memory(process: int) -> int:
    """Bytes that the process has for itself: not shared, and not given back."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(
        int(line.split()[1]) * 1024 for line in lines if line.startswith(("Private_Clean", "Private_Dirty", "Swap:"))
    )


def threads_and_descriptors(process: int) -> tuple[int, int]:
    """Once the connections that have ended are closed."""
    descriptors: list[int] = []
    for _ in range(10):
        descriptors.append(len(list(Path(f"/proc/{process}/fd").iterdir())))
        time.sleep(0.05)
    return len(list(Path(f"/proc/{process}/task").iterdir())), min(descriptors)


async def test_an_hour_of_requests_leaves_no_trace(start_server: StartServer) -> None:
    server = start_server(MAX_QUEUE_ROWS="1000000", **GIVES_BACK)
    port, process = server.port, server.process.pid
    size = REQUESTS // PARTS
    grown: list[int] = []
    held: list[tuple[int, int]] = []
    statuses: Counter[int] = Counter()
    for first in range(0, REQUESTS, size):
        async with asyncio.timeout(60):
            statuses += await part(port, first, first + size)
        assert server.post(_GOOD).status_code == 200
        grown.append(memory(process))
        held.append(threads_and_descriptors(process))
    print([round(each / 2**20, 2) for each in grown], held, statuses)
    assert grown[-1] - grown[0] < MOST_GROWTH, grown
    assert len(set(held)) == 1, held
    assert set(statuses) == {200, 400, 404, 415, 422}
    assert statuses[200] > 0.8 * REQUESTS
