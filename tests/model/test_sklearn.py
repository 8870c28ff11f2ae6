"""Real models of scikit-learn, XGBoost and LightGBM, packaged by the command and answered for by the real server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.model.conftest import Ask
from tests.model.harness import package, run_in

_SKLEARN = """
import json
import numpy as np, pandas, skops.io
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
iris = load_iris()
names = ["sepal_length", "sepal_width", "petal_length", "petal_width"]
frame = pandas.DataFrame(iris.data, columns=names)
species = iris.target_names[iris.target]
model = make_pipeline(StandardScaler(), LogisticRegression()).fit(frame, species)
skops.io.dump(model, "iris.skops")
frame.assign(species=species).to_csv("iris.csv", index=False)
mixed = pandas.DataFrame({"size": frame.sepal_length, "colour": np.where(frame.petal_width > 1, "red", "blue")})
picking = make_pipeline(
    make_column_transformer((StandardScaler(), ["size"]), (OneHotEncoder(), ["colour"])), LogisticRegression()
).fit(mixed, iris.target)
skops.io.dump(picking, "mixed.skops")
mixed.to_csv("mixed.csv", index=False)
row = pandas.DataFrame([[5.1, 3.5, 1.4, 0.2]], columns=names)
one = pandas.DataFrame([[5.1, "red"]], columns=["size", "colour"])
print(json.dumps([model.predict_proba(row)[0].tolist(), picking.predict_proba(one)[0].tolist()]))
"""

_TREES = """
import json
import numpy as np, lightgbm, xgboost
generator = np.random.default_rng(1)
rows = generator.normal(size=(500, 3)).astype(np.float32)
rows[generator.random(rows.shape) < 0.1] = np.nan
filled = np.nan_to_num(rows)
number, kind = filled @ [1, -2, 0.5], (filled[:, 0] > filled[:, 1]).astype(int)
one = np.array([[1, 2, 3]], np.float32)
said = {}
for name, objective, target in (
    ("number.json", "reg:squarederror", number),
    ("kind.ubj", "binary:logistic", kind),
    ("hinge.json", "binary:hinge", kind),
):
    booster = xgboost.train({"objective": objective, "max_depth": 4}, xgboost.DMatrix(rows, target), 20)
    booster.save_model(name)
    said[name] = float(booster.predict(xgboost.DMatrix(one))[0])
for name, objective, target in (
    ("number.txt", "regression", number), ("kind.txt", "binary", kind), ("ova.txt", "multiclassova", kind)
):
    settings = {"objective": objective, "verbose": -1, "num_threads": 1} | ({"num_class": 2} if "ova" in name else {})
    booster = lightgbm.train(settings, lightgbm.Dataset(rows.astype(float), target, feature_name=["a", "b", "c"]), 20)
    booster.save_model(name)
    said[name] = np.ravel(booster.predict(one.astype(float)))[0]
np.savez("rows.npz", rows)
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def sklearn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[float]]]:
    here = tmp_path_factory.mktemp("sklearn")
    return here, json.loads(run_in("sklearn", _SKLEARN, here).splitlines()[-1])


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """A folder with boosted trees, and the models' own answers to [1, 2, 3]."""
    here = tmp_path_factory.mktemp("trees")
    return here, json.loads(run_in("trees", _TREES, here).splitlines()[-1])


def test_a_classifier(sklearn: tuple[Path, Any], ask: Ask) -> None:
    here, (expected, _) = sklearn
    made = package(here, "iris.skops", "--data=iris.csv", "--version=2")
    assert made.description["inputs"][0]["features"] == ["sepal_length", "sepal_width", "petal_length", "petal_width"]
    assert made.description["example"] == {"input": [5.1, 3.5, 1.4, 0.2]}
    assert made.description["profile"]["outputs"]["label"]["categories"].keys() == {"setosa", "versicolor", "virginica"}
    answer = ask(made.folder, '{"input": [5.1, 3.5, 1.4, 0.2]}')
    assert answer["model"] == {"name": "iris", "version": "2"}
    assert answer["prediction"]["label"] == "setosa"
    given = answer["prediction"]["probabilities"]
    assert list(given) == ["setosa", "versicolor", "virginica"]
    assert list(given.values()) == pytest.approx(expected, abs=1e-5)


def test_columns_of_different_types(sklearn: tuple[Path, Any], ask: Ask) -> None:
    here, (_, expected) = sklearn
    made = package(here, "mixed.skops", "--data=mixed.csv", to="mixed")
    assert [tensor["datatype"] for tensor in made.description["inputs"]] == ["FP64", "BYTES"]
    assert made.description["profile"]["features"]["colour"]["categories"].keys() == {"red", "blue"}
    example = json.dumps({"inputs": made.description["example"]["inputs"] | {"size": 5.1, "colour": "red"}})
    given = ask(made.folder, example)["prediction"]["probabilities"]
    assert list(given.values()) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["number.json", "number.txt"])
def test_a_regression_by_trees(trees: tuple[Path, dict[str, float]], ask: Ask, name: str) -> None:
    here, said = trees
    made = package(here, name, to=name[-3:])
    assert made.description["inputs"][0]["nullable"]
    assert made.description["source"]["largest_difference"]["absolute"] < 1e-5
    assert ask(made.folder, '{"input": [1, 2, 3]}')["prediction"] == pytest.approx(said[name], abs=1e-4)


@pytest.mark.parametrize("name", ["kind.ubj", "kind.txt"])
def test_a_classification_by_trees(trees: tuple[Path, dict[str, float]], ask: Ask, name: str) -> None:
    here, said = trees
    made = package(here, name, "--data=rows.npz", "--labels=no,yes", "--features=a,b,c", to=f"{name}-made")
    assert made.description["source"]["compared_rows"] == 500 + 1000
    assert made.description["profile"]["features"]["a"]["missing"] > 0
    prediction = ask(made.folder, '{"input": [1, null, 3]}')["prediction"]
    assert prediction["label"] in ("no", "yes")
    prediction = ask(made.folder, '{"input": [1, 2, 3]}')["prediction"]
    assert prediction["probabilities"]["yes"] == pytest.approx(said[name], abs=1e-5)


@pytest.mark.parametrize(("name", "library"), [("hinge.json", "XGBoost"), ("ova.txt", "LightGBM")])
def test_what_the_converter_gets_wrong_is_kept_with_its_library(
    trees: tuple[Path, dict[str, float]], name: str, library: str
) -> None:
    here, _ = trees
    made = package(here, name, to=f"{name}-kept")
    assert made.description["format"] == "python"
    assert f"kept with {library}, because {name}: the conversion is not sound for the objective" in made.output
    assert made.description["source"]["largest_difference"]["absolute"] == 0


@pytest.mark.parametrize(("name", "objective"), [("hinge.json", "binary:hinge"), ("ova.txt", "multiclassova")])
def test_what_the_converter_gets_wrong_is_refused_as_onnx(trees: tuple[Path, Any], name: str, objective: str) -> None:
    outcome = package(trees[0], name, "--keep=onnx", to="refused")
    assert outcome.status == 1
    assert f"the conversion is not sound for the objective {objective}" in outcome.errors
    assert not outcome.folder.exists()
