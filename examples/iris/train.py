"""Train the model that the project serves out of the box: the species of an iris from three measurements.

    python examples/iris/train.py [folder]

writes `model.onnx` and `model.json` into the folder (default: app/model). The data set ships with scikit-learn.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

FEATURES = {"sepal_length_cm": 0, "petal_length_cm": 2, "petal_width_cm": 3}
"""Our name of each feature and its column in the data set; sepal width is left out, it adds nothing."""
BINS = 10
SEED = 7
OPSET = {"": 17, "ai.onnx.ml": 3}
"""The newest operators that may be used; the file says the ones it needs."""
DEFAULT_FOLDER = Path(__file__).resolve().parents[2] / "app" / "model"


def train(features: np.ndarray, classes: np.ndarray) -> Pipeline:
    """Fit the classifier: standardised features into a multinomial logistic regression."""
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(features, classes)


def export(pipeline: Pipeline) -> bytes:
    """The pipeline as ONNX: one float32 tensor in, the class and its probabilities out."""
    model = convert_sklearn(
        pipeline,
        name="iris",
        initial_types=[("input", FloatTensorType([None, len(FEATURES)]))],
        final_types=[
            ("species", Int64TensorType([None])),
            ("probabilities", FloatTensorType([None, len(pipeline.classes_)])),
        ],
        target_opset=OPSET,
        options={"zipmap": False},
    )
    opsets = sorted(model.opset_import, key=lambda opset: opset.domain)  # the converter's own order varies
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    return model.SerializeToString(deterministic=True)


def profile(values: np.ndarray) -> dict[str, Any]:
    """Where one feature's training values lie: bin edges at their quantiles, and how many fall between each pair.

    The first bin is open below and the last one above, so `edges` has one entry less than `counts`.
    """
    edges = np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1]).round(6))
    counts = np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1)
    return {
        "kind": "numeric",
        "min": float(values.min()),
        "max": float(values.max()),
        "edges": edges.tolist(),
        "counts": counts.tolist(),
    }


def describe(
    pipeline: Pipeline, features: np.ndarray, labels: list[str], accuracy: float, held_out: int
) -> dict[str, Any]:
    """The contents of model.json."""
    predicted = np.bincount(pipeline.predict(features), minlength=len(labels))
    return {
        "name": "iris",
        "version": "1",
        "inputs": [
            {"name": "input", "datatype": "FP32", "shape": [-1, len(FEATURES)], "features": list(FEATURES)},
        ],
        "outputs": [
            {"name": "species", "datatype": "INT64", "shape": [-1], "labels": labels},
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, len(labels)], "labels": labels},
        ],
        "example": {"input": [5.1, 1.4, 0.2]},
        "profile": {
            "rows": len(features),
            "features": {name: profile(features[:, column]) for column, name in enumerate(FEATURES)},
            "outputs": {
                "species": {"kind": "categorical", "categories": dict(zip(labels, predicted.tolist(), strict=True))}
            },
        },
        "evaluation": {"held_out_rows": held_out, "accuracy": round(accuracy, 4)},
    }


def build() -> tuple[bytes, dict[str, Any], Pipeline]:
    """Train, evaluate and export: the bytes of model.onnx, the contents of model.json, the fitted pipeline."""
    data = load_iris()
    features = data.data[:, list(FEATURES.values())].astype(np.float32)
    training, held_out, classes, held_out_classes = train_test_split(
        features, data.target, test_size=0.3, random_state=SEED, stratify=data.target
    )
    pipeline = train(training, classes)
    accuracy = float(pipeline.score(held_out, held_out_classes))
    labels = [str(name) for name in data.target_names]
    return export(pipeline), describe(pipeline, training, labels, accuracy, len(held_out)), pipeline


def main(folder: Path) -> None:
    """Write the model folder."""
    onnx, description, _ = build()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(onnx)
    (folder / "model.json").write_text(json.dumps(description, indent=2) + "\n")
    print(f"{folder}: {description['evaluation']}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_FOLDER)
