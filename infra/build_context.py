"""Stages the build context: app and model in one folder, checked, and named by their content."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import pulumi

from infra import model_lock
from infra.git_lfs import is_pointer

if TYPE_CHECKING:
    from server.model.manifest import Manifest

APP_FILES = ("Dockerfile", "requirements.lock")
"""Files of the app folder that ship, besides `server/` and the lock files of extras."""

MAX_FILE_BYTES = 2 * 1024**3
"""protobuf's own limit, and so that of an ONNX file."""

_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
"""The value of a Kubernetes label, which the model's name and version become."""

_CHUNK_BYTES = 1024 * 1024
_PACKAGE_AGAIN = "package the model again with `make model`, which writes it"


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
    """The staged folder, as it was given: the build context; a local process runs a copy of it."""
    content_hash: str
    """SHA-256 (hex) of every staged path, executable bit and byte; the same on every machine."""
    model_name: str
    model_version: str
    """Valid as the value of a Kubernetes label."""
    example: str
    """JSON body of a prediction that the endpoint must answer."""
    needs_torch: bool = False
    """Whether the model is a PyTorch program, which needs an image with PyTorch."""
    has_dependencies: bool = False
    """Whether the model needs packages besides the server's: a layer of their own in the image, and an environment."""
    debian_packages: tuple[str, ...] = ()
    """Packages that it needs of Debian, as apt-get takes them."""


@dataclass(frozen=True)
class _Dependencies:
    """What a model folder asks for besides the server."""

    torch: bool = False
    pins: tuple[model_lock.Pin, ...] = ()
    """Without those that the server has at the same version."""
    indexes: tuple[str, ...] = ()
    debian: tuple[str, ...] = ()

    def files(self) -> dict[PurePosixPath, bytes]:
        """Write what the Dockerfile installs, by staged path; nothing where there is nothing to install."""
        if not self.pins and not self.debian:
            return {}
        return {
            PurePosixPath("dependencies", model_lock.LOCK): model_lock.render(self.indexes, self.pins).encode(),
            PurePosixPath("dependencies", model_lock.PACKAGES): "".join(f"{name}\n" for name in self.debian).encode(),
        }


def stage(app: Path, model: Path, into: Path, extras: Iterable[str] = ()) -> Release:
    """Make `into` hold exactly the app and, as `model/`, the model folder; a file that is right already is left alone.

    Each of `extras` adds its lock file, requirements-<extra>.lock. Hidden files and byte code do not ship.
    Raises `ReleaseError` before it changes anything when the sources are wrong: what the server would refuse at its
    start by reading model.json is refused here.
    """
    _refuse_overlap(into, app, model)
    sources = _find_sources(app, model, [*APP_FILES, *(f"requirements-{extra}.lock" for extra in extras)])
    manifest, example = _read_model(model, sources)
    dependencies = _read_dependencies(model, sources)
    return Release(
        path=into,
        content_hash=_copy(sources, dependencies.files(), into),
        model_name=manifest.name,
        model_version=manifest.version,
        example=example,
        needs_torch=manifest.format == "pt2" and not dependencies.torch,
        has_dependencies=bool(dependencies.files()),
        debian_packages=dependencies.debian,
    )


def _refuse_overlap(into: Path, *sources: Path) -> None:
    """Refuse a target that staging would empty together with its own sources."""
    if into.is_symlink():
        raise ReleaseError(into, "is a symbolic link; staging would empty the folder it points to")
    target = into.resolve()
    for source in sources:
        found = source.resolve()
        if found == target or found in target.parents or target in found.parents:
            raise ReleaseError(source, f"overlaps {into}, which staging empties; use another folder")


def _find_sources(app: Path, model: Path, app_files: Iterable[str]) -> dict[PurePosixPath, Path]:
    """Find every file that ships, by its staged path."""
    found = {PurePosixPath(name): _check_file(app / name) for name in app_files}
    for folder, prefix in ((app / "server", "server"), (model, "model")):
        if not folder.is_dir():
            raise ReleaseError(folder, "must be a folder" if folder.exists() else "this folder does not exist")
        for file in _walk(folder):
            found[PurePosixPath(prefix, *file.relative_to(folder).parts)] = file
    return found


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the files below `folder` that ship."""
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
            yield _check_file(entry)


def _check_file(file: Path) -> Path:
    """Return `file`, or raise ReleaseError when it cannot ship."""
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
    try:
        if is_pointer(file):
            raise ReleaseError(file, "is a Git LFS pointer, not the file itself; run `git lfs pull`, which fetches it")
    except OSError as error:
        raise ReleaseError(file, f"cannot be read: {error.strerror}") from None
    return file


def _read_model(model: Path, sources: Mapping[PurePosixPath, Path]) -> tuple[Manifest, str]:
    """Check model.json and the files that it names as the server does; return it, and its example as compact JSON."""
    # Imported here: providers import this module on refresh and destroy too, which must not need the server.
    try:
        from server.model.manifest import check_hooks, check_predictor, parse_manifest
    except ModuleNotFoundError as error:
        if error.name != "server":
            raise
        raise pulumi.RunError(
            "the package `server` is not installed in the program's virtual environment, and the model is checked with "
            "it; run `make env`, which installs it as every make target does"
        ) from None
    file, hooks = model / "model.json", model / "hooks.py"
    content = _read(file, sources)
    try:
        manifest = parse_manifest(content)
        example = _compact_example(content)
        for key, value in (("name", manifest.name), ("version", manifest.version)):
            _check_label(key, value)
    except (ValueError, RecursionError) as mistake:
        raise ReleaseError(file, str(mistake)) from None
    main = "predictor.py" if manifest.format == "python" else f"model.{manifest.format}"
    if PurePosixPath("model", main) not in sources:
        rule = f"this file does not exist, and the format in model.json is {manifest.format}"
        raise ReleaseError(model / main, rule)
    if manifest.format == "python":
        code = {path.relative_to("model").as_posix(): file for path, file in sources.items() if _is_code(path)}
        try:
            check_predictor(manifest, {name: file.read_bytes() for name, file in code.items()})
        except ValueError as mistake:
            raise ReleaseError(model, str(mistake)) from None
    elif manifest.hooks or PurePosixPath("model/hooks.py") in sources:
        try:
            check_hooks(manifest, _read(hooks, sources))
        except ValueError as mistake:
            raise ReleaseError(hooks, str(mistake)) from None
    return manifest, example


def _is_code(path: PurePosixPath) -> bool:
    return path.parts[0] == "model" and path.suffix == ".py"


def _read_dependencies(model: Path, sources: Mapping[PurePosixPath, Path]) -> _Dependencies:
    """Check what the folder asks for besides the server, and that it was locked as it stands."""

    def content(name: str) -> bytes:
        return _read(model / name, sources) if PurePosixPath("model", name) in sources else b""

    requirements = content(model_lock.REQUIREMENTS)
    lock, servers = model_lock.Lock(), list[model_lock.Lock]()
    if PurePosixPath("model", model_lock.LOCK) in sources:
        lock = _parse_lock(model / model_lock.LOCK, content(model_lock.LOCK))
        beside = [file for path, file in sources.items() if len(path.parts) == 1 and path.suffix == ".lock"]
        servers = [_parse_lock(file, file.read_bytes()) for file in beside]
    elif any(line.strip() and not line.lstrip().startswith(b"#") for line in requirements.splitlines()):
        raise ReleaseError(model / model_lock.REQUIREMENTS, f"has no {model_lock.LOCK} beside it; {_PACKAGE_AGAIN}")
    for name, digest in lock.sources.items():
        source = sources.get(PurePosixPath("model", name))
        if source and model_lock.digest_of(source.read_bytes()) != digest:
            raise ReleaseError(source, f"is not what {model_lock.LOCK} was made of; {_PACKAGE_AGAIN}")
    try:
        debian = model_lock.debian_packages(content(model_lock.PACKAGES).decode())
    except ValueError as mistake:
        raise ReleaseError(model / model_lock.PACKAGES, str(mistake)) from None
    return _Dependencies(
        torch=any(pin.name == "torch" for pin in lock.pins),
        pins=model_lock.beyond_server(lock, servers),
        indexes=lock.indexes,
        debian=debian,
    )


def _parse_lock(file: Path, content: bytes) -> model_lock.Lock:
    try:
        return model_lock.parse(content.decode())
    except ValueError as mistake:
        raise ReleaseError(file, f"{mistake}; {_PACKAGE_AGAIN}") from None


def _compact_example(content: bytes) -> str:
    document = json.loads(content, object_pairs_hook=_refuse_duplicates)
    example = document["example"]
    if not isinstance(example, dict) or not example:
        raise ValueError('"example" must be the JSON object of a prediction, such as {"input": [1, 2, 3]}')
    return json.dumps(example, separators=(",", ":"), allow_nan=False)


def _check_label(key: str, value: str) -> None:
    if _LABEL.fullmatch(value) is None:
        raise ValueError(
            f'"{key}" must be text of 1 to 63 letters, digits, ".", "_" or "-", letter or digit at both ends'
        )


def _read(file: Path, sources: Mapping[PurePosixPath, Path]) -> bytes:
    if PurePosixPath("model", file.name) not in sources:
        raise ReleaseError(file, "this file does not exist")
    try:
        return file.read_bytes()
    except OSError as error:
        raise ReleaseError(file, f"cannot be read: {error.strerror}") from None


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its members. Raises ValueError for a key that stands twice, of which the server reads one."""
    found = dict(pairs)
    if len(found) < len(pairs):
        repeated = next(key for key, _ in pairs if sum(key == other for other, _ in pairs) > 1)
        raise ValueError(f'the key "{repeated}" stands twice in one object')
    return found


def _copy(sources: Mapping[PurePosixPath, Path], written: Mapping[PurePosixPath, bytes], into: Path) -> str:
    """Make `into` hold exactly `sources` and the contents of `written`; return the content hash."""
    into.mkdir(parents=True, exist_ok=True)
    paths = {*sources, *written}
    _remove_others(into, keep=paths)
    for folder in {into / parent for path in paths for parent in path.parents}:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)  # whatever the umask: the image's user must be able to read what is copied from here
    total = hashlib.sha256()
    for path in sorted(paths, key=lambda p: os.fsencode(str(p))):
        source = sources.get(path, into / path)
        try:
            if path in written:
                _write_file(written[path], source)
            executable = bool(source.stat().st_mode & stat.S_IXUSR)
            digest = _copy_file(source, into / path, executable=executable)
        except OSError as error:
            raise ReleaseError(source, f"cannot be staged: {error.strerror}") from None
        total.update(os.fsencode(str(path)) + (b"\0x" if executable else b"\0-") + digest)
    return total.hexdigest()


def _remove_others(into: Path, keep: set[PurePosixPath]) -> None:
    folders = {parent for path in keep for parent in path.parents}
    for entry in sorted(into.rglob("*"), reverse=True):  # children before their folder
        path = PurePosixPath(*entry.relative_to(into).parts)
        if entry.is_dir() and not entry.is_symlink():
            if path not in folders:
                entry.rmdir()
        elif path not in keep or entry.is_symlink():
            entry.unlink()


def _write_file(content: bytes, target: Path) -> None:
    if not target.is_file() or target.read_bytes() != content:
        target.write_bytes(content)


def _copy_file(source: Path, target: Path, *, executable: bool) -> bytes:
    """Copy atomically, and only where the bytes differ; return the SHA-256 of the target."""
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
            shutil.copyfileobj(read, write, _CHUNK_BYTES)
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
