"""The worked examples: each prepared and packaged as by `make example`, and compared with the library it comes from."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.model.harness import ROOT, package
from tests.zoo.conftest import Serve
from tools import environment, example


def _made(name: str, here: Path) -> Path:
    example.prepare(name, here / name)
    made = package(here, *example.options(name, here / name))
    assert made.status == 0, made.errors
    return made.folder


def _original(name: str, script: str) -> Any:
    """What a script prints as JSON, in the example's environment, with its prepare.py at hand."""
    python = environment.separate(ROOT, f"examples/{name}/requirements.lock") / "python"
    command = [str(python), "-B", "-W", "ignore", "-c", f"import json, prepare\n{script}"]
    done = subprocess.run(command, cwd=ROOT / "examples" / name, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_credit(tmp_path: Path, serve: Serve) -> None:
    script = """
import numpy as np, pandas as pd
data = prepare.loans()
rows = data[data.Income.isna()].head(3)
inputs = data.drop(columns="Status")
texts = {name: "category" for name in inputs if not pd.api.types.is_numeric_dtype(inputs[name])}
risks = prepare.train(data).predict(inputs.astype(texts).loc[rows.index])
print(json.dumps([json.loads(rows.drop(columns="Status").to_json(orient="records")), risks.tolist()]))
"""
    rows, risks = _original("credit", script)
    assert rows[0]["Income"] is None
    server = serve(_made("credit", tmp_path))
    answers = server.post(json.dumps({"inputs": rows})).json()["predictions"]
    assert answers == pytest.approx(risks, abs=1e-9)
    assert server.post(json.dumps({"input": rows[0]})).json()["prediction"] == pytest.approx(risks[0], abs=1e-9)
    counts = [line for line in server.get("/metrics").text.splitlines() if line.startswith("model_values_total")]
    assert any("Seniority" in line for line in counts)


def test_movies(tmp_path: Path, serve: Serve) -> None:
    script = """
table = prepare.ratings()
users, films = prepare.factorise(table)
row = table.index.get_loc(15)
scores = users[row] @ films
scores[(table.iloc[row] != 0).to_numpy()] = -1e9
best = (-scores).argsort()[:3]
print(json.dumps([[table.columns[film], float(scores[film])] for film in best]))
"""
    wanted = _original("movies", script)
    server = serve(_made("movies", tmp_path))
    films = server.post('{"input": {"user": "15", "k": 3}}').json()["prediction"]
    assert [film["title"] for film in films] == [title for title, _ in wanted]
    assert [film["score"] for film in films] == pytest.approx([score for _, score in wanted], rel=1e-4)
    refused = server.post('{"input": {"user": "nobody"}}')
    assert (refused.status_code, refused.json()["error"]["path"]) == (422, "$.input")


def test_photos(tmp_path: Path, serve: Serve) -> None:
    photos = environment.separate(ROOT, "tools/model/requirements-sklearn.lock").parent
    photo = next(photos.glob("lib/python*/site-packages/sklearn/datasets/images/china.jpg"))
    script = f"""
import sys, types
import torch
from PIL import Image
sys.modules["onnxruntime"] = types.ModuleType("onnxruntime")  # predictor.py imports it, and this environment lacks it
from predictor import pixels
del sys.modules["onnxruntime"]
with torch.no_grad():
    scores = prepare.network()(torch.from_numpy(pixels(Image.open({str(photo)!r}))[None]))[0].softmax(0)
values, classes = scores.topk(5)
print(json.dumps([[prepare.labels()[label], value] for label, value in zip(classes.tolist(), values.tolist())]))
"""
    folder = _made("photos", tmp_path)
    wanted = _original("photos", script)
    body = json.dumps({"input": base64.b64encode(photo.read_bytes()).decode()})
    guesses = serve(folder).post(body).json()["prediction"]
    assert [guess["label"] for guess in guesses] == [label for label, _ in wanted]
    assert [guess["probability"] for guess in guesses] == pytest.approx([value for _, value in wanted], abs=1e-4)
    assert "palace" in guesses[0]["label"]


def test_chat(tmp_path: Path, serve: Serve) -> None:
    server = serve(_made("chat", tmp_path))
    body = '{"input": {"messages": [{"role": "user", "content": "How does a for statement work?"}], "max_words": 12}}'
    events = server.post(body, headers={"accept": "text/event-stream"})
    assert events.headers["content-type"].startswith("text/event-stream")
    data = [json.loads(line.removeprefix("data: ")) for line in events.text.splitlines() if line.startswith("data: ")]
    assert len(data) == 12 + 1
    topics = json.loads((tmp_path / "chat/topics.json").read_text())
    assert any("".join(data[:-1]).strip() in text for text in topics.values())
    assert server.post(body).json()["prediction"] == "".join(data[:-1])
