"""A model folder's own code, running in a process of its own in the environment of its dependencies."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tools.console import Progress
from tools.model import npz
from tools.model.errors import ModelError
from tools.model.tensors import Tensor, Tensors

ROOT = Path(__file__).resolve().parents[2]
_LOG_LINES = 8
_DOING = {
    "describe": "loading it",
    "run": "running it, row",
    "time": "timing it",
    "approve": "starting the server with it",
    "sizes": "measuring its packages",
}
"""What each task is called while it lasts."""


class PredictorSession:
    """The code of `folder`, run by `python`; a context manager, after which the process is gone."""

    def __init__(self, folder: Path, python: Path, *, what: str) -> None:
        """`what` names the folder in messages."""
        self._what = what
        self._scratch = tempfile.TemporaryDirectory(prefix="model-predictor-")
        self._number = 0
        self._outputs: list[dict[str, Any]] = []
        here = Path(self._scratch.name)
        (here / "empty").mkdir()
        variables = os.environ | {
            # That environment has no code of this clone.
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'app'}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
        }
        self._log = here / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [str(python), "-P", "-m", "tools.model.predictor_worker", str(folder.resolve()), str(here)],
                cwd=here / "empty",  # in the image, too, the folder is not where the process runs
                env=variables,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._scratch.cleanup()

    def describe(self) -> dict[str, Any]:
        """Say how the code is called, what it takes, and what its EXAMPLE is: see predictor_worker."""
        return json.loads(self._do("describe").with_suffix(".json").read_text())

    def run(self, feed: Tensors) -> Tensors:
        """Answer all rows."""
        at = self._do("run", feed)
        self._outputs = json.loads(at.with_suffix(".json").read_text())
        return npz.load(at.with_suffix(".npz"))

    def outputs(self, answers: Tensors) -> list[Tensor]:
        """Describe what the code gives: by its annotations, and where these do not tell, by its first answers."""
        return [
            Tensor(
                name=output["name"],
                datatype=output["datatype"],
                row_shape=tuple(output["row_shape"]),
                members={"json_schema": output["json_schema"]} if output["json_schema"] else {},
            )
            for output in self._outputs
            if output["name"] in answers
        ]

    def seconds(self, rows: Tensors) -> float:
        """The shortest time that these rows take together."""
        return json.loads(self._do("time", rows).with_suffix(".json").read_text())

    def refusal(self) -> str | None:
        """Why the server would not start with the folder as it stands, model.json included; None: it starts."""
        return json.loads(self._do("approve").with_suffix(".json").read_text())

    def package_bytes(self) -> dict[str, int]:
        """Size of each package in the environment."""
        return json.loads(self._do("sizes").with_suffix(".json").read_text())

    def _do(self, task: str, rows: Tensors | None = None) -> Path:
        """Have a task done; the path of its files, without a suffix."""
        self._number += 1
        at = Path(self._scratch.name, str(self._number))
        if rows is not None:
            npz.save(at.with_suffix(".npz"), rows)
        stdin: Any = self._process.stdin
        stdout: Any = self._process.stdout
        try:
            print(task, self._number, file=stdin, flush=True)
            progress = Progress(f"{self._what}: {_DOING[task]}")
            while (answer := stdout.readline().strip()) not in ("done", "failed", ""):
                progress(answer)
        except BrokenPipeError:
            answer = ""
        if answer == "done":
            return at
        if answer == "failed":
            raise ModelError(f"{self._what}: {at.with_suffix('.error').read_text()}")
        status = self._process.wait()
        ended = f"by signal {-status}" if status < 0 else f"with status {status}"
        last = self._log.read_text(errors="replace").strip().splitlines()[-_LOG_LINES:]
        raise ModelError("\n  ".join([f"{self._what}: the process that runs its code ended {ended}:", *last]))
