"""The process that converts: `python -m tools.model.worker <scratch folder>`, in an environment with the packages.

It reads what the command left in the folder, and leaves the converted model there, or error.json.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

from tools.model.converters import CONVERTERS
from tools.model.errors import ModelError
from tools.model.formats import Format
from tools.model.settings import Settings
from tools.model.training_data import Table


def main(folder: Path) -> None:
    """Convert one model."""
    settings = Settings.from_json((folder / "settings.json").read_text())
    module = CONVERTERS[Format((folder / "format").read_text())].module
    try:
        converter = importlib.import_module(f"tools.model.converters.{module}")
        converter.convert(settings, Table.load(folder)).save(folder)
    except ModelError as error:
        (folder / "error.json").write_text(json.dumps({"mistakes": error.mistakes, "needs": error.needs}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
