"""Staging: what ships, its hash, and every refusal."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pulumi
import pytest

from infra import build_context
from infra.build_context import Release, ReleaseError, stage
from infra.model_lock import digest_of

ROOT = Path(__file__).parents[2]
DESCRIPTION: dict[str, Any] = {
    "name": "iris",
    "version": "1",
    "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 3]}],
    "outputs": [{"name": "species", "datatype": "INT64", "shape": [-1]}],
    "example": {"input": [1, 2, 3]},
}
HOOKS = "def preprocess(inputs):\n    return inputs\n"
DECLARED = {**DESCRIPTION, "hooks": {"sha256": hashlib.sha256(HOOKS.encode()).hexdigest()}}


def without(member: str) -> dict[str, Any]:
    return {key: value for key, value in DESCRIPTION.items() if key != member}


@dataclass(frozen=True)
class Sources:
    root: Path

    @property
    def app(self) -> Path:
        return self.root / "app"

    @property
    def model(self) -> Path:
        return self.root / "somewhere" / "else"

    @property
    def into(self) -> Path:
        return self.root / ".build" / "dev" / "image"

    def stage(self) -> Release:
        return stage(self.app, self.model, self.into)

    def describe(self, text: str | dict[str, Any]) -> None:
        file = self.model / "model.json"
        file.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")

    def staged(self) -> list[str]:
        return sorted(str(p.relative_to(self.into)) for p in self.into.rglob("*") if not p.is_dir())


def make(root: Path) -> Sources:
    sources = Sources(root)
    (sources.app / "server" / "inner").mkdir(parents=True)
    sources.model.mkdir(parents=True)
    (sources.app / "Dockerfile").write_text("FROM scratch\n")
    (sources.app / "requirements.lock").write_text("numpy==2\n")
    (sources.app / "server" / "__init__.py").write_text("")
    (sources.app / "server" / "inner" / "run.sh").write_text("#!/bin/sh\n")
    (sources.app / "server" / "inner" / "run.sh").chmod(0o755)
    (sources.model / "model.onnx").write_bytes(b"\x00onnx")
    sources.describe(DESCRIPTION)
    return sources


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    return make(tmp_path / "one")


def test_what_ships_is_app_and_model_and_nothing_else(sources: Sources) -> None:
    for extra in ("notes.txt", "requirements.in", "server/.hidden", "server/old.pyc", "server/__pycache__/a.nbi"):
        (sources.app / extra).parent.mkdir(exist_ok=True)
        (sources.app / extra).write_text("x")
    (sources.model / ".git").mkdir()
    (sources.model / ".git" / "config").write_text("x")

    found = sources.stage()

    assert sources.staged() == [
        "Dockerfile", "model/model.json", "model/model.onnx", "requirements.lock",
        "server/__init__.py", "server/inner/run.sh",
    ]  # fmt: skip
    assert (found.path, found.model_name, found.model_version) == (sources.into, "iris", "1")
    assert json.loads(found.example) == {"input": [1, 2, 3]}
    assert os.access(sources.into / "server/inner/run.sh", os.X_OK)


def test_the_lock_files_of_extras_ship_with_them_only(sources: Sources) -> None:
    (sources.app / "requirements-torch.lock").write_text("torch==2\n")
    without = sources.stage()
    found = stage(sources.app, sources.model, sources.into, ["torch"])
    assert "requirements-torch.lock" in sources.staged()
    assert found.content_hash != without.content_hash

    with pytest.raises(ReleaseError, match=r"requirements-otel\.lock: this file does not exist"):
        stage(sources.app, sources.model, sources.into, ["otel"])


def test_a_model_may_be_a_pytorch_program(sources: Sources) -> None:
    assert not sources.stage().needs_torch
    (sources.model / "model.onnx").rename(sources.model / "model.pt2")
    sources.describe({**DESCRIPTION, "format": "pt2"})
    assert sources.stage().needs_torch
    assert "model/model.pt2" in sources.staged()


def test_declared_hooks_ship(sources: Sources) -> None:
    (sources.model / "hooks.py").write_text(HOOKS)
    sources.describe(DECLARED)
    sources.stage()
    assert "model/hooks.py" in sources.staged()


PREDICTOR = "import net\n\n\ndef predict(x: float) -> float:\n    return net.twice(x)\n"
NET = "def twice(x):\n    return 2 * x\n"
CODE = {
    **DESCRIPTION,
    "format": "python",
    "predictor": {
        "entry": "predict",
        "call": "row",
        "sha256": {
            "predictor.py": hashlib.sha256(PREDICTOR.encode()).hexdigest(),
            "parts/net.py": hashlib.sha256(NET.encode()).hexdigest(),
        },
    },
}
SHARED = f"numpy==2 \\\n    --hash=sha256:{'a' * 64}\n"
OWN = f"humanize==4 \\\n    --hash=sha256:{'b' * 64}\n"


def own_code(sources: Sources) -> None:
    """Make the model one of its author's own code."""
    (sources.model / "model.onnx").unlink()
    (sources.model / "predictor.py").write_text(PREDICTOR)
    (sources.model / "parts").mkdir()
    (sources.model / "parts/net.py").write_text(NET)
    sources.describe(CODE)


def with_dependencies(sources: Sources, requirements: str = "humanize\n", packages: str = "") -> None:
    (sources.app / "requirements.lock").write_text(SHARED)
    (sources.model / "requirements.txt").write_text(requirements)
    made_of = f"# {digest_of(requirements.encode())}  requirements.txt\n"
    (sources.model / "requirements.lock").write_text(made_of + SHARED + (OWN if requirements else ""))
    if packages:
        (sources.model / "packages.txt").write_text(packages)


def test_a_model_may_be_its_authors_code(sources: Sources) -> None:
    own_code(sources)
    (sources.model / "vocabulary.txt").write_text("a\nb\n")
    assert not sources.stage().has_dependencies
    assert [name for name in sources.staged() if name.startswith(("model/", "dependencies/"))] == [
        "model/model.json", "model/parts/net.py", "model/predictor.py", "model/vocabulary.txt",
    ]  # fmt: skip


def test_what_the_image_installs_is_what_the_server_does_not_have(sources: Sources) -> None:
    with_dependencies(sources, packages="# sound\nlibsndfile1\n\nffmpeg=7:7.1-1\n")
    release = sources.stage()
    assert release.has_dependencies
    assert release.debian_packages == ("libsndfile1", "ffmpeg=7:7.1-1")
    assert (sources.into / "dependencies/requirements.lock").read_text() == OWN
    assert (sources.into / "dependencies/packages.txt").read_text() == "libsndfile1\nffmpeg=7:7.1-1\n"
    assert (sources.into / "model/requirements.lock").read_text().endswith(SHARED + OWN)
    assert sources.stage() == release
    fresh = stage(sources.app, sources.model, sources.root / "fresh")
    assert fresh.content_hash == release.content_hash


def test_another_model_version_leaves_what_is_installed_as_it_was(sources: Sources) -> None:
    with_dependencies(sources)
    sources.stage()
    for file in (sources.into / "dependencies").iterdir():
        os.utime(file, (1, 1))
    sources.describe({**DESCRIPTION, "version": "2"})
    sources.stage()
    assert {file.stat().st_mtime for file in (sources.into / "dependencies").iterdir()} == {1}


def test_a_model_that_needs_what_the_server_has_is_a_plain_one(sources: Sources) -> None:
    (sources.app / "requirements.lock").write_text(SHARED)
    before = sources.stage()
    with_dependencies(sources, requirements="")
    (sources.model / "packages.txt").write_text("# none\n")
    after = sources.stage()
    assert (after.has_dependencies, after.debian_packages) == (False, ())
    assert not (sources.into / "dependencies").exists()
    assert after.content_hash != before.content_hash


def test_debian_packages_alone_are_dependencies(sources: Sources) -> None:
    (sources.model / "packages.txt").write_text("ffmpeg\n")
    assert sources.stage().has_dependencies
    assert (sources.into / "dependencies/requirements.lock").read_text() == ""


def test_a_pytorch_program_may_bring_its_own_pytorch(sources: Sources) -> None:
    (sources.model / "model.onnx").rename(sources.model / "model.pt2")
    sources.describe({**DESCRIPTION, "format": "pt2"})
    (sources.app / "requirements.lock").write_text(SHARED)
    (sources.model / "requirements.lock").write_text(OWN.replace("humanize", "torch"))
    assert not sources.stage().needs_torch


def test_the_example_is_compact_json_as_it_was_in_every_version(sources: Sources) -> None:
    """Another spelling would be another input of the endpoint's check in stacks that exist."""
    text = json.dumps(DESCRIPTION).replace("[1, 2, 3]", '[ 1.50, 2e0, "\u00e9" ]')
    sources.describe(text)
    assert sources.stage().example == '{"input":[1.5,2.0,"\\u00e9"]}'


def test_a_program_without_the_server_says_what_installs_it(sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "server"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if Path(path) != ROOT / "app"])
    with pytest.raises(pulumi.RunError, match="run `make env`"):
        sources.stage()


def test_the_hash_is_that_of_another_clone_with_other_times_and_umask(sources: Sources, tmp_path: Path) -> None:
    other = make(tmp_path / "two" / "deeper")
    for file in other.root.rglob("*.*"):
        os.utime(file, (1, 1))
    (other.app / "Dockerfile").chmod(0o600)

    assert other.stage().content_hash == sources.stage().content_hash


def rename(s: Sources) -> None:
    (s.app / "server" / "__init__.py").rename(s.app / "server" / "other.py")


CHANGES: dict[str, Callable[[Sources], object]] = {
    "a byte of the app": lambda s: (s.app / "server" / "__init__.py").write_text("#"),
    "a byte of the model": lambda s: (s.model / "model.onnx").write_bytes(b"\x01onnx"),
    "the dockerfile": lambda s: (s.app / "Dockerfile").write_text("FROM other\n"),
    "the lock": lambda s: (s.app / "requirements.lock").write_text("numpy==3\n"),
    "the executable bit": lambda s: (s.app / "server" / "inner" / "run.sh").chmod(0o644),
    "a name": rename,
    "a new empty file": lambda s: (s.model / "new").touch(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_the_hash_changes_with(sources: Sources, change: Callable[[Sources], object]) -> None:
    before = sources.stage().content_hash
    change(sources)
    after = sources.stage().content_hash

    assert before != after
    fresh = stage(sources.app, sources.model, sources.root / "fresh")
    assert fresh.content_hash == after, "staging over an older version must equal staging into nothing"


def test_only_what_changed_is_written_and_what_is_stale_goes(sources: Sources) -> None:
    sources.stage()
    (sources.into / "stale").mkdir()
    (sources.into / "stale" / "file").write_text("x")
    (sources.into / "model" / ".staging-left").write_text("of a killed run")
    (sources.into / "link").symlink_to(sources.app)
    for file in sources.into.rglob("*"):
        os.utime(file, (1, 1), follow_symlinks=False)
    (sources.model / "model.onnx").write_bytes(b"\x01onnx")

    sources.stage()

    written = [name for name in sources.staged() if (sources.into / name).stat().st_mtime != 1]
    assert written == ["model/model.onnx"]
    assert not {"stale", "link"} & {p.name for p in sources.into.iterdir()}
    assert (sources.app / "Dockerfile").exists(), "what a stale link pointed to is not ours to remove"


def test_a_folder_gives_way_to_a_file_and_a_file_to_a_folder(sources: Sources) -> None:
    sources.stage()
    (sources.into / "Dockerfile").unlink()
    (sources.into / "Dockerfile").mkdir()
    (sources.into / "Dockerfile" / "x").touch()
    shutil.rmtree(sources.into / "model")
    (sources.into / "model").touch()

    sources.stage()

    assert (sources.into / "Dockerfile").is_file()
    assert (sources.into / "model" / "model.onnx").is_file()


POINTER = """version https://git-lfs.github.com/spec/v1
oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393
size 12345
"""

REFUSALS: dict[str, tuple[Callable[[Sources], object], str, str]] = {
    "no dockerfile": (lambda s: (s.app / "Dockerfile").unlink(), "app/Dockerfile", "does not exist"),
    "no server": (lambda s: shutil.rmtree(s.app / "server"), "app/server", "does not exist"),
    "no model folder": (lambda s: shutil.rmtree(s.model), "else", "folder does not exist"),
    "no model.json": (lambda s: (s.model / "model.json").unlink(), "model.json", "does not exist"),
    "no model.onnx": (lambda s: (s.model / "model.onnx").unlink(), "model.onnx", "does not exist"),
    "a link to a file": (lambda s: (s.model / "a").symlink_to(s.model / "model.onnx"), "else/a", "symbolic link"),
    "a link to a folder": (lambda s: (s.model / "a").symlink_to(s.app), "else/a", "symbolic link"),
    "a broken link": (lambda s: (s.model / "a").symlink_to("nowhere"), "else/a", "symbolic link"),
    "a pipe": (lambda s: os.mkfifo(s.model / "pipe"), "else/pipe", "regular file"),
    "a model that git has not fetched": (
        lambda s: (s.model / "model.onnx").write_text(POINTER),
        "else/model.onnx",
        "is a Git LFS pointer, not the file itself; run `git lfs pull`",
    ),
    "a description that git has not fetched": (lambda s: s.describe(POINTER), "model.json", "run `git lfs pull`"),
    "json that is none": (lambda s: s.describe("{"), "model.json", "is not a model description"),
    "json with NaN": (lambda s: s.describe('{"name": NaN}'), "model.json", "JSON is malformed: invalid character"),
    "json with a key twice": (
        lambda s: s.describe(json.dumps(DESCRIPTION).replace('{"input"', '{"input": [], "input"')),
        "model.json",
        '"input" stands twice',
    ),
    "json too deep": (lambda s: s.describe('{"own": ' + "[" * 200_000), "model.json", "recursion depth"),
    "not utf-8": (
        lambda s: (s.model / "model.json").write_bytes(json.dumps(DESCRIPTION).encode().replace(b"iris", b"\xff")),
        "model.json",
        "'utf-8' codec can't decode",
    ),
    "not utf-8 in an own member": (
        lambda s: (s.model / "model.json").write_bytes(json.dumps(DESCRIPTION).encode()[:-1] + b', "own": "\xff"}'),
        "model.json",
        "'utf-8' codec can't decode",
    ),
    "a list": (lambda s: s.describe("[]"), "model.json", "Expected `object`, got `array`"),
    "no name": (lambda s: s.describe({**DESCRIPTION, "name": ""}), "model.json", "name and version must not be empty"),
    "a name that is no label": (
        lambda s: s.describe({**DESCRIPTION, "name": "a b"}),
        "model.json",
        '"name" must be text',
    ),
    "a number as version": (
        lambda s: s.describe({**DESCRIPTION, "version": 1}),
        "model.json",
        "got `int` - at `$.version`",
    ),
    "a version that is no label": (lambda s: s.describe({**DESCRIPTION, "version": "1/2"}), "model.json", '"version"'),
    "no example": (lambda s: s.describe(without("example")), "model.json", "missing required field `example`"),
    "an example that is a list": (lambda s: s.describe({**DESCRIPTION, "example": [1]}), "model.json", '"example"'),
    "an empty example": (lambda s: s.describe({**DESCRIPTION, "example": {}}), "model.json", '"example" must be'),
    "an example beyond floats": (
        lambda s: s.describe(json.dumps(DESCRIPTION).replace("[1,", "[1e999,")),
        "model.json",
        "not JSON compliant",
    ),
    "no inputs": (lambda s: s.describe(without("inputs")), "model.json", "missing required field `inputs`"),
    "a shape without rows": (
        lambda s: s.describe({**DESCRIPTION, "outputs": [{"name": "y", "datatype": "FP32", "shape": [1]}]}),
        "model.json",
        "must start with -1",
    ),
    "another format than the file's": (
        lambda s: s.describe({**DESCRIPTION, "format": "pt2"}),
        "model.pt2",
        "the format in model.json is pt2",
    ),
    "hooks that are not declared": (
        lambda s: (s.model / "hooks.py").write_text(HOOKS),
        "hooks.py",
        "is code that model.json does not declare",
    ),
    "hooks that are not there": (lambda s: s.describe(DECLARED), "hooks.py", "does not exist"),
    "no predictor": (lambda s: s.describe(CODE), "predictor.py", "the format in model.json is python"),
    "code that is not declared": (
        lambda s: (own_code(s), (s.model / "more.py").touch()),
        "else",
        "more.py is code that model.json does not declare",
    ),
    "declared code that is not there": (
        lambda s: (own_code(s), (s.model / "parts/net.py").unlink()),
        "else",
        "parts/net.py does not exist",
    ),
    "declared code that has changed": (
        lambda s: (own_code(s), (s.model / "parts/net.py").write_text(NET + "#")),
        "else",
        "parts/net.py is not the file that model.json declares: its SHA-256 is",
    ),
    "requirements that are not locked": (
        lambda s: (s.model / "requirements.txt").write_text("humanize\n"),
        "requirements.txt",
        "has no requirements.lock beside it; package the model again",
    ),
    "requirements that have changed": (
        lambda s: (with_dependencies(s), (s.model / "requirements.txt").write_text("humanize<4\n")),
        "requirements.txt",
        "is not what requirements.lock was made of; package the model again",
    ),
    "a lock without hashes": (
        lambda s: (s.model / "requirements.lock").write_text("humanize==4\n"),
        "else/requirements.lock",
        "has no hash for humanize==4",
    ),
    "no debian package": (
        lambda s: (s.model / "packages.txt").write_text("ffmpeg\nlib sndfile\n"),
        "packages.txt",
        "line 2: 'lib sndfile' is no Debian package",
    ),
    "hooks that have changed": (
        lambda s: ((s.model / "hooks.py").write_text(HOOKS + "#"), s.describe(DECLARED)),
        "hooks.py",
        "is not the file that model.json declares: its SHA-256 is",
    ),
}


@pytest.mark.parametrize(("spoil", "file", "rule"), REFUSALS.values(), ids=REFUSALS.keys())
def test_refused_with_file_and_rule_and_nothing_changed(
    sources: Sources, spoil: Callable[[Sources], object], file: str, rule: str
) -> None:
    sources.stage()
    before = sources.staged()
    spoil(sources)
    with pytest.raises(ReleaseError) as caught:
        sources.stage()

    assert str(caught.value.file).endswith(file)
    assert rule in caught.value.rule
    assert str(caught.value) == f"{caught.value.file}: {caught.value.rule}"
    assert sources.staged() == before


def test_a_file_that_is_too_large_is_refused(sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_context, "MAX_FILE_BYTES", 4)
    with pytest.raises(ReleaseError, match="the most is 4"):
        sources.stage()


@pytest.mark.parametrize("into", [".", "app", "app/server/out", "somewhere/else", "linked"])
def test_a_target_that_would_empty_its_sources_is_refused(sources: Sources, into: str) -> None:
    (sources.root / "linked").symlink_to(sources.root)
    with pytest.raises(ReleaseError, match="staging"):
        stage(sources.app, sources.model, sources.root / into)

    assert (sources.app / "Dockerfile").exists()
