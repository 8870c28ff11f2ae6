"""What the program costs on top of the engine: a change of nothing, a preview's own share, the first `make up`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tools import pulumi_cli
from tools.figures import Result

ROOT = Path(__file__).parents[1]
HOST = ROOT / "bench/host.py"
PAIRS = 7
BARE_PROJECT = """\
name: bare
runtime:
  name: python
  options:
    virtualenv: {virtualenv}
"""
ONE_RESOURCE = """\
import pulumi


class Nothing(pulumi.ComponentResource):
    pass


Nothing("bench:index:Nothing", "nothing")
"""


def measure() -> list[Result]:
    """All figures of the stack."""
    with tempfile.TemporaryDirectory(prefix="model-endpoint-bench-") as temporary:
        folder = Path(temporary)
        return [*no_change(folder / "no-change"), *preview_share(folder / "preview"), *first_up(folder / "first")]


def no_change(folder: Path) -> list[Result]:
    """`make up` that changes nothing, against `pulumi up` of a program with one resource; in turn, on one engine."""
    ours = clone(folder / "clone")
    bare = folder / "bare"
    bare.mkdir()
    (bare / "__main__.py").write_text(ONE_RESOURCE)
    (bare / "Pulumi.yaml").write_text(BARE_PROJECT.format(virtualenv=sys.prefix))
    environment = isolated(folder)
    bare_environment = environment | {
        "PATH": os.pathsep.join([str(pulumi_cli.ensure(pulumi_cli.Source())), environment["PATH"]]),
        "PULUMI_BACKEND_URL": f"file://{bare}",
        "PULUMI_CONFIG_PASSPHRASE": "bench",
        "PULUMI_SKIP_UPDATE_CHECK": "true",
    }
    bare_up = ["pulumi", "up", "--yes", "--skip-preview", "--stack", "bare"]
    run(["pulumi", "stack", "init", "bare"], bare, bare_environment)
    run(bare_up, bare, bare_environment)
    run(["make", "up"], ours, environment)
    try:
        ours_seconds, bare_seconds = zip(
            *[
                (
                    timed(lambda: run(["make", "up"], ours, environment)),
                    timed(lambda: run(bare_up, bare, bare_environment)),
                )
                for _ in range(PAIRS)
            ],
            strict=True,
        )
    finally:
        run(["make", "down"], ours, environment)
    ratios = [mine / theirs for mine, theirs in zip(ours_seconds, bare_seconds, strict=True)]
    return [
        Result("`make up` that changes nothing, stack local", list(ours_seconds), "s", None),
        Result("`pulumi up` that changes nothing, one resource", list(bare_seconds), "s", None),
        Result("ratio of the two", ratios, "times", 3),
    ]


def preview_share(folder: Path) -> list[Result]:
    """The program's own seconds in `pulumi preview` of dev from nothing, by phase, on the tests' stand-ins."""
    folder.mkdir()
    command = [sys.executable, "-m", "tests.support.preview_phases", str(folder), str(HOST), str(PAIRS)]
    runs: list[dict[str, float]] = json.loads(run(command, ROOT, os.environ))
    names = {
        "sdk": "`preview` of dev: start and SDK import",
        "imports": "`preview` of dev: program's imports",
        "registration": "`preview` of dev: config, staging, registration",
        "serialization": "`preview` of dev: the program's CPU after that",
    }
    phases = [Result(name, [each[phase] for each in runs], "s", None) for phase, name in names.items()]
    return [*phases, Result("`preview` of dev: the program's own share", [sum(each.values()) for each in runs], "s", 3)]


def first_up(folder: Path) -> list[Result]:
    """From no stack to a printed endpoint, in a new clone, with the caches warm."""
    seconds: list[float] = []
    for attempt in range(3):
        place = folder / str(attempt)
        ours = clone(place / "clone", environment=False)
        environment = isolated(place)
        seconds.append(timed(lambda ours=ours, environment=environment: run(["make", "up"], ours, environment)))
        run(["make", "down"], ours, environment)
    return [Result("first `make up` of a new clone, caches warm", seconds, "s", 20)]


def clone(into: Path, *, environment: bool = True) -> Path:
    """The project's files, tracked or new; with this run's virtual environment, unless that is to be measured too."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, into / name)
    if environment:
        (into / ".venv").symlink_to(Path(sys.prefix))
    return into


def isolated(folder: Path) -> dict[str, str]:
    """The user's environment without a Pulumi login, but with the user's caches."""
    kept = {
        name: value
        for name, value in os.environ.items()
        # Byte code is what every user has from the second run on.
        if not name.startswith("PULUMI_") and name != "PYTHONDONTWRITEBYTECODE"
    }
    return kept | {"PULUMI_HOME": str(folder / "pulumi-home")}


def run(command: list[str], folder: Path, environment: Mapping[str, str]) -> str:
    """Run a command that must succeed; its stdout."""
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def timed(action: Callable[[], object]) -> float:
    """Seconds."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started
