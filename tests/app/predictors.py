"""Writes model folders of format python."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

from server.model.author_code import digests


def write_predictor(
    folder: Path,
    code: str,
    *,
    inputs: list[dict[str, Any]],
    outputs: list[dict[str, Any]],
    example: dict[str, Any],
    files: dict[str, str] | None = None,
    **predictor: Any,
) -> Path:
    """`predictor` has the members of model.json's predictor but the digests: `call` at least."""
    for name, content in {"predictor.py": code, **(files or {})}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(content))
    description = {
        "name": "test",
        "version": "1",
        "format": "python",
        "inputs": inputs,
        "outputs": outputs,
        "example": example,
        "predictor": {**predictor, "sha256": digests(folder)},
    }
    (folder / "model.json").write_text(json.dumps(description))
    return folder
