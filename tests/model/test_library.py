"""Models that keep their own library: packaged by the plain command, with that library's own answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.model.harness import package, run_in

_SKLEARN = """
import json
import numpy as np, pandas as pd, skops.io
from sklearn.cluster import KMeans
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

texts, good = ["good film", "bad film", "great", "awful"] * 5, [1, 0, 1, 0] * 5
text = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, good)
pd.DataFrame({"text": texts, "good": good}).to_csv("text.csv", index=False)

rng = np.random.default_rng(0)
frame = pd.DataFrame(
    {"age": rng.normal(40, 12, 400), "income": rng.lognormal(10, 1, 400), "city": rng.choice(["a", "b", "c"], 400)}
)
label = (frame.age + rng.normal(0, 9, 400) > 42).astype(int)
frame.assign(label=label).to_csv("train.csv", index=False)
missing = frame.copy()
missing.loc[::17, "age"], missing.loc[::13, "city"] = np.nan, None
missing.assign(label=label).to_csv("missing.csv", index=False)

def columns(category):
    return make_column_transformer((StandardScaler(), ["age", "income"]), (category, ["city"]))

grid = GridSearchCV(make_pipeline(columns(OneHotEncoder()), LogisticRegression()), {"logisticregression__C": [1, 10]})
imputed = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"))
filling = make_column_transformer(
    (make_pipeline(SimpleImputer(), StandardScaler()), ["age", "income"]), (imputed, ["city"])
)
numbers = rng.random((200, 4))
models = {
    "text": text,
    "grid": grid.fit(frame, label),
    "imputer": make_pipeline(filling, LogisticRegression()).fit(missing, label),
    "forest": make_pipeline(columns(OneHotEncoder()), RandomForestRegressor(30, random_state=0)).fit(
        frame, label + frame.income
    ),
    "kmeans": KMeans(3, random_state=0, n_init=1).fit(numbers),
    "several": MultiOutputClassifier(LogisticRegression()).fit(numbers, (numbers[:, :2] > 0.5).astype(int)),
    "histogram": HistGradientBoostingRegressor(max_iter=20).fit(numbers, numbers[:, 0] * numbers[:, 1]),
    "scaler": StandardScaler().fit(numbers),
}
for name, model in models.items():
    skops.io.dump(model, f"{name}.skops")
"""

_TREES = """
import lightgbm, numpy as np, pandas as pd, xgboost
rng = np.random.default_rng(0)
frame = pd.DataFrame({"age": rng.normal(40, 12, 400), "city": pd.Categorical(rng.choice(["a", "b", "c"], 400))})
label = ((frame.age > 40) ^ (frame.city == "b")).astype(int)
frame.loc[::17, "age"], frame.loc[::13, "city"] = np.nan, None
frame.assign(label=label).to_csv("train.csv", index=False)
settings = {"objective": "binary", "verbose": -1, "num_threads": 1, "min_data_per_group": 5}
lightgbm.train(settings, lightgbm.Dataset(frame, label), 20).save_model("categories.txt")
ages = frame[["age"]].fillna(0)
zeros = settings | {"zero_as_missing": True}
lightgbm.train(zeros, lightgbm.Dataset(ages.to_numpy(), label), 20).save_model("zeros.txt")
matrix = xgboost.DMatrix(frame, label, enable_categorical=True)
xgboost.train({"objective": "binary:logistic", "max_cat_to_onehot": 1}, matrix, 20).save_model("categories.ubj")
for name, chosen in {"dart": {"booster": "dart"}, "linear": {"booster": "gblinear"}}.items():
    xgboost.train(chosen, xgboost.DMatrix(ages, label), 10).save_model(f"{name}.json")
"""

_CATBOOST = """
import catboost, numpy as np, pandas as pd
rng = np.random.default_rng(0)
frame = pd.DataFrame({"age": rng.normal(40, 12, 400), "city": rng.choice(["a", "b", "nan"], 400)})
label = (frame.age > 40).astype(int)
frame.loc[::17, "age"] = np.nan
model = catboost.CatBoostClassifier(iterations=20, verbose=0, allow_writing_files=False)
model.fit(frame, label, cat_features=["city"]).save_model("categories.cbm")
frame.replace({"city": {"nan": ""}}).assign(label=label).to_csv("train.csv", index=False)
"""


@pytest.fixture(scope="module")
def sklearn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("sklearn")
    run_in("sklearn", _SKLEARN, here)
    return here


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("trees")
    run_in("trees", _TREES, here)
    return here


@pytest.mark.parametrize(
    ("name", "data", "kind", "outputs"),
    [
        ("text", "text.csv", "python", ["label", "probabilities"]),
        ("grid", "train.csv", "onnx", ["label", "probabilities"]),
        ("imputer", "missing.csv", "python", ["label", "probabilities"]),
        ("forest", "train.csv", "python", ["prediction"]),
        ("kmeans", "", "onnx", ["label", "distances"]),
        ("several", "", "python", ["label", "probabilities_0", "probabilities_1"]),
        ("histogram", "", "python", ["prediction"]),
        ("scaler", "", "onnx", ["transformed"]),
    ],
)
def test_a_model_of_scikit_learn(sklearn: Path, name: str, data: str, kind: str, outputs: list[str]) -> None:
    made = package(sklearn, f"{name}.skops", *([f"--data={data}"] if data else []), to=name).description
    assert made.get("format", "onnx") == kind
    assert [tensor["name"] for tensor in made["outputs"]] == outputs
    assert made["source"]["largest_difference"]["absolute"] < 1e-9


def test_missing_texts_are_missing_to_the_original(sklearn: Path) -> None:
    made = package(sklearn, "imputer.skops", "--data=missing.csv", to="nullable").description
    nullable = {tensor["name"]: tensor.get("nullable", False) for tensor in made["inputs"]}
    assert nullable == {"age": True, "income": False, "city": True}
    assert None not in made["example"]["inputs"].values()


@pytest.mark.parametrize(
    ("name", "data", "library"),
    [
        ("categories.txt", "train.csv", "lightgbm"),
        ("zeros.txt", "", "lightgbm"),
        ("categories.ubj", "train.csv", "xgboost-cpu"),
        ("dart.json", "", "xgboost-cpu"),
        ("linear.json", "", "xgboost-cpu"),
    ],
)
def test_boosted_trees(trees: Path, name: str, data: str, library: str) -> None:
    outcome = package(trees, name, *([f"--data={data}"] if data else []), to=f"{name}-made")
    assert outcome.description["format"] == "python"
    assert library in outcome.description["source"]["packages"]
    assert outcome.description["source"]["largest_difference"]["absolute"] == 0
    assert "MB of packages" in outcome.output


def test_catboost_with_categories(tmp_path: Path) -> None:
    run_in("catboost", _CATBOOST, tmp_path)
    made = package(tmp_path, "categories.cbm", "--data=train.csv").description
    assert [tensor["name"] for tensor in made["outputs"]] == ["label", "probabilities"]
    assert made["inputs"][1]["nullable"]
    assert made["source"]["largest_difference"]["absolute"] == 0


def test_categories_need_data(trees: Path) -> None:
    outcome = package(trees, "categories.ubj", to="lacking")
    assert outcome.status == 1
    assert "the model takes columns of different types (age, city): --data train.csv" in outcome.errors


_DAMAGED = """
import json, zipfile
import numpy as np, skops.io
from sklearn.tree import DecisionTreeClassifier
rows = np.random.default_rng(0).random((50, 2))
skops.io.dump(DecisionTreeClassifier(max_depth=3).fit(rows, rows[:, 0] > 0.5), "good.skops")
import io
with zipfile.ZipFile("good.skops") as good, zipfile.ZipFile("bad.skops", "w") as bad:
    for entry in good.namelist():
        content = good.read(entry)
        if entry.endswith(".npy"):
            array = np.load(io.BytesIO(content))
            if array.dtype.names and "left_child" in array.dtype.names:
                array["left_child"][0] = 10_000_000
                buffer = io.BytesIO()
                np.save(buffer, array)
                content = buffer.getvalue()
        bad.writestr(entry, content)
"""


def test_a_tree_that_points_outside_of_its_arrays(tmp_path: Path) -> None:
    run_in("sklearn", _DAMAGED, tmp_path)
    outcome = package(tmp_path, "bad.skops")
    assert outcome.status == 1
    assert "the model is damaged" in outcome.errors
    assert package(tmp_path, "good.skops", to="good").status == 0


def test_functions_are_never_known(tmp_path: Path) -> None:
    script = """
import numpy as np, skops.io
from sklearn.feature_selection import SelectKBest
rows = np.random.default_rng(0).random((50, 4))
skops.io.dump(SelectKBest(k=2).fit(rows, rows[:, 0] > 0.5), "choice.skops")
"""
    run_in("sklearn", script, tmp_path)
    outcome = package(tmp_path, "choice.skops")
    assert outcome.status == 1
    name = "sklearn.feature_selection._univariate_selection.f_classif"
    assert f"was not loaded: {name}" in outcome.errors
    assert package(tmp_path, "choice.skops", f"--trust={name}").status == 0
