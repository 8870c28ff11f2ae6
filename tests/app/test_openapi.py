"""The OpenAPI document: valid, and what the server does, as schemathesis finds with some thousand requests."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import msgspec
import numpy as np
import pytest
import schemathesis
from onnx import TensorProto, helper

from server.errors import Problem
from server.model.manifest import Image, Input, Manifest, Output, read_manifest
from server.protocol.openapi import describe
from server.protocol.predict_json import Decoder
from server.settings import read_settings
from tests.app.conftest import StartServer
from tests.app.harness import MODEL, Server, constant, tensor, write_model

CONFIGURATION = Path(__file__).with_name("schemathesis.toml")
HOOKS = Path(__file__).with_name("schemathesis_hooks.py")
SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
MAX_ROWS = 6
EXAMPLES = 12
"""Requests for each operation in the fuzzing phase, at most."""
KEY = "s3cret"
ANSWER = ("responses", "200", "content", "application/json", "schema")
"""From an operation to the schema of its answers."""


@pytest.fixture
def named_model(tmp_path: Path) -> Path:
    """Inputs of every kind. Whatever they are, the answer is finite."""
    return write_model(
        tmp_path / "a {model}",
        [
            helper.make_node("IsNaN", ["score"], ["unknown"]),
            helper.make_node("Where", ["unknown", "zero", "score"], ["known"]),
            helper.make_node("Identity", ["text"], ["echo"]),
            helper.make_node("Identity", ["counts"], ["same"]),
            helper.make_node("Cast", ["flag"], ["class"], to=TensorProto.INT64),
        ],
        inputs=[
            tensor("text", "BYTES", [-1]),
            tensor("counts", "INT64", [-1, 2], features=["in", "out"]),
            tensor("score", "FP32", [-1, 1], nullable=True),
            tensor("flag", "BOOL", [-1]),
        ],
        outputs=[
            tensor("unknown", "BOOL", [-1, 1]),
            tensor("known", "FP32", [-1, 1]),
            tensor("echo", "BYTES", [-1]),
            tensor("same", "INT64", [-1, 2]),
            tensor("class", "INT64", [-1], labels=["off", "on"]),
        ],
        initializers=[constant("zero", np.array([[0]], np.float32))],
        example={"inputs": {"text": "Grüße", "counts": [1, -2], "score": None, "flag": True}},
        name="a {model}",
        version="2/b",
    )


def described(manifest: Manifest, **environment: str) -> bytes:
    settings = read_settings(environment)
    return describe(
        manifest,
        max_rows=settings.max_rows,
        max_body_bytes=settings.max_body_bytes,
        timeout_ms=settings.timeout_ms,
        needs_key=settings.api_key is not None,
    )


def documented(manifest: Manifest, **environment: str) -> dict[str, Any]:
    document = json.loads(described(manifest, **environment))
    schemathesis.openapi.from_dict(document).validate()
    return document


def validator(document: dict[str, Any], *path: str) -> jsonschema_rs.Validator:
    schema = reduce(getitem, path, document)
    return jsonschema_rs.Draft202012Validator({"components": document["components"], **schema})


def request_body(document: dict[str, Any], path: str = "/predict") -> jsonschema_rs.Validator:
    return validator(document, "paths", path, "post", "requestBody", "content", "application/json", "schema")


def explore(server: Server, folder: Path, *options: str) -> None:
    """Fail with schemathesis' report if the server does not do what its document says."""
    run = subprocess.run(
        [
            SCHEMATHESIS,
            f"--config-file={CONFIGURATION}",
            "run",
            f"{server.url}/openapi.json",
            f"--max-examples={EXAMPLES}",
            "--no-color",
            *options,
        ],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8", "SCHEMATHESIS_HOOKS": str(HOOKS)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    tested = re.search(r"(\d+) generated, ", run.stdout)
    assert tested, run.stdout
    assert int(tested[1]) > 500


@pytest.fixture(params=["open", "key"])
def environment(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    if request.param == "open":
        return {}
    file = tmp_path / "key"
    file.write_text(KEY)
    return {"API_KEY_FILE": str(file)}


def key_option(environment: dict[str, str]) -> list[str]:
    return [f"--header=Authorization: Bearer {KEY}"] if environment else []


def test_the_server_does_what_the_document_says_for_one_input(
    start_server: StartServer, environment: dict[str, str], tmp_path: Path
) -> None:
    server = start_server(MAX_ROWS=str(MAX_ROWS), **environment)
    # Far from its training data, this model has no finite answer: 422.
    explore(server, tmp_path, "--exclude-checks=positive_data_acceptance", *key_option(environment))
    assert [line for line in server.logs if line["level"] == "error"] == []


def test_the_server_does_what_the_document_says_for_several_inputs(
    start_server: StartServer, environment: dict[str, str], named_model: Path, tmp_path: Path
) -> None:
    server = start_server(MAX_ROWS=str(MAX_ROWS), MODEL_DIR=str(named_model), **environment)
    explore(server, tmp_path, *key_option(environment))
    assert [line for line in server.logs if line["level"] == "error"] == []


def manifest(inputs: list[Input], outputs: list[Output] | None = None, **more: Any) -> Manifest:
    outputs = outputs or [Output(name="y", datatype="FP32", shape=[-1])]
    example = msgspec.Raw(json.dumps(more.pop("example", {"input": [1, 2]})).encode())
    return Manifest(name="m", version="3", inputs=inputs, outputs=outputs, example=example, **more)


def one(datatype: Any, shape: list[int], **more: Any) -> Manifest:
    row: Any = "aGk=" if "image" in more or datatype == "BYTES" else 0
    for size in [] if "image" in more else shape[:0:-1]:
        row = [row] * abs(size)
    return manifest([Input(name="x", datatype=datatype, shape=shape, **more)], example={"input": row})


def accepted(model: Manifest, *values: Any, max_rows: int = 9) -> list[bool]:
    """Whether the document accepts each as `input`. The decoder must agree."""
    body = request_body(documented(model, MAX_ROWS=str(max_rows)))
    decoder = Decoder(model, max_rows)

    def decodes(value: Any) -> bool:
        try:
            decoder.decode(json.dumps({"input": value}).encode())
        except Problem:
            return False
        return True

    found = [body.is_valid({"input": value}) for value in values]
    assert found == [decodes(value) for value in values]
    return found


def test_it_lists_every_path_of_the_server_and_no_other(iris: Server) -> None:
    document = iris.get("/openapi.json").json()
    paths = iris.get("/nothing").json()["error"]["message"].partition("there are ")[2].split(", ")
    assert sorted(document["paths"]) == sorted(paths)
    for path, item in document["paths"].items():
        assert iris.get(path).status_code == (405 if "post" in item else 200), path


def test_examples_fit_their_own_schemas_and_the_server(start_server: StartServer, named_model: Path) -> None:
    server = start_server(MODEL_DIR=str(named_model))
    document = server.get("/openapi.json").json()
    tried = 0
    for path, item in document["paths"].items():
        if "post" not in item:
            continue
        body = item["post"]["requestBody"]["content"]["application/json"]["example"]
        request_body(document, path).validate(body)
        assert httpx.post(f"{server.url}{path}", json=body, trust_env=False).status_code == 200
        tried += 1
    assert tried == 3
    infer = document["paths"]["/v2/models/a%20%7Bmodel%7D/infer"]["post"]
    data = [each["data"] for each in infer["requestBody"]["content"]["application/json"]["example"]["inputs"]]
    assert data == [["Grüße"], [1, -2], [None], [True]]


def test_numbers_in_an_example_are_as_short_as_they_were_written() -> None:
    document = documented(read_manifest(MODEL / "model.json"))
    content = document["paths"]["/v2/models/iris/infer"]["post"]["requestBody"]["content"]
    assert content["application/json"]["example"]["inputs"][0]["data"] == [5.1, 1.4, 0.2]


def test_rows_have_their_width_and_requests_their_limit_of_rows() -> None:
    model = one("FP32", [-1, 2])
    assert accepted(model, [1, 2], [[1, 2]], [[1, 2], [3, 4]], max_rows=2) == [True] * 3
    wrong = [[1], [1, 2, 3], [[1, 2], [3]], [[1, 2]] * 3, [], 1, [None, 1], ["1", 2]]
    assert accepted(model, *wrong, max_rows=2) == [False] * 8
    body = request_body(documented(model))
    assert body.is_valid({"inputs": [{"x": [1, 2]}]})
    assert not body.is_valid({"inputs": [{"x": [1, 2], "y": 1}]})
    assert not body.is_valid({"input": [1, 2], "inputs": {"x": [1, 2]}})


def test_one_value_a_row_may_stand_without_brackets_but_not_in_a_list_of_rows() -> None:
    assert accepted(one("BYTES", [-1, 1]), "a", ["a"], [["a"], ["b"]], ["a", "b"], [["a"], "b"]) == [
        True,
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("datatype", "low", "high"), [("UINT8", 0, 255), ("INT64", -(2**63), 2**63 - 1), ("UINT64", 0, 2**64 - 1)]
)
def test_numbers_have_the_bounds_of_their_datatype(datatype: Any, low: int, high: int) -> None:
    assert accepted(one(datatype, [-1]), low, high, [low, high], low - 1, high + 1) == [True, True, True, False, False]


def test_a_size_that_varies_has_a_maximum_and_a_missing_value_is_allowed_where_it_is() -> None:
    model = one("FP32", [-1, -1, 2], nullable=True, max_size=9)
    assert accepted(model, [[1, None]], [[1, 2]] * 9, [[[1, 2]] * 9], [[1]], [[1, "a"]]) == [True] * 3 + [False] * 2
    assert accepted(model, [[1, 2]] * 10, [[[1, 2]] * 10]) == [False] * 2
    infer = request_body(documented(model), "/v2/models/m/infer")
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 9, 2], "data": [0] * 18}
    assert infer.is_valid({"inputs": [tensor]})
    assert not infer.is_valid({"inputs": [tensor | {"shape": [1, 10, 2]}]})


def test_a_text_has_a_maximum() -> None:
    model = one("BYTES", [-1, 1], max_characters=4)
    assert accepted(model, "abcd", ["abcd"], [["abcd"], ["a"]], "abcde", [["a"], ["abcde"]]) == [True] * 3 + [False] * 2
    infer = request_body(documented(model), "/v2/models/m/infer")
    tensor = {"name": "x", "datatype": "BYTES", "shape": [1, 1], "data": ["abc"]}
    assert [infer.is_valid({"inputs": [tensor | {"data": [text]}]}) for text in ("abcd", "abcde")] == [True, False]


def test_a_model_without_rows_has_none_in_the_protocol() -> None:
    model = manifest(
        [Input(name="x", datatype="FP32", shape=[2, 2])],
        [Output(name="y", datatype="FP32", shape=[2])],
        batching="none",
        example={"input": [[1, 2], [3, 4]]},
    )
    assert accepted(model, [[1, 2], [3, 4]], [[[1, 2], [3, 4]]] * 2, [1, 2]) == [True, True, False]
    infer = request_body(documented(model), "/v2/models/m/infer")
    tensor = {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [[1, 2], [3, 4]]}
    assert infer.is_valid({"inputs": [tensor]})
    assert infer.is_valid({"inputs": [tensor | {"data": [1, 2, 3, 4]}]})
    assert not infer.is_valid({"inputs": [tensor | {"shape": [1, 2, 2]}]})


def test_the_protocols_inputs_are_told_apart_by_their_names() -> None:
    model = manifest(
        [Input(name="a", datatype="FP32", shape=[-1, 2]), Input(name="b", datatype="BYTES", shape=[-1])],
        example={"inputs": {"a": [1, 2], "b": "c"}},
    )
    infer = request_body(documented(model, MAX_ROWS="2"), "/v2/models/m/infer")
    a = {"name": "a", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
    b = {"name": "b", "datatype": "BYTES", "shape": [1], "data": ["c"]}
    assert infer.is_valid({"inputs": [a, b], "outputs": [{"name": "y"}]})
    assert infer.is_valid({"inputs": [b, a]})
    wrong = [[a], [a, b, b], [a | {"name": "b"}, b], [a | {"shape": [3, 2]}, b], [a, b | {"data": [1]}]]
    assert not any(infer.is_valid({"inputs": inputs}) for inputs in wrong)
    assert not infer.is_valid({"inputs": [a, b], "outputs": [{"name": "a"}]})


def test_pictures_are_texts_and_have_no_example_in_the_protocol() -> None:
    model = one("FP32", [-1, 3, 8, 8], image=Image())
    document = documented(model)
    body = request_body(document)
    assert [body.is_valid({"input": value}) for value in ("aGk=", ["aGk="], 1)] == [True, True, False]
    content = document["paths"]["/v2/models/m/infer"]["post"]["requestBody"]["content"]["application/json"]
    assert "example" not in content


def test_answers_are_described_by_labels_and_shapes() -> None:
    outputs = [
        Output(name="class", datatype="INT64", shape=[-1], labels=["a", "b c"]),
        Output(name="scores", datatype="FP32", shape=[-1, 2], labels=["a", "b c"]),
        Output(name="box", datatype="FP32", shape=[-1, 4]),
    ]
    document = documented(manifest([Input(name="x", datatype="FP32", shape=[-1, 2])], outputs))
    answer = validator(document, "paths", "/predict", "post", *ANSWER)
    value = {"class": "b c", "scores": {"a": 0.5, "b c": 0.5}, "box": [1, 2, 3, 4]}
    model = {"name": "m", "version": "3"}
    answer.validate({"model": model, "prediction": value})
    answer.validate({"model": model, "predictions": [value, value]})
    for wrong in ({"class": "c"}, {"scores": {"a": 1}}, {"box": [1]}):
        assert not answer.is_valid({"model": model, "prediction": value | wrong})


def test_a_key_is_asked_for_where_the_server_asks_for_it(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(KEY)
    text = described(read_manifest(MODEL / "model.json"), API_KEY_FILE=str(tmp_path / "key"))
    assert KEY.encode() not in text
    paths = json.loads(text)["paths"]
    secured = {path for path, item in paths.items() for operation in item.values() if "security" in operation}
    assert secured == {"/predict", "/v2/models/iris/infer", "/v2/models/iris/versions/1/infer"}
    assert all("401" in paths[path]["post"]["responses"] for path in secured)
    assert "securitySchemes" not in documented(read_manifest(MODEL / "model.json"))["components"]


def test_names_may_be_any_text() -> None:
    names = ("a b", "a_b", "ü{}/", "Row", "class")
    outputs = [Output(name=name, datatype="FP32", shape=[-1, 2], labels=[f"{name}1", "b"]) for name in names]
    inputs = [Input(name=name, datatype="BOOL", shape=[-1]) for name in names]
    row = dict.fromkeys(names, True)
    document = documented(manifest(inputs, outputs, example={"inputs": row}))
    request_body(document).validate({"inputs": [row]})
    answer = validator(document, "paths", "/predict", "post", *ANSWER)
    scores = {name: {f"{name}1": 1, "b": 0} for name in names}
    answer.validate({"model": {"name": "m", "version": "3"}, "predictions": [scores]})
