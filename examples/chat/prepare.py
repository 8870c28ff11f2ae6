"""Learn Python's own reference, which ships with Python, by heart: for an assistant that answers from it.

    python examples/chat/prepare.py <folder>

writes `predictor.py`, `requirements.txt` and `topics.json`.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from pydoc_data.topics import topics


def main(folder: Path) -> None:
    """Write the model folder."""
    (folder / "topics.json").write_text(json.dumps(topics, indent=1))
    for name in ("predictor.py", "requirements.txt"):
        shutil.copy(Path(__file__).with_name(name), folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
