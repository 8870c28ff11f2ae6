"""The clone's virtual environment: made once, and brought up to date when a lock file has changed."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from infra.package_index import installer_environment
from tools.cache import default_cache, digest, lock
from tools.console import say

UV_LOCK = "tools/uv.lock"
SERVER = "app"
"""The folder of the package `server`, which is installed from where it stands: an edit needs no new installation."""
PROGRAM_LOCKS = ("app/requirements.lock", "requirements.lock")
TEST_LOCK = "requirements-dev.lock"


class EnvironmentMissingError(Exception):
    """The virtual environment could not be made; the message says why and what to do."""


def ensure(root: Path, *, tests: bool = False) -> Path:
    """Install what the program needs, with `tests` what they need as well; the folder of the environment's programs.

    What has been installed for the tests stays: an environment that has it is kept up to date with it.
    """
    home = root / ".venv"
    stamp = home / "locks"
    with lock(root):  # on the folder itself, so that nothing is left behind
        python = f"Python {sys.version_info.major}.{sys.version_info.minor}\n"
        installed = stamp.read_text() if stamp.is_file() else ""
        locks = [*PROGRAM_LOCKS, *([TEST_LOCK] if tests or TEST_LOCK in installed else [])]
        wanted = python + "".join(
            f"{hashlib.sha256((root / lock).read_bytes()).hexdigest()}  {lock}\n" for lock in [UV_LOCK, *locks]
        )
        if not (home / "bin/python").exists() or (installed and not installed.startswith(python)):
            create(home)
            installed = ""
        if installed != wanted:
            stamp.unlink(missing_ok=True)
            install(root, locks)
            stamp.write_text(wanted)
    return home / "bin"


def enter(root: Path, module: str, *arguments: str) -> None:
    """Go on in the environment's Python: another one is replaced by it, running the module with these arguments."""
    programs = ensure(root)
    if Path(sys.prefix).resolve() != programs.parent.resolve():
        python = str(programs / "python")
        os.execv(python, [python, "-m", module, *arguments])  # noqa: S606  # this program itself, on the right Python


def separate(root: Path, *locks: str) -> Path:
    """Make an environment in the user's cache with what `locks` name and nothing else; the folder of its programs.

    For what would not fit beside the program's own packages, or is too large to install unasked. The cache holds one
    environment for each content of the locks.
    """
    uv = ensure(root) / "uv"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    purpose = locks[-1].removesuffix(".lock").replace("/", "-")
    name = f"python{version}-{purpose}-{digest(root / lock for lock in locks)}"
    home = default_cache() / name
    stamp = home / "complete"  # the folder cannot appear by a rename: its programs name the path they stand in
    with lock(home.with_name(f".{name}.lock")):
        if not stamp.exists():
            say(f"Python: installing the locked packages of {', '.join(locks)}: seconds from uv's cache, else minutes")
            run(root, [str(uv), "venv", "--quiet", "--clear", f"--python={sys.executable}", str(home)])
            python = f"--python={home / 'bin/python'}"
            run(root, [str(uv), "pip", "sync", "--quiet", python, "--require-hashes", *locks])
            stamp.touch()
    return home / "bin"


def create(home: Path) -> None:
    """Make an empty environment with pip, of the Python that runs this."""
    if os.pathsep in str(home):
        raise EnvironmentMissingError(
            f"the clone is in {home.parent}, and Python makes no virtual environment in a folder whose path has a"
            f" `{os.pathsep}`,\n  because that stands between the folders of PATH; move or clone it to another folder"
        )
    say(f"Python: making the virtual environment .venv with Python {sys.version.split()[0]}")
    shutil.rmtree(home, ignore_errors=True)
    try:
        venv.create(home, with_pip=True)
    except (subprocess.CalledProcessError, ImportError) as error:
        shutil.rmtree(home, ignore_errors=True)
        raise EnvironmentMissingError(
            f"{sys.executable} cannot make a virtual environment: its venv or ensurepip is missing.\n"
            "  On Debian and Ubuntu: apt install python3-venv; or name another Python: make PYTHON=/path/to/python3 ..."
        ) from error


def install(root: Path, locks: list[str]) -> None:
    """Install exactly what the lock files name, each file checked against its hashes."""
    python = str(root / ".venv/bin/python")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-user", "--require-hashes"]
    requirements = [f"--requirement={lock}" for lock in locks]
    packages = sum(line[:1].isalnum() for lock in locks for line in (root / lock).read_text().splitlines())
    say(f"Python: installing {packages} locked packages of {', '.join(locks)}: seconds from the cache, else a minute")
    run(root, [*pip, f"--requirement={UV_LOCK}"])
    uv = [str(root / ".venv/bin/uv"), "pip", "sync", "--quiet", f"--python={python}", "--require-hashes"]
    server = [*uv[:2], "install", "--quiet", f"--python={python}", "--no-deps", f"--editable={SERVER}"]
    if any(call(root, step) for step in ([*uv, UV_LOCK, *locks], server)):
        # pip has just reached an index to get uv itself; uv does not read pip's settings for mirrors and certificates.
        say("Python: uv failed; installing with pip instead, which takes a minute or two")
        run(root, [*pip, *requirements])
        run(root, [*pip[:-1], "--no-deps", f"--editable={SERVER}"])


def run(root: Path, command: list[str]) -> None:
    """Run a command that must succeed; one that fails says itself why."""
    if call(root, command):
        raise EnvironmentMissingError("the locked packages could not be installed; the reason stands above")


def call(root: Path, command: list[str]) -> int:
    """Run an installer, on stderr; its exit status."""
    settings = installer_environment(os.environ)
    return subprocess.run(command, cwd=root, env=settings, stdout=sys.stderr, check=False).returncode
