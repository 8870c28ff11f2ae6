"""`make model FROM=folder`: the author's predictor.py, packaged by its command and asked over HTTP."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.model.conftest import Ask
from tests.model.harness import ROOT, Outcome, package
from tests.support.wheels import index, wheel

BATCH = """
from pathlib import Path

class Predictor:
    def __init__(self, folder: Path) -> None:
        self.good = set((folder / "words/good.txt").read_text().split())

    def predict(self, text: list[str], weight: list[float]) -> list[float]:
        return [w * sum(word in self.good for word in t.split()) for t, w in zip(text, weight)]
"""
ROW = """
EXAMPLE = {"city": "Rome", "age": 30}

def predict(city: str | None, age: float, limit: int = 18) -> dict:
    return {"where": city or "nowhere", "adult": age >= limit}
"""


def write(folder: Path, files: Mapping[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def packaged(here: Path, files: Mapping[str, str], *options: str) -> Outcome:
    write(here / "mine", files)
    return package(here, "mine", *options)


def test_a_class_that_predicts_batches(tmp_path: Path, ask: Ask) -> None:
    files = {
        "predictor.py": BATCH,
        "words/good.txt": "good fine",
        ".git/config": "",
        "__pycache__/predictor.pyc": "",
        "venv/pyvenv.cfg": "",
        "venv/bad.py": "",
    }
    outcome = packaged(tmp_path, files)
    description = outcome.description
    assert {each["name"]: (each["datatype"], each["shape"]) for each in description["inputs"]} == {
        "text": ("BYTES", [-1]),
        "weight": ("FP64", [-1]),
    }
    assert description["predictor"]["call"] == "batch"
    assert list(description["predictor"]["sha256"]) == ["predictor.py"]
    assert description["source"]["files"] == ["predictor.py", "words/good.txt"]
    assert sorted(each.name for each in outcome.folder.iterdir()) == ["model.json", "predictor.py", "words"]
    answer = ask(outcome.folder, '{"inputs": [{"text": "a good one", "weight": 2}, {"text": "bad", "weight": 1}]}')
    assert answer["predictions"] == [2.0, 0.0]


def test_a_function_for_one_row_with_data(tmp_path: Path, ask: Ask) -> None:
    (tmp_path / "train.csv").write_text("city,age\nRome,30\n,3\nBern,17\n")
    outcome = packaged(tmp_path, {"predictor.py": ROW}, "--data=train.csv")
    description = outcome.description
    assert [each.get("default", "") for each in description["inputs"]] == ["", "", 18]
    assert description["example"] == {"inputs": {"city": "Rome", "age": 30}}
    assert description["profile"]["rows"] == 3
    assert description["profile"]["features"]["city"]["missing"] == 1
    assert description["profile"]["outputs"]["adult"]["categories"] == {"false": 2, "true": 1}
    answer = ask(outcome.folder, '{"inputs": {"city": null, "age": 20, "limit": 21}}')
    assert answer["prediction"] == {"where": "nowhere", "adult": False}


def test_a_function_without_anything_is_tried_with_made_up_values(tmp_path: Path) -> None:
    code = "from dataclasses import dataclass\n@dataclass\nclass Item:\n    name: str\n    sizes: list[list[int]]\n"
    code += "def predict(items: list[Item], kind: bool) -> int:\n    return sum(len(item.sizes) for item in items)\n"
    description = packaged(tmp_path, {"predictor.py": code}).description
    assert [each["datatype"] for each in description["inputs"]] == ["JSON", "BOOL"]
    assert description["example"] == {"inputs": {"items": [{"name": "text", "sizes": [[0]]}], "kind": False}}


def test_tensors_by_name(tmp_path: Path, ask: Ask) -> None:
    code = "import numpy as np\nclass Predictor:\n    def predict(self, inputs: dict[str, np.ndarray]) -> dict:\n"
    code += '        return {"sum": inputs["a"].sum(axis=1) + inputs["b"]}\n'
    refused = packaged(tmp_path, {"predictor.py": code})
    assert "--input 'age=FP32: name=BYTES:'" in refused.errors
    outcome = packaged(tmp_path, {"predictor.py": code}, "--input=a=FP32:3 b=FP64")
    assert [each["shape"] for each in outcome.description["inputs"]] == [[-1, 3], [-1]]
    assert ask(outcome.folder, '{"inputs": {"a": [1, 2, 3], "b": 0.5}}')["prediction"] == 6.5


def test_an_array_has_the_columns_of_the_data_for_its_features(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("a,b,y\n1,2,0\n3,4,1\n")
    code = "import numpy as np\nfrom numpy.typing import NDArray\nclass Predictor:\n"
    code += "    def predict(self, x: NDArray[np.float32]) -> NDArray[np.float32]:\n        return x.sum(axis=1)\n"
    refused = packaged(tmp_path, {"predictor.py": code})
    assert "parameter x of predictor.py is an array" in refused.errors
    assert "--input=x=FP32:3" in refused.errors.splitlines()[-1]
    [x] = packaged(tmp_path, {"predictor.py": code}, "--data=train.csv", "--target=y").description["inputs"]
    assert (x["shape"], x["features"]) == ([-1, 2], ["a", "b"])


def test_pictures(tmp_path: Path, ask: Ask) -> None:
    code = 'from PIL import Image\nEXAMPLE = "red.png"\ndef predict(photo: Image.Image) -> list[int]:\n'
    code += "    return [*photo.size, *photo.getpixel((0, 0))]\n"
    file = io.BytesIO()
    Image.new("RGB", (5, 3), (255, 0, 0)).save(file, "PNG")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/red.png").write_bytes(file.getvalue())
    outcome = packaged(tmp_path, {"predictor.py": code})
    assert outcome.description["example"] == {"input": base64.b64encode(file.getvalue()).decode()}
    assert ask(outcome.folder, json.dumps(outcome.description["example"]))["prediction"] == [5, 3, 255, 0, 0]


def test_a_generator_streams(tmp_path: Path) -> None:
    code = "from collections.abc import Iterator\ndef predict(prompt: str) -> Iterator[str]:\n    yield from prompt\n"
    outcome = packaged(tmp_path, {"predictor.py": code})
    assert outcome.description["predictor"]["streams"] is True
    assert "text/event-stream" in outcome.output.splitlines()[-1]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def predict(x: float) -> float:\n    return 1 / x\n", "mine: predictor.py, line 2: ZeroDivisionError"),
        ("def predict(x: float) -> float:\n    return (\n", "mine: predictor.py, line 2: SyntaxError"),
        ("import humanise\ndef predict(x: float): ...\n", "add the package to requirements.txt: humanise"),
        ("import cv2\ndef predict(x: float): ...\n", "add the package to requirements.txt: opencv-python-headless"),
        ("import yaml\ndef predict(x: float): ...\n", "predictor.py, line 1: ModuleNotFoundError"),
        ("open('good.txt')\ndef predict(x: float): ...\n", "the server runs elsewhere: open it by Path(__file__)"),
        ("def predict(x: complex) -> float:\n    return 1.0\n", "parameter 'x' of predict is complex"),
        ("x = 1\n", "defines neither a class Predictor"),
        ("import os\ndef predict(x: float): os._exit(3)\n", "the process that runs its code ended with status 3"),
        ("raise SystemExit\n", "mine: predictor.py, line 1: SystemExit"),
    ],
)
def test_mistakes_of_the_code_are_told_with_their_line(tmp_path: Path, code: str, said: str) -> None:
    outcome = packaged(tmp_path, {"predictor.py": code, "good.txt": "a"})
    assert said in outcome.errors
    assert outcome.status == 1
    assert [each.name for each in tmp_path.iterdir()] == ["mine"]


def test_answers_that_depend_on_the_other_rows(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("x\n1\n2\n3\n4\n5\n")
    code = "class Predictor:\n    def predict(self, x: list[float]) -> list[float]:\n        return [max(x)] * len(x)\n"
    outcome = packaged(tmp_path, {"predictor.py": code}, "--data=train.csv")
    assert "a row's answer depends on the other rows in its batch" in outcome.errors
    code = "import random\n" + code.replace("[max(x)] * len(x)", "[random.random() for _ in x]")
    outcome = packaged(tmp_path, {"predictor.py": code}, "--data=train.csv")
    assert "two runs on the same rows give different answers" in outcome.output


def test_packages_are_locked_and_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_CACHE_DIR", os.environ.get("UV_CACHE_DIR", str(Path.home() / ".cache/uv")))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    wheel(tmp_path / "wheels", "shouting_words", "1.2", {"shouting_words.py": "shout = str.upper"})
    code = "from shouting_words import shout\ndef predict(text: str) -> str:\n    return shout(text)\n"
    hooks = "from shouting_words import shout\ndef postprocess(outputs):\n    shout('a')\n    return outputs\n"
    with index(tmp_path / "wheels") as address:
        requirements = f"--extra-index-url {address}\nshouting-words>=1\n"
        outcome = packaged(tmp_path, {"predictor.py": code, "requirements.txt": requirements})
        assert outcome.status == 0, outcome.errors
        assert "shouting-words==1.2" in (outcome.folder / "requirements.lock").read_text()
        assert outcome.description["outputs"][0]["datatype"] == "BYTES"
        again = packaged(tmp_path, {"predictor.py": code, "requirements.txt": requirements})
        assert again.status == 0, again.errors
        write(tmp_path, {"hooks.py": hooks, "requirements.txt": requirements})
        model = str(ROOT / "app/model/model.onnx")
        hooked = package(tmp_path, model, "--hooks=hooks.py", "--requirements=requirements.txt", to="hooked")
        assert hooked.status == 0, hooked.errors
        assert (hooked.folder / "requirements.lock").is_file()
        alone = package(tmp_path, model, "--hooks=hooks.py", to="alone")
        assert "hooks.py, line 1: ModuleNotFoundError" in alone.errors
        bad = packaged(tmp_path, {"predictor.py": code, "requirements.txt": "shouting-words>=2\n"})
    assert "requirements.txt, line 1: shouting-words>=2" in bad.errors


def test_packaging_in_place_keeps_what_is_there(tmp_path: Path) -> None:
    mine = write(tmp_path / "mine", {"predictor.py": ROW, "notes.md": "mine", ".hidden": "mine"})
    for _ in range(2):
        outcome = package(tmp_path, "mine", to="mine")
        assert outcome.status == 0, outcome.errors
    assert sorted(each.name for each in mine.iterdir()) == [".hidden", "model.json", "notes.md", "predictor.py"]
    (mine / "predictor.py").write_text("def predict(x: float) -> float:\n    raise KeyError(x)\n")
    before = (mine / "model.json").read_bytes()
    outcome = package(tmp_path, "mine", to="mine")
    assert outcome.status == 1
    assert (mine / "model.json").read_bytes() == before
    write(mine, {".venv/lib/net.py": ""})
    assert "is code, but hidden" in package(tmp_path, "mine", to="mine").errors


def test_a_folder_with_the_users_own_changes_is_not_replaced(tmp_path: Path) -> None:
    made = packaged(tmp_path, {"predictor.py": ROW, "a/table.txt": "1"}).folder
    assert packaged(tmp_path, {}).status == 0
    (made / "predictor.py").write_text(ROW + "\n# mine")
    assert "made/predictor.py was changed there" in packaged(tmp_path, {}).errors
    assert packaged(tmp_path, {}, "--replace").status == 0
    (made / "a/new.txt").write_text("mine")
    assert "holds more than a model: a/new.txt" in packaged(tmp_path, {}, "--replace").errors
    inside = package(tmp_path, "mine", to="mine/made")
    assert "lies in the model's own folder" in inside.errors


def test_files_that_cannot_be_part_of_a_model(tmp_path: Path) -> None:
    write(tmp_path / "mine", {"predictor.py": ROW})
    (tmp_path / "mine/secret").symlink_to("/etc/passwd")
    assert "mine/secret is a link to a file outside the folder" in package(tmp_path, "mine").errors
    (tmp_path / "mine/secret").unlink()
    write(tmp_path / "mine", {"w.bin": "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"})
    assert "mine/w.bin is a Git LFS pointer" in package(tmp_path, "mine").errors


def test_lists_of_packages_that_are_none(tmp_path: Path) -> None:
    outcome = packaged(tmp_path, {"predictor.py": ROW, "packages.txt": "# sound\nlibsndfile1\nlib sound\n"})
    assert "mine/packages.txt, line 3: 'lib sound' is no Debian package" in outcome.errors
    (tmp_path / "mine/packages.txt").write_text("libsndfile1\n")
    (tmp_path / "mine/requirements.txt").write_bytes(b"caf\xe9\n")
    assert "mine/requirements.txt is not text in UTF-8" in package(tmp_path, "mine").errors


def test_folders_without_a_predictor(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "has neither predictor.py nor a model file" in package(tmp_path, "empty").errors
    write(tmp_path, {"tf/saved_model.pb": "x", "ml/MLmodel": "x"})
    assert "is a TensorFlow SavedModel" in package(tmp_path, "tf").errors
    assert "is an MLflow model" in package(tmp_path, "ml").errors
    write(tmp_path, {"one/m.npy": "\x93NUMPY", "one/README.md": ""})
    assert "one/m.npy holds an array" in package(tmp_path, "one").errors or "m.npy" in package(tmp_path, "one").errors


def test_a_long_example_is_a_file_beside(tmp_path: Path) -> None:
    code = "import numpy as np\nfrom typing import Annotated\nfrom numpy.typing import NDArray\nclass Predictor:\n"
    code += "    def predict(self, x: Annotated[NDArray[np.float32], (3, 40, 40)]) -> list[float]:\n"
    code += "        return [float(row.sum()) for row in x]\n"
    outcome = packaged(tmp_path, {"predictor.py": code})
    assert json.loads((outcome.folder / "example.json").read_text()) == outcome.description["example"]
    assert "-d @made/example.json" in outcome.output.splitlines()[-1]
    assert np.shape(outcome.description["example"]["input"]) == (3, 40, 40)


def test_maxima_that_the_command_sets(tmp_path: Path) -> None:
    code = "def predict(words: list[str]) -> int:\n    return len(words)\n"
    outcome = packaged(tmp_path, {"predictor.py": code}, "--max-size=9", "--max-characters=50")
    [words] = outcome.description["inputs"]
    assert (words["max_size"], words["max_characters"]) == (9, 50)


def test_what_says_nothing_about_code(tmp_path: Path) -> None:
    outcome = packaged(tmp_path, {"predictor.py": ROW}, "--keep=library", "--trust=a", "--batch=none")
    assert outcome.status == 1
    assert sum(line.startswith("error: ") for line in outcome.errors.splitlines()) == 3
