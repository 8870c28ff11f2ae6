"""Loads a pickle and saves what is in it as data: `python resave.py <pickle> <folder>`. Runs in the sandbox only."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any


def load(path: Path) -> Any:
    """Load a pickle, also of joblib's kind; this runs whatever the pickle says."""
    try:
        joblib: Any = import_module("joblib")
    except ImportError:
        return import_module("pickle").loads(path.read_bytes())
    return joblib.load(path)


def save(model: Any, folder: Path) -> None:
    """Save the model as its own library does, by the classes that it has."""
    modules = {kind.__module__.partition(".")[0] for kind in type(model).__mro__}
    if "xgboost" in modules:
        model.save_model(folder / "model.ubj")
    elif "lightgbm" in modules:
        getattr(model, "booster_", model).save_model(folder / "model.txt")
    elif "catboost" in modules:
        model.save_model(str(folder / "model.cbm"))
    elif "sklearn" in modules:
        skops: Any = import_module("skops.io")
        skops.dump(model, folder / "model.skops")
    else:
        raise SystemExit(
            f"it holds a {type(model).__module__}.{type(model).__qualname__}, which is no model known here"
        )


if __name__ == "__main__":
    save(load(Path(sys.argv[1])), Path(sys.argv[2]))
