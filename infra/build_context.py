"""What ships: the app and the model, staged in one folder and named by their content."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn, cast

import pulumi

APP_FILES = ("Dockerfile", "requirements.lock")
"""Files of the app folder that ship, besides `server/` and the lock files of extras."""

MAX_FILE_BYTES = 2 * 1024**3
"""protobuf's own limit, so that of an ONNX file too."""

_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
"""A Kubernetes label's value: the model's version becomes one."""

_CHUNK = 1024 * 1024


class ReleaseError(pulumi.RunError):
    """The app or the model cannot ship: `file` breaks `rule`."""

    def __init__(self, file: Path, rule: str) -> None:
        """`rule` finishes the sentence that `file` begins."""
        self.file = file
        self.rule = rule
        super().__init__(f"{file}: {rule}")


@dataclass(frozen=True, kw_only=True)
class Release:
    """One staged version of app and model."""

    path: Path
    """The staged folder, as it was given: the build context, and what a local process is copied from."""
    content_hash: str
    """SHA-256 (hex) of every staged path, executable bit and byte; the same on every machine."""
    model_name: str
    model_version: str
    """Valid as the value of a Kubernetes label."""
    example: str
    """JSON body of a prediction that must succeed: what proves an endpoint."""
    needs_torch: bool = False
    """Whether the model is a PyTorch program, which only an image with PyTorch can run."""


def stage(app: Path, model: Path, into: Path, extras: Iterable[str] = ()) -> Release:
    """Make `into` hold exactly the app and, as `model/`, the model folder; a file that is right already is left alone.

    Of each of `extras` the lock file, requirements-<extra>.lock, ships as well. Hidden files and byte code do not ship.
    Raises `ReleaseError` before it changes anything when the sources are wrong.
    """
    _keep_apart(into, app, model)
    sources = _sources(app, model, [*APP_FILES, *(f"requirements-{extra}.lock" for extra in extras)])
    name, version, example = _describe(model)
    into.mkdir(parents=True, exist_ok=True)
    _remove_others(into, keep=set(sources))
    for folder in {into / parent for path in sources for parent in path.parents}:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)  # whatever the umask: the image's user must be able to read what is copied from here
    total = hashlib.sha256()
    for path in sorted(sources, key=lambda p: os.fsencode(str(p))):
        source = sources[path]
        try:
            executable = bool(source.stat().st_mode & stat.S_IXUSR)
            digest = _place(source, into / path, executable=executable)
        except OSError as error:
            raise ReleaseError(source, f"cannot be staged: {error.strerror}") from None
        total.update(os.fsencode(str(path)) + (b"\0x" if executable else b"\0-") + digest)
    return Release(
        path=into,
        content_hash=total.hexdigest(),
        model_name=name,
        model_version=version,
        example=example,
        needs_torch=PurePosixPath("model/model.onnx") not in sources,
    )


def _keep_apart(into: Path, *sources: Path) -> None:
    """Refuse a target that staging would empty together with its own sources."""
    if into.is_symlink():
        raise ReleaseError(into, "is a symbolic link; staging would empty the folder it points to")
    target = into.resolve()
    for source in sources:
        found = source.resolve()
        if found == target or found in target.parents or target in found.parents:
            raise ReleaseError(source, f"overlaps {into}, which staging empties; use another folder")


def _sources(app: Path, model: Path, app_files: Iterable[str]) -> dict[PurePosixPath, Path]:
    """Every file that ships, by its staged path."""
    found = {PurePosixPath(name): _checked(app / name) for name in app_files}
    for folder, prefix in ((app / "server", "server"), (model, "model")):
        if not folder.is_dir():
            raise ReleaseError(folder, "must be a folder" if folder.exists() else "this folder does not exist")
        for file in _walk(folder):
            found[PurePosixPath(prefix, *file.relative_to(folder).parts)] = file
    for names in (("model.json",), ("model.onnx", "model.pt2")):
        if not any(PurePosixPath("model", name) in found for name in names):
            rule = "this file does not exist; a model folder holds model.json and model.onnx (or model.pt2)"
            raise ReleaseError(model / names[0], rule)
    return found


def _walk(folder: Path) -> Iterator[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise ReleaseError(folder, f"cannot be read: {error.strerror}") from None
    for entry in entries:
        if entry.name.startswith(".") or entry.name == "__pycache__" or entry.suffix == ".pyc":
            continue
        if entry.is_dir() and not entry.is_symlink():
            yield from _walk(entry)
        else:
            yield _checked(entry)


def _checked(file: Path) -> Path:
    try:
        found = file.lstat()
    except FileNotFoundError:
        raise ReleaseError(file, "this file does not exist") from None
    except OSError as error:
        raise ReleaseError(file, f"cannot be read: {error.strerror}") from None
    if stat.S_ISLNK(found.st_mode):
        raise ReleaseError(file, "is a symbolic link, and what it points to would not ship; copy the file itself")
    if not stat.S_ISREG(found.st_mode):
        raise ReleaseError(file, "must be a regular file")
    if found.st_size > MAX_FILE_BYTES:
        raise ReleaseError(file, f"has {found.st_size} bytes; the most is {MAX_FILE_BYTES}")
    return file


def _describe(model: Path) -> tuple[str, str, str]:
    """Name, version and example from model.json."""
    file = model / "model.json"
    try:
        parsed: Any = json.loads(
            file.read_text(encoding="utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except UnicodeDecodeError:
        raise ReleaseError(file, "must be UTF-8 text") from None
    except RecursionError:
        raise ReleaseError(file, "is nested too deeply") from None
    except ValueError as error:
        raise ReleaseError(file, f"must be valid JSON: {error}") from None
    except OSError as error:
        raise ReleaseError(file, f"cannot be read: {error.strerror}") from None
    if not isinstance(parsed, dict):
        raise ReleaseError(file, "must be a JSON object")
    fields = cast("dict[str, Any]", parsed)
    name, version = (_label(file, fields, key) for key in ("name", "version"))
    example = fields.get("example")
    if not isinstance(example, dict) or not example:
        raise ReleaseError(file, '"example" must be the JSON object of a prediction, such as {"input": [1, 2, 3]}')
    return name, version, json.dumps(example, separators=(",", ":"))


def _label(file: Path, fields: dict[str, Any], key: str) -> str:
    value = fields.get(key)
    if not isinstance(value, str) or _LABEL.fullmatch(value) is None:
        raise ReleaseError(
            file, f'"{key}" must be text of 1 to 63 letters, digits, ".", "_" or "-", letter or digit at both ends'
        )
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        repeated = next(key for key, _ in pairs if sum(key == other for other, _ in pairs) > 1)
        raise ValueError(f'the key "{repeated}" stands twice in one object')
    return found


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _remove_others(into: Path, keep: set[PurePosixPath]) -> None:
    folders = {parent for path in keep for parent in path.parents}
    for entry in sorted(into.rglob("*"), reverse=True):  # children before their folder
        path = PurePosixPath(*entry.relative_to(into).parts)
        if entry.is_dir() and not entry.is_symlink():
            if path not in folders:
                entry.rmdir()
        elif path not in keep or entry.is_symlink():
            entry.unlink()


def _place(source: Path, target: Path, *, executable: bool) -> bytes:
    """Give `target` the source's bytes, atomically and only where they differ; answers the digest of what is there."""
    mode = 0o755 if executable else 0o644
    if target.is_file() and target.stat().st_size == source.stat().st_size:
        digest = _digest(target)
        if digest == _digest(source):
            if stat.S_IMODE(target.stat().st_mode) != mode:
                target.chmod(mode)
            return digest
    # Under a name that staging skips, should this process be killed here.
    handle, temporary = tempfile.mkstemp(prefix=".staging-", dir=target.parent)
    try:
        with source.open("rb") as read, os.fdopen(handle, "wb") as write:
            shutil.copyfileobj(read, write, _CHUNK)
        written = Path(temporary)
        written.chmod(mode)
        digest = _digest(written)
        written.replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return digest


def _digest(file: Path) -> bytes:
    with file.open("rb") as read:
        return hashlib.file_digest(read, "sha256").digest()
