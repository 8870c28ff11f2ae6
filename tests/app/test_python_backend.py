"""The author's predictor in the real server: what it takes, what it answers, and whose fault a failure is."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from PIL import Image

from server.errors import Problem, StartError
from server.model.inputs import held_bytes
from server.model.loaded_model import Model, load_model
from server.model.manifest import parse_manifest
from server.model.tensors import Tensors, objects
from server.predictor import warm_up
from server.protocol.predict_json import Decoder
from tests.app.conftest import StartServer
from tests.app.harness import Server, tensor
from tests.app.predictors import write_predictor

TEXT = [tensor("text", "BYTES", [-1])]
NUMBER = [tensor("y", "FP64", [-1])]


def asked(server: Server, body: Any, path: str = "/predict") -> httpx.Response:
    return server.post(json.dumps(body), path)


def loaded(folder: Path) -> Model:
    model = load_model(folder)
    warm_up(model)
    return model


def test_tensors_go_in_and_come_out(start_server: StartServer, tmp_path: Path) -> None:
    write_predictor(
        tmp_path,
        """
        from pathlib import Path
        import numpy as np
        from net import scale

        class Predictor:
            def __init__(self, folder: Path) -> None:
                self.weight = float((folder / "weight.txt").read_text())

            def predict(self, inputs):
                inputs["x"] *= 1  # the code may change what it gets
                return {"y": scale(inputs["x"].sum(axis=1)) * self.weight}
        """,
        files={"net.py": "def scale(x): return x * 2", "weight.txt": "3"},
        inputs=[tensor("x", "FP32", [-1, 3], features=["a", "b", "c"])],
        outputs=[tensor("y", "FP32", [-1])],
        example={"input": [1, 2, 3]},
        call="tensors",
    )
    server = start_server(MODEL_DIR=str(tmp_path))
    assert server.event("ready")["inline_rows"] == 0
    assert asked(server, {"input": [1, 2, 3]}).json()["prediction"] == 36
    assert asked(server, {"input": [{"c": 3, "a": 1, "b": 2}, {"a": 0, "b": 0, "c": 1}]}).json()["predictions"] == [
        36,
        6,
    ]
    binary = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}
    assert asked(server, binary, "/v2/models/test/infer").json()["outputs"][0]["data"] == [36]
    wrong = asked(server, {"input": {"a": 1, "b": "x", "c": 3}}).json()["error"]
    assert (wrong["code"], wrong["path"]) == ("wrong_type", "$.input.b")
    for row, message in (({"a": 1, "b": 2}, "missing required field `c`"), ({"a": 1, "b": 2, "c": 3, "d": 4}, "`d`")):
        answer = asked(server, {"input": row})
        assert answer.status_code == 422
        assert message in answer.json()["error"]["message"]
    twice = server.post('{"input": {"a": 1, "b": 2, "c": 3, "a": 4}}')
    assert (twice.status_code, twice.json()["error"]["path"]) == (400, "$.input.a")


FAILING = """
import json

class Predictor:
    def predict(self, text: list[str]) -> list[float]:
        if "refused" in text:
            raise ValueError("this text is refused")
        if "library" in text:
            json.loads("not JSON")
        if "bug" in text:
            raise KeyError("bug")
        if "exit" in text:
            raise SystemExit(1)
        if "few" in text:
            return [1.0, 2.0, 3.0]
        if "words" in text:
            return ["one"] * len(text)
        if "nan" in text:
            return [float("nan")] * len(text)
        return [float(len(each)) for each in text]
"""


@pytest.mark.parametrize(
    ("rows", "status", "code", "path"),
    [
        (["refused"], 422, "rejected_by_predictor", "$.input[0]"),
        (["a", "b", "c", "refused", "d"], 422, "rejected_by_predictor", "$.input[3]"),
        ("refused", 422, "rejected_by_predictor", "$.input"),
        ("library", 500, "model_failed", None),
        ("bug", 500, "model_failed", None),
        ("exit", 500, "model_failed", None),
        ("few", 500, "model_failed", None),
        ("words", 500, "model_failed", None),
        ("nan", 422, "non_finite_output", "$.input"),
    ],
)
def test_whose_fault_a_failure_is(failing: Server, rows: Any, status: int, code: str, path: str | None) -> None:
    answer = asked(failing, {"input": rows})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error.get("path")) == (status, code, path)
    assert asked(failing, {"input": "four"}).json()["prediction"] == 4


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = write_predictor(
        tmp_path_factory.mktemp("failing"), FAILING, inputs=TEXT, outputs=NUMBER, example={"input": "ab"}, call="batch"
    )
    server = Server({"MODEL_DIR": str(folder)})
    yield server
    server.stop()


def test_a_failure_is_logged_with_its_traceback_and_a_wrong_answer_with_what_came(failing: Server) -> None:
    asked(failing, {"input": "bug"})
    assert any("KeyError: 'bug'" in line.get("traceback", "") for line in failing.logs)
    assert "3 values for 1 rows" in asked(failing, {"input": "few"}).json()["error"]["message"]


SHOP = """
from dataclasses import dataclass
from typing import Literal

@dataclass
class Item:
    name: str
    price: float

@dataclass
class Bill:
    total: float
    names: list[str]
    size: str

class Predictor:
    def predict(
        self, items: list[Item], size: Literal["s", "m"], note: str | None = None, times: int = 2
    ) -> Bill:
        return Bill(sum(item.price for item in items), [item.name for item in items] * times, f"{size} {note}")
"""
ITEMS_SCHEMA = {
    "type": "array",
    "items": {"$ref": "#/$defs/Item"},
    "$defs": {
        "Item": {
            "title": "Item",
            "type": "object",
            "properties": {"name": {"type": "string"}, "price": {"type": "number"}},
            "required": ["name", "price"],
        }
    },
}
ROW = {"items": [{"name": "a", "price": 1}], "size": "s"}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = write_predictor(
        tmp_path_factory.mktemp("shop"),
        SHOP,
        inputs=[
            tensor("items", "JSON", [-1], json_schema=ITEMS_SCHEMA),
            tensor("size", "BYTES", [-1], json_schema={"enum": ["s", "m"]}),
            tensor("note", "BYTES", [-1], nullable=True, default=None),
            tensor("times", "INT64", [-1], default=2),
        ],
        outputs=[tensor("total", "FP64", [-1]), tensor("names", "BYTES", [-1, -1]), tensor("size", "BYTES", [-1])],
        example={"inputs": ROW},
        call="row",
    )
    server = Server({"MODEL_DIR": str(folder)})
    yield server
    server.stop()


@pytest.mark.parametrize("key", ["input", "inputs"])
def test_dataclasses_choices_and_optional_members(shop: Server, key: str) -> None:
    assert asked(shop, {key: ROW}).json()["prediction"] == {"total": 1, "names": ["a", "a"], "size": "s None"}
    rows = [{**ROW, "times": 1, "note": "x"}, {"items": [], "size": "m", "note": None}]
    assert asked(shop, {key: rows}).json()["predictions"] == [
        {"total": 1, "names": ["a"], "size": "s x"},
        {"total": 0, "names": [], "size": "m None"},
    ]


@pytest.mark.parametrize(
    ("row", "path"),
    [
        ({**ROW, "items": [{"name": "a", "price": "x"}]}, "$.inputs[1].items[0].price"),
        ({**ROW, "items": 3}, "$.inputs[1].items"),
        ({**ROW, "size": "l"}, "$.inputs[1].size"),
        ({**ROW, "times": "1"}, "$.inputs[1].times"),
        ({**ROW, "other": "1"}, "$.inputs[1]"),
        ({"items": []}, "$.inputs[1]"),
    ],
)
def test_a_mistake_is_named_with_its_path(shop: Server, row: dict[str, Any], path: str) -> None:
    answer = asked(shop, {"inputs": [ROW, row]})
    assert (answer.status_code, answer.json()["error"]["path"]) == (422, path)


def test_a_key_twice_within_json_is_refused(shop: Server) -> None:
    answer = shop.post('{"inputs": {"items": [{"name": "a", "name": "b", "price": 1}], "size": "s"}}')
    assert (answer.status_code, answer.json()["error"]["path"]) == (400, "$.inputs.items[0].name")


def test_v2_has_json_as_text(shop: Server) -> None:
    inputs = [
        {"name": "size", "datatype": "BYTES", "shape": [1], "data": ["s"]},
        {"name": "items", "datatype": "BYTES", "shape": [1], "data": ['[{"name":"a","price":1}]']},
    ]
    outputs = asked(shop, {"inputs": inputs}, "/v2/models/test/infer").json()["outputs"]
    assert [output["data"] for output in outputs] == [[1], ["a", "a"], ["s None"]]
    inputs[1]["data"] = ['[{"name":"a"}]']
    assert "(at $.inputs[1].data[0][0])" in asked(shop, {"inputs": inputs}, "/v2/models/test/infer").json()["error"]
    inputs[1]["data"] = ["{"]
    answer = asked(shop, {"inputs": inputs}, "/v2/models/test/infer")
    assert answer.status_code == 400
    assert "$.inputs[1].data[0]" in answer.json()["error"]
    metadata = shop.get("/v2/models/test").json()
    assert [each["datatype"] for each in metadata["inputs"]] == ["BYTES", "BYTES", "BYTES", "INT64"]
    assert metadata["parameters"]["json_schemas"] == {"items": ITEMS_SCHEMA}


def test_openapi_has_the_schema_and_its_definitions(shop: Server) -> None:
    document = shop.get("/openapi.json").json()
    text = json.dumps(document)
    schemas = document["components"]["schemas"]
    assert "#/$defs/" not in text
    assert schemas["items.Item"]["required"] == ["name", "price"]
    row = schemas["Row"]
    assert row["properties"]["items"]["items"] == {"$ref": "#/components/schemas/items.Item"}
    assert row["required"] == ["items", "size"]
    assert row["properties"]["size"]["enum"] == ["s", "m"]
    assert {"PredictNamed", "PredictByName"} <= set(schemas)


def picture(width: int, height: int) -> str:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (200, 10, 10)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_pictures_of_any_size_are_the_codes_own(start_server: StartServer, tmp_path: Path) -> None:
    write_predictor(
        tmp_path,
        """
        from PIL import Image

        class Predictor:
            def predict(self, photo: list[Image.Image]) -> list[list[int]]:
                return [[*each.size, *each.getpixel((0, 0))] for each in photo]
        """,
        inputs=[tensor("photo", "UINT8", [-1, -1, -1, 3], image={"layout": "HWC"})],
        outputs=[tensor("size", "INT64", [-1, -1])],
        example={"input": picture(4, 3)},
        call="batch",
    )
    server = start_server(MODEL_DIR=str(tmp_path))
    colour = [200, 10, 10]
    assert asked(server, {"input": picture(7, 5)}).json()["prediction"] == [7, 5, *colour]
    many = asked(server, {"input": [picture(7, 5), picture(2000, 1500), picture(1, 2)]}).json()["predictions"]
    assert many == [[7, 5, *colour], [2000, 1500, *colour], [1, 2, *colour]]
    damaged = base64.b64encode(b"\x89PNG\r\n\x1a\nrest").decode()
    assert asked(server, {"input": [picture(2, 2), damaged]}).json()["error"]["path"] == "$.input[1]"
    pixels = {"name": "photo", "datatype": "UINT8", "shape": [1, 1, 2, 3], "data": [1, 2, 3, 4, 5, 6]}
    answer = asked(server, {"inputs": [pixels]}, "/v2/models/test/infer").json()
    assert answer["outputs"][0]["data"] == [2, 1, 1, 2, 3]
    large = server.post(b'{"input": "' + b"A" * (15 * 2**20) + b'"}')
    assert large.status_code == 422
    too_large = server.post(b"A" * (17 * 2**20))
    assert too_large.status_code == 413
    assert "MAX_BODY_BYTES" in too_large.json()["error"]["message"]


def test_a_generator_streams_and_is_collected(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    folder = write_predictor(
        tmp_path / "model",
        f"""
        from collections.abc import Iterator
        from pathlib import Path

        class Predictor:
            def predict(self, prompt: str, n: int = 2) -> Iterator[str]:
                try:
                    for index in range(n):
                        if prompt == "bad":
                            raise ValueError("say something else")
                        yield prompt + str(index)
                finally:
                    Path({str(closed)!r}).write_text("closed")
        """,
        inputs=[tensor("prompt", "BYTES", [-1]), tensor("n", "INT64", [-1], default=2)],
        outputs=[tensor("text", "BYTES", [-1])],
        example={"inputs": {"prompt": "a"}},
        call="row",
        streams=True,
    )
    model = loaded(folder)
    assert model.streams
    decode = Decoder(model.manifest, max_rows=9).decode
    rows = decode(b'{"inputs": {"prompt": "a", "n": 3}}').tensors
    assert list(model.stream(rows)) == ["a0", "a1", "a2"]
    assert model.run(model.prepare(rows))["text"].tolist() == ["a0a1a2"]  # pyright: ignore[reportArgumentType]  # no plain row
    closed.unlink()
    pieces = model.stream(rows)
    assert next(pieces) == "a0"
    pieces.close()  # pyright: ignore[reportAttributeAccessIssue]  # a generator
    assert closed.exists()
    with pytest.raises(Problem, match="say something else") as raised:
        next(model.stream(decode(b'{"inputs": {"prompt": "bad"}}').tensors))
    assert (raised.value.status, raised.value.code, raised.value.row) == (422, "rejected_by_predictor", 0)


def test_a_slow_model_delays_the_start_by_two_runs(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    folder = write_predictor(
        tmp_path / "model",
        f"""
        import time
        from pathlib import Path

        class Predictor:
            def predict(self, words: list[list[str]]) -> list[float]:
                with Path({str(calls)!r}).open("a") as file:
                    file.write(f"{{len(words)}} ")
                time.sleep(0.3)
                return [1.0] * len(words)
        """,
        inputs=[tensor("words", "BYTES", [-1, -1])],
        outputs=NUMBER,
        example={"input": ["a"]},
        call="batch",
    )
    loaded(folder)
    assert calls.read_text().split() == ["1", "1"]


@pytest.mark.parametrize(
    ("code", "changes", "message"),
    [
        ("class Other: pass", {}, "does not define Predictor"),
        ("class Predictor: pass", {}, "must have the method predict"),
        ("class Predictor:\n def predict(self, text: int) -> float: ...", {}, "as INT64 .*model.json has BYTES"),
        ("class Predictor:\n def predict(self, other: str) -> float: ...", {}, r"takes \['other'\]"),
        ("class Predictor:\n def predict(self, text: str) -> str: ...", {}, "answers 'output' as BYTES"),
        ("class Predictor:\n def predict(self, text: str) -> float: ...", {"streams": True}, "package the model again"),
        (
            "class Predictor:\n def __init__(self): open('/no/file')\n def predict(self, text: str) -> float: ...",
            {},
            "predictor.py, line 2: FileNotFoundError",
        ),
        ("class Predictor:\n def predict(self, text: str) -> float: return None", {}, "cannot answer its own example"),
    ],
)
def test_what_does_not_agree_with_model_json_does_not_start(
    tmp_path: Path, code: str, changes: dict[str, Any], message: str
) -> None:
    members: Any = {"call": "row", **changes}
    folder = write_predictor(tmp_path, code, inputs=TEXT, outputs=NUMBER, example={"input": "a"}, **members)
    with pytest.raises(StartError, match=message):
        loaded(folder)


def test_a_row_that_its_dataclass_refuses_is_the_clients(tmp_path: Path) -> None:
    folder = write_predictor(
        tmp_path,
        """
        from dataclasses import dataclass

        @dataclass
        class Customer:
            age: int
            def __post_init__(self) -> None:
                if self.age < 0:
                    raise ValueError("age must not be negative")

        class Predictor:
            def predict(self, customers: list[Customer]) -> list[float]:
                return [each.age / 2 for each in customers]
        """,
        inputs=[tensor("age", "INT64", [-1])],
        outputs=NUMBER,
        example={"inputs": {"age": 3}},
        call="batch",
    )
    model = loaded(folder)
    rows = Decoder(model.manifest, max_rows=9).decode(b'{"inputs": [{"age": 3}, {"age": -1}]}')
    with pytest.raises(Problem, match="age must not be negative") as raised:
        model.run(model.join([rows.tensors]))
    assert rows.locate(raised.value).path == "$.inputs[1]"
    assert msgspec.json.encode(model.run({"age": rows.tensors["age"][:1]})["y"].tolist()) == b"[1.5]"  # pyright: ignore[reportIndexIssue]  # no plain row


def test_json_and_missing_texts_count_by_their_length() -> None:
    row = {"a": ["x" * 1000]}
    small, large = ({"x": objects([value])} for value in (None, row))
    assert held_bytes(small) < 200 < 1000 < held_bytes(large)
    assert held_bytes({"x": objects(["a" * 1000, None])}) >= 1000
    description = {
        "name": "m",
        "version": "1",
        "format": "python",
        "inputs": [tensor("x", "JSON", [-1])],
        "outputs": NUMBER,
        "example": {"input": 1},
        "predictor": {"call": "batch", "sha256": {}},
    }
    model = Model(parse_manifest(json.dumps(description).encode()), Echo(), None)
    assert model.sizes_vary
    assert model.row_cost(large) > 4000 > model.row_cost(small) > 0


class Echo:
    """A backend that is not asked."""

    def run(self, inputs: Tensors) -> Tensors:
        return inputs
