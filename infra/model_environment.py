"""The virtual environment of a model with dependencies: the server's packages and the model's, as locked."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from infra import model_lock
from infra.package_index import uv, uv_environment

_MAX_REASON_CHARACTERS = 1500


class ModelEnvironmentError(Exception):
    """The environment could not be made; the message has the installer's reason."""

    def __init__(self, reason: str) -> None:
        python = f"Python {sys.version_info.major}.{sys.version_info.minor}"
        super().__init__(f"the model's requirements.lock cannot be installed for {python} on this machine: {reason}")


def _to_stderr(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def ensure(server_lock: Path, model_lock_file: Path, say: Callable[[str], object] = _to_stderr) -> Path:
    """Return the Python of the environment, which is made in the user's cache if it is not there: whole or not at all.

    The cache holds one environment for each content of the two and each minor version of Python. Raises
    `ModelEnvironmentError`.
    """
    home = place(server_lock, model_lock_file)
    python, complete = home / "bin/python", home / "complete"
    if complete.exists():
        return python
    with _only_process(home.with_name(f".{home.name}.lock")):
        # The folder cannot appear by a rename: its programs name the path they stand in.
        if not complete.exists():
            text = _together(server_lock, model_lock_file)
            say(
                f"Python: installing the model's {text.count('==')} locked packages, which takes minutes for large ones"
            )
            try:
                _run("venv", "--clear", f"--python={sys.executable}", str(home))
                (home / "requirements.lock").write_text(text)
                _run(
                    "pip", "sync", f"--python={python}", "--require-hashes", "--only-binary=:all:",
                    "--index-strategy=unsafe-best-match", str(home / "requirements.lock"),
                )  # fmt: skip  # any index will do, because the hashes say which file it must be
            except BaseException:
                shutil.rmtree(home, ignore_errors=True)
                raise
            complete.touch()
    return python


def place(server_lock: Path, model_lock_file: Path) -> Path:
    """Name the environment's folder, whether or not it is there."""
    digest = hashlib.sha256(_together(server_lock, model_lock_file).encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "model-endpoint"
    return cache / f"python{sys.version_info.major}.{sys.version_info.minor}-model-{digest}"


def _together(server_lock: Path, model_lock_file: Path) -> str:
    try:
        server, model = (model_lock.parse(file.read_text()) for file in (server_lock, model_lock_file))
    except ValueError as mistake:
        raise ModelEnvironmentError(str(mistake)) from None
    return model_lock.together(model, server)


@contextmanager
def _only_process(path: Path) -> Generator[None]:
    """Hold the lock on the file; the system frees it when its holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDONLY | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _run(*arguments: str) -> None:
    done = subprocess.run(
        [uv(), "--quiet", *arguments], env=uv_environment(os.environ), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ModelEnvironmentError(" ".join(done.stderr.split())[-_MAX_REASON_CHARACTERS:])
