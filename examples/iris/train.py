"""Train the model that the project serves out of the box: the species of an iris from three measurements.

    python examples/iris/train.py [folder]

writes `model.onnx` and the training data, `train.csv`, into the folder (default: the current one), and prints the
command that packages them as app/model. The data set ships with scikit-learn.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

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
SEED = 7
OPSET = {"": 17, "ai.onnx.ml": 3}
"""The newest operators that may be used; the file says the ones it needs."""


def split() -> list[np.ndarray]:
    """Training rows, held-out rows, and the classes of each."""
    data = load_iris()
    features = data.data[:, list(FEATURES.values())].astype(np.float32)
    return train_test_split(features, data.target, test_size=0.3, random_state=SEED, stratify=data.target)


def train(features: np.ndarray, classes: np.ndarray) -> Pipeline:
    """Fit the classifier: standardised features into a multinomial logistic regression."""
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(features, classes)


def export(pipeline: Pipeline) -> bytes:
    """Write the pipeline as ONNX: one float32 tensor in, the class and its probabilities out."""
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


def main(folder: Path) -> None:
    """Train, and write both files."""
    training, held_out, classes, held_out_classes = split()
    pipeline = train(training, classes)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(export(pipeline))
    with (folder / "train.csv").open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(FEATURES)
        rows.writerows(training.astype(str))
    right = pipeline.score(held_out, held_out_classes)
    labels = ",".join(load_iris().target_names)
    print(f"{folder}: {right:.0%} of {len(held_out)} held-out rows are told right; package it:")
    print(
        f"  make model FROM={folder}/model.onnx DATA={folder}/train.csv NAME=iris LABELS={labels} TO=app/model"
        """ EXAMPLE='{"input": [5.1, 1.4, 0.2]}'"""
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path.cwd())
