"""Memory: what a model with rows of any size may take, what it gives back, and what happens when there is none."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from server.errors import StartError
from server.model import onnx_backend
from server.model.loaded_model import load_model
from server.model.memory import Trimmer, cgroup_limit
from server.predictor import warm_up
from tests.app.client import Client
from tests.app.conftest import StartServer
from tests.app.harness import APP, Server, tensor, write_model

LIMIT = 512 * 2**20
"""The default of the config key `memory`."""
KEPT_OF_A_ROW = 20 * 2**20
"""Bytes above those at rest that may stay after one long row, which needs two matrices of 16 MB."""
KEPT_OF_TRAFFIC = 48 * 2**20
"""The same after hundreds of clients at once: pools that are torn by what lives in them."""
CLIENTS = 400
LONGEST = json.dumps({"input": [0.5] * 2048}).encode()
USUAL = json.dumps({"input": [0.25] * 400}).encode()


def attention(folder: Path, **maximum: int) -> str:
    """Write a model that compares each value of a row with each, in two matrices at once; returns its folder."""
    nodes = """
        one = Constant <value_ints = [1]> ()
        two = Constant <value_ints = [2]> ()
        down = Unsqueeze(x, one)
        across = Unsqueeze(x, two)
        scores = Mul(down, across)
        weights = Softmax <axis = -1> (scores)
        y = ReduceSum <keepdims = 0> (weights, two)
    """
    inputs = [tensor("x", "FP32", [-1, -1], **maximum)]
    outputs = [tensor("y", "FP32", [-1, -1])]
    return str(write_model(folder / "model", nodes, example=[1.0, 2.0], inputs=inputs, outputs=outputs))


def words(folder: Path) -> str:
    """Write a model that splits texts into words: a row each, as wide as the text of the most words."""
    nodes = """
        split = com.microsoft.Tokenizer <mark = 0, pad_value = "", separators = [" "], mincharnum = 1> (x)
        shape = Shape <start = 0, end = 1> (split)
        one = Constant <value_ints = [1]> ()
        zero = ConstantOfShape(shape)
        y = Unsqueeze(zero, one)
    """
    inputs = [tensor("x", "BYTES", [-1])]
    return str(write_model(folder / "words", nodes, example={"input": "a b"}, inputs=inputs))


def memory(server: Server) -> dict[str, int]:
    """VmRSS, and VmHWM, its peak, in bytes."""
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith(("VmRSS", "VmHWM"))}


def settles_below(server: Server, most: int) -> bool:
    """Whether few enough bytes are resident within three seconds."""
    for _ in range(30):
        if memory(server)["VmRSS"] < most:
            return True
        time.sleep(0.1)
    return False


async def post(port: int, body: bytes, times: int = 1) -> set[int]:
    async with Client(port) as client:
        return {(await client.post("/predict", body)).status for _ in range(times)}


@pytest.mark.within(90)
async def test_long_rows_and_many_clients_stay_within_the_default_memory(
    start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server(MODEL_DIR=attention(tmp_path), QUEUE_SECONDS="60")
    port = server.port
    time.sleep(0.5)  # what the calibration needed is given back, too
    at_rest = memory(server)["VmRSS"]
    assert await post(port, LONGEST) == {200}
    assert settles_below(server, at_rest + KEPT_OF_A_ROW), memory(server)
    assert await post(port, json.dumps({"input": [0.5] * 20_000}).encode()) == {422}
    answered = await asyncio.gather(*(post(port, USUAL, 5) for _ in range(CLIENTS)), post(port, LONGEST, 5))
    assert set().union(*answered) == {200}
    assert memory(server)["VmHWM"] < LIMIT, memory(server)
    assert settles_below(server, at_rest + KEPT_OF_TRAFFIC), memory(server)


def test_a_long_text_does_not_pad_those_beside_it_without_limit(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server(MODEL_DIR=words(tmp_path))
    answer = server.post(json.dumps({"input": ["a b"] * 1000 + ["a " * 32_000]}))
    assert answer.json()["predictions"] == [0.0] * 1001
    assert memory(server)["VmHWM"] < LIMIT, memory(server)


def test_a_failed_allocation_is_a_503_and_the_next_request_is_answered(
    start_server: StartServer, tmp_path: Path
) -> None:
    """In a cgroup of the default memory, which the server reads where a container has it."""
    (tmp_path / "memory.max").write_text(f"{LIMIT}\n")
    (tmp_path / "sitecustomize.py").write_text(
        f"import pathlib\nfrom server.model import cpu\ncpu.CGROUP = pathlib.Path({str(tmp_path)!r})\n"
    )
    server = start_server(MODEL_DIR=attention(tmp_path, max_size=20_000), PYTHONPATH=f"{tmp_path}:{APP}")
    for size, status in ((20_000, 503), (400, 200), (10_000, 503), (2048, 200)):
        answer = server.post(json.dumps({"input": [0.5] * size}))
        assert answer.status_code == status, answer.text
        if status == 503:
            assert answer.json()["error"]["code"] == "out_of_memory"
            assert answer.headers["retry-after"] == "1"
    data = {"name": "x", "datatype": "FP32", "shape": [1, 20_000], "data": [0.5] * 20_000}
    assert server.post(json.dumps({"inputs": [data]}), "/v2/models/test/infer").status_code == 503
    assert "\nmodel_requests_out_of_memory_total 3.0\n" in server.get("/metrics").text
    assert memory(server)["VmHWM"] < LIMIT, memory(server)
    assert server.event("out_of_memory")["reason"]


@pytest.mark.parametrize(("shape", "arena"), [([-1, 3], True), ([-1, -1], False)])
def test_only_models_with_rows_of_one_size_keep_an_arena(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: list[int], arena: bool
) -> None:
    found: list[bool] = []
    real = onnx_backend._runtime

    def session(content: bytes, options: Any, /, *, providers: list[str]) -> Any:
        found.append(options.enable_cpu_mem_arena)
        return real.InferenceSession(content, options, providers=providers)

    runtime = SimpleNamespace(SessionOptions=real.SessionOptions, InferenceSession=session)
    monkeypatch.setattr(onnx_backend, "_runtime", runtime)
    x, y = tensor("x", "FP32", shape), tensor("y", "FP32", shape)
    load_model(write_model(tmp_path, "y = Identity(x)", example=[1.0] * 3, inputs=[x], outputs=[y]))
    assert found == [arena]


@pytest.mark.parametrize(
    "failure",
    [
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Mul: std::bad_alloc",
        "[ONNXRuntimeError] : 1 : FAIL : bfc_arena.cc:360 Failed to allocate memory for requested buffer of size 16",
        MemoryError("Unable to allocate 2.98 GiB for an array"),
    ],
)
def test_a_failed_allocation_of_the_runtime_is_a_memory_error(failure: str | MemoryError) -> None:
    def run(*_: object) -> Any:
        raise failure if isinstance(failure, MemoryError) else RuntimeError(failure)

    session: Any = SimpleNamespace(run=run)
    with pytest.raises(MemoryError):
        onnx_backend.OnnxBackend(session, ["y"]).run({})


def test_a_model_whose_example_needs_too_much_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(write_model(tmp_path, "y = Identity(x)", example=[1.0]))

    def fail(*_: object) -> Any:
        raise MemoryError("8 GB")

    monkeypatch.setattr(model, "run", fail)
    with pytest.raises(StartError, match="memory does not suffice for the model's own example: 8 GB"):
        warm_up(model)


def test_allocations_are_bounded_by_the_memory_that_is_left() -> None:
    script = """
import resource, numpy as np
from server.model.memory import bound_allocations
bound_allocations(256 * 2**20)
kept = np.ones(2**24)  # 128 MB
try:
    np.ones(2**25)
except MemoryError:
    print("refused", np.ones(2**20).sum())
before = resource.getrlimit(resource.RLIMIT_DATA)
bound_allocations(2**40)
print(resource.getrlimit(resource.RLIMIT_DATA) == before)
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env={"PYTHONPATH": str(APP)}, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["refused 1048576.0", "True"], done.stderr


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"memory.max": "536870912\n"}, LIMIT),
        ({"memory.max": "max\n"}, None),
        ({"memory/memory.limit_in_bytes": "536870912\n"}, LIMIT),
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, None),
        ({"memory.max": "much\n"}, None),
        ({}, None),
    ],
)
def test_the_limit_is_the_cgroups(tmp_path: Path, files: dict[str, str], limit: int | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cgroup_limit(tmp_path) == limit


def test_the_heap_is_trimmed_when_the_model_is_idle_and_it_is_worthwhile() -> None:
    resident = [100 * 2**20]
    trims: list[int] = []

    def trim() -> None:
        trims.append(resident[0])
        resident[0] = min(resident[0], 100 * 2**20)

    trimmer = Trimmer(trim, lambda: resident[0])
    for size, idle in ((100, True), (300, False), (300, True), (100, True), (110, True), (120, True)):
        resident[0] = size * 2**20
        trimmer.tick(idle=idle)
    assert [size >> 20 for size in trims] == [100, 300, 120]
