"""`python -m tests.support.preview_phases FOLDER HOST RUNS`: what a preview of stack dev on the stand-ins takes.

In an empty folder, with a language host that times its program's phases (bench/host.py); prints a JSON list with an
object of seconds by phase for every run.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

from tests.support.engine_project import Project, find_cli


def main(folder: Path, host: Path, runs: int) -> None:
    """Measure and print."""
    project = Project.make(folder, find_cli(), "dev")
    project.configure({"model-endpoint:publicAccessCidrs": '["203.0.113.7/32"]'})
    launcher = project.bin / "pulumi-language-python"
    launcher.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, "-u", str(host)])} "$@"\n')
    launcher.chmod(0o755)
    kept = folder / "phases.json"
    project.environment["MODEL_ENDPOINT_PHASES"] = str(kept)
    phases: list[dict[str, float]] = []
    for _ in range(runs):
        project.pulumi("preview")
        phases.append(json.loads(kept.read_text()))
    print(json.dumps(phases))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
