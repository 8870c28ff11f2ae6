"""The process that converts: `python -m tools.model.worker <scratch folder>`, in an environment with the packages.

It reads what the command left in the folder, and leaves the converted model there, or error.txt.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from tools.model.data import Table
from tools.model.kinds import Kind
from tools.model.problem import ModelError
from tools.model.settings import Settings

CONVERTERS = {
    Kind.ONNX: "from_onnx",
    Kind.STATE_DICT: "from_state_dict",
    Kind.SAFETENSORS: "from_state_dict",
    Kind.PT2: "from_pt2",
    Kind.TORCHSCRIPT: "from_torchscript",
    Kind.SKOPS: "from_skops",
    Kind.XGBOOST: "from_xgboost",
    Kind.LIGHTGBM: "from_lightgbm",
}
"""The module of each format, whose `convert(settings, table)` gives a Converted; imported only for its format."""


def main(folder: Path) -> None:
    """Convert one model."""
    settings = Settings.from_json((folder / "settings.json").read_text())
    kind = Kind((folder / "kind").read_text())
    try:
        converter = importlib.import_module(f"tools.model.{CONVERTERS[kind]}")
        converter.convert(settings, Table.load(folder)).save(folder)
    except ModelError as error:
        (folder / "error.txt").write_text(str(error))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
