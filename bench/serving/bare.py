"""A bare ONNX Runtime loop on the core that it is started on: rows a second, by batch size, as a line of JSON.

`python -m bench.serving.bare <model.onnx> <width> <seconds> <batch size> ...`
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.serving.models import session_of


def rate(session: Any, width: int, batch: int, seconds: float) -> float:
    """Rows a second, over so many seconds."""
    rows = np.ones((batch, width), dtype=np.float32)
    session.run(None, {"input": rows})
    runs, started = 0, time.perf_counter()
    while (spent := time.perf_counter() - started) < seconds:
        session.run(None, {"input": rows})
        runs += 1
    return runs * batch / spent


def main(file: str, width: str, seconds: str, *batches: str) -> None:
    """Print {batch size: rows a second}."""
    session = session_of(Path(file))
    print(json.dumps({batch: rate(session, int(width), int(batch), float(seconds)) for batch in batches}))


if __name__ == "__main__":
    main(*sys.argv[1:])
