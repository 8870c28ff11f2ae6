"""Locks what a model's own code needs: requirements.txt and the server's packages, resolved together."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from infra import model_lock
from infra.package_index import uv, uv_environment
from tools.model.errors import ModelError

ROOT = Path(__file__).parents[2]
SERVER_LOCK = ROOT / "app/requirements.lock"
_SERVER_PROJECT = ROOT / "app/pyproject.toml"
_HEADER = """\
# Written by `make model`: the server's packages and these, resolved together. Change them, and package the model again.
"""
_MAX_REASON_CHARACTERS = 700
_PACKAGE = re.compile(r"(?P<name>[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)\s*(\[[^]]*\])?\s*([<>=!~;(].*)?")
_ARCHIVES = (".whl", ".tar.gz", ".zip")
_OPTION = re.compile(r"(?P<name>--?[a-z-]+)(\s*=\s*|\s+|(?<=^-[a-z]))?(?P<value>.*)")
_INCLUDES = {"-r": "-r", "--requirement": "-r", "-c": "-c", "--constraint": "-c"}
_INDEXES = {
    "-i": "--index-url",
    "--index-url": "--index-url",
    "--extra-index-url": "--extra-index-url",
    "-f": "--find-links",
    "--find-links": "--find-links",
}
_WITHOUT_EFFECT = {"--prefer-binary", "--only-binary", "--require-hashes"}
"""Options that say what locking does anyway."""
_CUDA = re.compile(r"nvidia-|cuda-|triton$")


@dataclass(frozen=True)
class _Line:
    """One logical line of a requirements file."""

    file: str
    """Path in the model folder."""
    number: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.number}: {self.text[:120]}"


def lock_requirements(requirements: str, *, what: str, folder: Path | None = None) -> bytes:
    """Resolve `requirements`, the text of requirements.txt, together with the server's packages; return the lock file.

    `what` begins each message, such as the path of the model folder. Files that the text names by `-r` and `-c` are
    read below `folder`. The lock holds for every system and for Python 3.11 and later, with one version of a package
    on all of them where there is one. Raises `ModelError` with the line at fault, and the resolver's own reason.
    """
    files = dict(_read(requirements, what, folder))
    options = [line for lines in files.values() for line in lines if line.text.startswith("-")]
    indexes = list(dict.fromkeys(line.text for line in options if line.text.split()[0] in _INDEXES.values()))
    text = _resolve(files, indexes, what, prereleases=any(line.text == "--pre" for line in options))
    sources = {model_lock.REQUIREMENTS: requirements.encode()}
    sources |= {name: (folder / name).read_bytes() for name in files if folder and name != model_lock.REQUIREMENTS}
    header = _HEADER + "".join(f"# {model_lock.digest_of(content)}  {name}\n" for name, content in sources.items())
    return (header + "".join(f"{index}\n" for index in indexes) + text).encode()


def notes(lock: bytes) -> list[str]:
    """Say what a user should know of a lock: what makes the image larger than it need be, and by how much."""
    pins = {pin.name: pin for pin in model_lock.parse(lock.decode()).pins}
    if "torch" not in pins or "+" in pins["torch"].version or not any(map(_CUDA.match, pins)):
        return []
    return [
        "requirements.txt brings PyTorch's builds for CUDA, about 5 GB in the image, and the server here runs on the"
        " CPU.\n  For its builds for CPUs, a tenth of that, name the index that has them (pytorch.org/get-started does)"
        " on a line\n  of requirements.txt, `--extra-index-url <address>`, and package the model again"
    ]


def _read(requirements: str, what: str, folder: Path | None) -> Iterator[tuple[str, list[_Line]]]:
    """Yield the checked lines of requirements.txt and of each file that it names, which `-r` has by its whole path."""
    waiting, seen = [(model_lock.REQUIREMENTS, requirements)], {model_lock.REQUIREMENTS}
    for name, text in waiting:
        lines: list[_Line] = []
        for line in _lines(name, text):
            checked, included = _checked(line, what)
            if included is not None:
                path = _below(folder, name, included, line, what)
                if path not in seen:
                    waiting.append((path, _content(folder, path, line, what)))
                    seen.add(path)
                checked = f"{checked} {path}"
            if checked:
                lines.append(_Line(name, line.number, checked))
        yield name, lines


def _lines(name: str, text: str) -> Iterator[_Line]:
    """Yield the lines that say something, without comments; a backslash joins a line and the next."""
    held, start = "", 0
    for number, line in enumerate([*text.splitlines(), ""], start=1):
        start = start if held else number
        held += re.sub(r"(^|\s)#.*$", "", line).strip()
        if held.endswith("\\"):
            held = held[:-1] + " "
        elif held:
            yield _Line(name, start, " ".join(held.split()))
            held = ""


def _checked(line: _Line, what: str) -> tuple[str, str | None]:
    """Return the line as the resolver is to have it, and the file that it includes; raises a ModelError."""
    if not line.text.startswith("-"):
        bare = re.sub(r"\s--hash[= ].*$", "", line.text)
        if not _PACKAGE.fullmatch(bare) or bare.endswith(_ARCHIVES):
            raise ModelError(f"{what}: {line}\n  {_why_not_a_package(bare)}")
        return line.text, None
    option = _OPTION.fullmatch(line.text)
    name, value = (option["name"], option["value"]) if option else (line.text, "")
    if name in _INCLUDES:
        return _INCLUDES[name], value
    if name in _INDEXES:
        return _index(line, _INDEXES[name], value, what), None
    if name == "--pre":
        return "--pre", None
    if name in _WITHOUT_EFFECT:
        return "", None
    if name in ("-e", "--editable"):
        raise ModelError(f"{what}: {line}\n  {_why_not_a_package(value)}")
    raise ModelError(f"{what}: {line}\n  the option {name} cannot be kept in a lock file; remove it")


def _index(line: _Line, option: str, address: str, what: str) -> str:
    """Check the address of an index, which ships with the model."""
    parts = urlsplit(address)
    if "@" in parts.netloc:
        shown = line.text.replace(parts.netloc.rpartition("@")[0], "***")
        raise ModelError(
            f"{what}: {_Line(line.file, line.number, shown)}\n"
            "  holds a user name or password, which would ship with the model: name the index without it, and give the"
            " password\n  by ~/.netrc or pip's and uv's own settings; for the image, by a baseImage that has it"
        )
    if parts.scheme not in ("https", "http"):
        raise ModelError(
            f"{what}: {line}\n  must be an address, https://...: a folder of this machine is not in the image"
        )
    return f"{option} {address}"


def _why_not_a_package(text: str) -> str:
    if re.search(r"(git|hg|svn|bzr)\+|://", text):
        return (
            "is an address, whose content can change under the lock: name a released version, such as package==1.2,\n"
            "  or copy the code's files beside predictor.py, which can import them"
        )
    if text.startswith((".", "/")) or "/" in text or text.endswith(_ARCHIVES):
        return (
            "is a path, and packages come from an index: name a released version, such as package==1.2,\n"
            "  or copy the code's files beside predictor.py, which can import them"
        )
    return "is no requirement, such as package==1.2 or package[extra]>=1"


def _below(folder: Path | None, including: str, included: str, line: _Line, what: str) -> str:
    """Path in the model folder of a file that `including` names."""
    if folder is None:
        raise ModelError(f"{what}: {line}\n  names a file, and there is no folder to read it from")
    path = (folder / Path(including).parent / included).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ModelError(f"{what}: {line}\n  must be a file in the model folder, {folder}")
    return path.relative_to(folder.resolve()).as_posix()


def _content(folder: Path | None, path: str, line: _Line, what: str) -> str:
    try:
        return (folder or Path()).joinpath(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{what}: {line}\n  cannot be read: {error}") from None


def _resolve(files: dict[str, list[_Line]], indexes: list[str], what: str, *, prereleases: bool) -> str:
    """Run the resolver on copies of the files; return the pins as it writes them."""
    server = tomllib.loads(_SERVER_PROJECT.read_text())["project"]["dependencies"]
    with tempfile.TemporaryDirectory(prefix="model-endpoint-") as scratch:
        here = Path(scratch)
        for name, lines in files.items():
            (here / name).parent.mkdir(parents=True, exist_ok=True)
            (here / name).write_text("".join(f"{_relative(line)}\n" for line in lines if line.text != "--pre"))
        (here / "server.in").write_text("\n".join(server))
        lock = here / "lock"
        lock.write_text(SERVER_LOCK.read_text())  # what stands there already is preferred
        command = [
            uv(), "pip", "compile", "--quiet", "--universal", "--python-version=3.11",
            "--fork-strategy=fewest", "--generate-hashes", "--only-binary=:all:", "--no-header", "--no-annotate",
            "--no-emit-index-url", "--no-emit-find-links", f"--output-file={lock}",
            # As pip does, a package that one index lacks is looked for in the next.
            *(["--index-strategy=unsafe-first-match"] if indexes else []),
            *(["--prerelease=allow"] if prereleases else []),
            model_lock.REQUIREMENTS, "server.in",
        ]  # fmt: skip
        done = subprocess.run(
            command, cwd=here, env=uv_environment(os.environ), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise ModelError(_refusal(files, what, done.stderr))
        return lock.read_text()


def _relative(line: _Line) -> str:
    """An include names its file from where it stands."""
    option, _, path = line.text.partition(" ")
    return f"{option} {os.path.relpath(path, Path(line.file).parent)}" if option in ("-r", "-c") else line.text


def _refusal(files: dict[str, list[_Line]], what: str, stderr: str) -> str:
    """Name the lines that the resolver's reason is about, and the reason, shortened to its end."""
    reason = " ".join(re.sub(r"^error: (No solution found when resolving dependencies)?", "", stderr.strip()).split())
    reason = reason.removeprefix("cause: ")
    spoken = {model_lock.canonical(name) for name in re.findall(r"[A-Za-z0-9][A-Za-z0-9._-]*", reason)}
    at_fault = [
        f"{line}" for lines in files.values() for line in lines
        if (package := _PACKAGE.match(line.text)) and model_lock.canonical(package["name"]) in spoken
    ]  # fmt: skip
    if len(reason) > _MAX_REASON_CHARACTERS:
        reason = f"... {reason[-_MAX_REASON_CHARACTERS:].partition(' ')[2]}"
    where = "; ".join(at_fault[:3]) or model_lock.REQUIREMENTS
    return f"{what}: {where}\n  cannot be resolved together with the server: {reason}"
