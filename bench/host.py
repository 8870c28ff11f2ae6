"""The self-built CLI's language host with a stopwatch: what of a deployment's time is the program's own.

Installed as `pulumi-language-python` in front of the real one; writes one JSON object to the file that
MODEL_ENDPOINT_PHASES names, in seconds, when the program has ended.
"""

from __future__ import annotations

import builtins
import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

HOST = Path(__file__).parents[1] / "tools/pulumi/launchers/language_host.py"


class Stopwatch:
    """Adds up the outermost imports while the program's file is executed."""

    def __init__(self) -> None:
        self.imports = 0.0
        self._depth = 0
        self.original = builtins.__import__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """An import statement."""
        self._depth += 1
        started = time.perf_counter()
        try:
            return self.original(*args, **kwargs)
        finally:
            self._depth -= 1
            if self._depth == 0:
                self.imports += time.perf_counter() - started


def timed(module: Any) -> None:
    """Wrap the host's two steps: the execution of the program's file, and the whole run."""
    run_file, run_program = module.run_file, module.run_program
    phases: dict[str, float] = {}

    def timed_file(program: str) -> None:
        watch = Stopwatch()
        builtins.__import__ = watch
        started = time.perf_counter()
        try:
            run_file(program)
        finally:
            builtins.__import__ = watch.original
            phases["imports"] = watch.imports
            phases["registration"] = time.perf_counter() - started - watch.imports
            phases["cpu"] = time.process_time()

    def timed_program(request: Any, engine: str) -> bool:
        phases["sdk"] = time.process_time()
        succeeded = run_program(request, engine)
        phases["serialization"] = time.process_time() - phases.pop("cpu")
        Path(os.environ["MODEL_ENDPOINT_PHASES"]).write_text(json.dumps(phases))
        return succeeded

    module.run_file, module.run_program = timed_file, timed_program


if __name__ == "__main__":
    sys.path.insert(0, str(HOST.parent))
    spec = importlib.util.spec_from_file_location("language_host", HOST)
    assert spec
    assert spec.loader
    language_host = importlib.util.module_from_spec(spec)
    sys.modules["language_host"] = language_host
    spec.loader.exec_module(language_host)
    timed(language_host)
    host = language_host.Host(engine=sys.argv[-1])
    print(host.start(), flush=True)
    host.work()
