"""tools/model/dependencies.py: what people write in requirements.txt becomes a lock, or an error with its line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from infra import model_lock
from tests.support.wheels import index, wheel
from tools.model import dependencies
from tools.model.dependencies import lock_requirements
from tools.model.errors import ModelError


@pytest.fixture(autouse=True)
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The only packages there are; the server needs `numbers2<3`, and has 2.0 of it, and `plain`."""
    folder = tmp_path / "wheels"
    pins = {
        (name, version): wheel(folder, name, version, {f"{name}.py": ""}, needs=needs)
        for name, version, needs in (
            ("numbers2", "1.0", ""), ("numbers2", "2.0", ""), ("numbers2", "2.5", ""), ("numbers2", "3.0", ""),
            ("plain", "1.0", ""), ("words", "1.0", "numbers2<2"), ("words", "1.1", "numbers2>=2"),
            ("picky", "1.0", "numbers2>=3"), ("early", "1.0rc1", ""),
        )
    }  # fmt: skip
    project, lock = tmp_path / "pyproject.toml", tmp_path / "server.lock"
    project.write_text('[project]\ndependencies = ["numbers2<3", "plain"]\n')
    lock.write_text(pins["numbers2", "2.0"] + pins["plain", "1.0"])
    monkeypatch.setattr(dependencies, "_SERVER_PROJECT", project)
    monkeypatch.setattr(dependencies, "SERVER_LOCK", lock)
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    with index(folder) as address:
        monkeypatch.setenv("UV_DEFAULT_INDEX", address)
        yield


def versions(lock: bytes) -> dict[str, str]:
    return {pin.name: pin.version for pin in model_lock.parse(lock.decode()).pins}


@pytest.mark.parametrize(
    ("text", "locked"),
    [
        ("", {}),
        ("# nothing but a comment\n", {}),
        ("words", {"words": "1.1"}),
        ("words==1.0  # the old one", {"words": "1.0", "numbers2": "1.0"}),
        ("words ; python_version > '3'", {"words": "1.1"}),
        ("words \\\n  == 1.1", {"words": "1.1"}),
        ("numbers2", {}),
        ("numbers2>2", {"numbers2": "2.5"}),
        ("words[unknown]", {"words": "1.1"}),
        ("--prefer-binary\n--only-binary :all:\nwords", {"words": "1.1"}),
        ("--pre\nearly", {"early": "1.0rc1"}),
    ],
)
def test_the_server_keeps_its_versions_where_they_fit(text: str, locked: dict[str, str]) -> None:
    assert versions(lock_requirements(text, what="m")) == {"numbers2": "2.0", "plain": "1.0"} | locked


def test_the_lock_says_what_it_was_made_of(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "more").mkdir(parents=True)
    (folder / "more/base.txt").write_text("-c pins.txt\nwords\n")
    (folder / "more/pins.txt").write_text("words<1.1\n")
    text = "-r more/base.txt\r\nplain\r\n"
    lock = lock_requirements(text, what="m", folder=folder)
    assert versions(lock)["words"] == "1.0"
    assert model_lock.parse(lock.decode()).sources == {
        "requirements.txt": model_lock.digest_of(text.encode()),
        "more/base.txt": model_lock.digest_of(b"-c pins.txt\nwords"),
        "more/pins.txt": model_lock.digest_of(b"words<1.1"),
    }
    assert lock == lock_requirements(text, what="m", folder=folder)
    assert str(tmp_path).encode() not in lock


def test_an_index_that_the_author_names_goes_first_and_stays_in_the_lock(tmp_path: Path) -> None:
    wheel(tmp_path / "cpu", "words", "1.1+cpu", {})
    with index(tmp_path / "cpu") as address:
        lock = lock_requirements(f"--extra-index-url={address}\nwords", what="m")
    assert versions(lock) == {"numbers2": "2.0", "plain": "1.0", "words": "1.1+cpu"}
    assert model_lock.parse(lock.decode()).indexes == (f"--extra-index-url {address}",)


REFUSED = {
    "an unknown package": ("plain\nnosuch==1\n", "m: requirements.txt, line 2: nosuch==1", "nosuch was not found"),
    "a version that is none": ("words==9\n", "line 1: words==9", "there is no version of words==9"),
    "not with the server": ("picky", "line 1: picky", "picky .*numbers2>=3"),
    "a contradiction": ("words==1.0\nnumbers2>=2", "line 1: words==1.0; requirements.txt, line 2: numbers2>=2", ""),
    "a sentence": ("see the readme", "line 1: see the readme", "is no requirement"),
    "a repository": ("git+https://example.com/x.git@main#egg=x", "line 1", "an address, whose content can change"),
    "a package's address": ("x @ https://example.com/x.whl", "line 1", "an address, whose content can change"),
    "a path": ("./x", "line 1", "is a path, and packages come from an index"),
    "a wheel": ("x-1-py3-none-any.whl", "line 1", "is a path, and packages come from an index"),
    "an editable": ("\n-e .", "line 2: -e .", "is a path, and packages come from an index"),
    "a folder of packages": ("--find-links wheels", "line 1", "must be an address"),
    "an unknown option": ("--no-binary :all:", "line 1", "--no-binary cannot be kept in a lock file"),
    "a file outside": ("-r ../other.txt", "line 1", "must be a file in the model folder"),
    "a file that is not there": ("-r other.txt", "line 1", "cannot be read: .*No such file"),
}


@pytest.mark.parametrize(("text", "line", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_locked_is_named_with_its_line(tmp_path: Path, text: str, line: str, reason: str) -> None:
    with pytest.raises(ModelError, match=f"(?s)^m: requirements.txt, .*{reason}") as caught:
        lock_requirements(text, what="m", folder=tmp_path)
    assert line in str(caught.value)
    assert len(str(caught.value)) < 1200


def test_a_password_is_neither_locked_nor_shown() -> None:
    with pytest.raises(ModelError, match=r"--index-url https://\*\*\*@example.com/simple\n.* would ship") as caught:
        lock_requirements("--index-url https://me:hunter2@example.com/simple\nwords", what="m")
    assert "hunter2" not in str(caught.value)


def test_cuda_builds_of_pytorch_are_noted_with_the_way_to_the_others() -> None:
    pin = "{} --hash=sha256:aa\n".format
    cuda = pin("torch==2.15.0") + pin("nvidia-cublas==13.4.1.3 ; sys_platform == 'linux'")
    (note,) = dependencies.notes(cuda.encode())
    assert "--extra-index-url" in note
    assert dependencies.notes(pin("torch==2.15.0+cpu").encode()) == []
    assert dependencies.notes(pin("numpy==2").encode()) == []
