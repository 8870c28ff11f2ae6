"""The Open Inference Protocol as its public client speaks it: tritonclient against the real server."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from onnx import helper
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException

from tests.app.conftest import StartServer
from tests.app.harness import IRIS, SETOSA, Server, tensor, write_model

X = np.array([[0.1, 2], [3, 1e30]], np.float32)
N = np.array([2**63 - 1, -(2**63)], np.int64)
TEXT = np.array(['say "text"', "\u20ac\n"], object)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A model that gives back what it is sent: numbers and strings."""
    types = {"x": ("FP32", [-1, 2]), "n": ("INT64", [-1]), "text": ("BYTES", [-1])}
    folder = write_model(
        tmp_path_factory.mktemp("echo"),
        [helper.make_node("Identity", [name], [f"{name}_out"]) for name in types],
        inputs=[tensor(name, *described) for name, described in types.items()],
        outputs=[tensor(f"{name}_out", *described) for name, described in types.items()],
        example={"inputs": {"x": [1, 2], "n": 3, "text": "four"}},
    )
    server = Server({"MODEL_DIR": str(folder)})
    yield server
    server.stop()


@pytest.fixture
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as client:
        yield client


def inputs(binary: bool, **changed: Any) -> list[triton.InferInput]:
    made: list[triton.InferInput] = []
    for name, datatype, array in (("x", "FP32", X), ("n", "INT64", N), ("text", "BYTES", TEXT)):
        data = changed.get(name, array)
        made.append(triton.InferInput(name, list(data.shape), datatype))
        made[-1].set_data_from_numpy(data, binary_data=binary)
    return made


def given(result: triton.InferResult, name: str) -> np.ndarray:
    array = result.as_numpy(name)
    assert array is not None
    return array


def text(result: triton.InferResult) -> list[str]:
    return [each.decode() if isinstance(each, bytes) else each for each in given(result, "text_out").tolist()]


def test_health_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("test")
    assert client.is_model_ready("test", "1")
    assert not client.is_model_ready("other")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata("test", "1")
    assert (metadata["name"], metadata["versions"], metadata["platform"]) == ("test", ["1"], "onnxruntime_onnx")
    assert metadata["inputs"][2] == {"name": "text", "datatype": "BYTES", "shape": [-1]}
    assert metadata["outputs"][0] == {"name": "x_out", "datatype": "FP32", "shape": [-1, 2]}


@pytest.mark.parametrize("binary_in", [True, False], ids=["binary-in", "json-in"])
@pytest.mark.parametrize("binary_out", [True, False, None], ids=["binary-out", "json-out", "unasked"])
def test_tensors_come_back_as_they_went(
    client: triton.InferenceServerClient, binary_in: bool, binary_out: bool | None
) -> None:
    names = ("text_out", "x_out", "n_out")
    wanted = None
    if binary_out is not None:
        wanted = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in names]
    result = client.infer("test", inputs(binary_in), model_version="1", outputs=wanted, request_id="r-1", timeout=10**6)
    response = result.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == ("r-1", "test", "1")
    assert np.array_equal(given(result, "x_out"), X)
    assert given(result, "x_out").dtype == np.float32
    assert np.array_equal(given(result, "n_out"), N)
    assert text(result) == TEXT.tolist()


def test_json_and_binary_in_one_request(client: triton.InferenceServerClient) -> None:
    mixed = [inputs(True)[0], inputs(False)[1], inputs(True)[2]]
    wanted = [
        triton.InferRequestedOutput("text_out", binary_data=True),
        triton.InferRequestedOutput("n_out", binary_data=False),
    ]
    result = client.infer("test", mixed, outputs=wanted)
    assert text(result) == TEXT.tolist()
    assert np.array_equal(given(result, "n_out"), N)
    assert result.as_numpy("x_out") is None


def test_requests_at_the_same_time(server: Server) -> None:
    with triton.InferenceServerClient(server.url.removeprefix("http://"), concurrency=8) as client:
        running = [
            client.async_infer("test", inputs(number % 2 == 0, n=np.array([number, -number], np.int64)))
            for number in range(64)
        ]
        for number, request in enumerate(running):
            assert given(request.get_result(), "n_out").tolist() == [number, -number]


@pytest.mark.parametrize(
    ("changed", "status", "message"),
    [
        ({"x": np.array([[1, 2, 3]] * 2, np.float32)}, "422", "(at $.inputs[0].shape)"),
        ({"x": np.array([[1, 2], [3, np.nan]], np.float32)}, "422", "(at $.inputs[0].data[3])"),
        ({"n": np.array([1], np.int64)}, "422", "(at $.inputs[1].shape)"),
        ({"text": np.array([b"a", b"\xff"], object)}, "400", "(at $.inputs[2].data[1])"),
    ],
)
def test_mistakes_are_told(
    client: triton.InferenceServerClient, changed: dict[str, Any], status: str, message: str
) -> None:
    with pytest.raises(InferenceServerException) as error:
        client.infer("test", inputs(True, **changed))
    assert error.value.status() == status
    assert message in error.value.message()
    assert np.array_equal(given(client.infer("test", inputs(True)), "x_out"), X)


def test_what_is_not_supported_is_told(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="404"):
        client.infer("other", inputs(True))
    with pytest.raises(InferenceServerException, match="content encoding"):
        client.infer("test", inputs(True), request_compression_algorithm="gzip")
    with pytest.raises(InferenceServerException, match="classification"):
        client.infer("test", inputs(True), outputs=[triton.InferRequestedOutput("x_out", class_count=2)])


def test_the_shipped_model(iris: Server) -> None:
    with triton.InferenceServerClient(iris.url.removeprefix("http://")) as client:
        described = client.get_model_metadata(IRIS["name"])
        row = triton.InferInput(described["inputs"][0]["name"], [1, 3], described["inputs"][0]["datatype"])
        row.set_data_from_numpy(np.array([SETOSA], np.float32))
        result = client.infer(IRIS["name"], [row])
    assert described["parameters"]["labels"]["species"][given(result, "species")[0]] == "setosa"
    assert given(result, "probabilities").shape == (1, 3)


def test_a_megabyte_is_at_least_five_times_faster_in_binary(start_server: StartServer, tmp_path: Path) -> None:
    width = 2**18
    folder = write_model(
        tmp_path / "wide",
        [helper.make_node("Neg", ["x"], ["y"])],
        inputs=[tensor("x", "FP32", [-1, width])],
        outputs=[tensor("y", "FP32", [-1, width])],
        example=[0.0] * width,
    )
    server = start_server(MODEL_DIR=str(folder), MAX_BODY_BYTES=str(2**24))
    values = np.random.default_rng(0).random((1, width), np.float32)
    described = {"name": "x", "datatype": "FP32", "shape": [1, width]}
    as_json = json.dumps({"inputs": [described | {"data": values.ravel().tolist()}]}).encode()
    asked = {
        "inputs": [described | {"parameters": {"binary_data_size": values.nbytes}}],
        "parameters": {"binary_data_output": True},
    }
    header = json.dumps(asked).encode()
    as_binary = header + values.tobytes()
    length = {"inference-header-content-length": str(len(header)), "content-type": "application/octet-stream"}

    with httpx.Client(base_url=server.url, trust_env=False, timeout=30) as client:

        def answer(body: bytes, headers: dict[str, str]) -> tuple[float, httpx.Response]:
            start = time.perf_counter()
            response = client.post("/v2/models/test/infer", content=body, headers=headers)
            seconds = time.perf_counter() - start
            assert response.status_code == 200, response.text
            return seconds, response

        jsons, binaries = (
            [answer(body, headers) for _ in range(4)]
            for body, headers in ((as_json, {"content-type": "application/json"}), (as_binary, length))
        )
    binary = binaries[0][1]
    data = binary.content[int(binary.headers["inference-header-content-length"]) :]
    assert data == (-values).tobytes()
    assert np.array_equal(np.float32(jsons[0][1].json()["outputs"][0]["data"]), -values.ravel())
    assert min(seconds for seconds, _ in jsons) > 5 * min(seconds for seconds, _ in binaries)
