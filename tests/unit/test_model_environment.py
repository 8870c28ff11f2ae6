"""infra/model_environment.py: a model's environment is made once, whole or not at all."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import pytest

from infra import model_environment
from infra.model_environment import ModelEnvironmentError
from tests.support.wheels import index, wheel

Locks = Callable[[str, str], tuple[Path, Path]]


@pytest.fixture
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Locks]:
    """Writes the locks of server and model; only the tests' own packages can be found."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))

    def write(server: str, model: str) -> tuple[Path, Path]:
        files = tmp_path / "server.lock", tmp_path / "model.lock"
        for file, text in zip(files, (server, model), strict=True):
            file.write_text(text)
        return files

    with index(tmp_path / "wheels") as address:
        monkeypatch.setenv("UV_DEFAULT_INDEX", address)
        yield write


def package(folder: Path, name: str, version: str) -> str:
    return wheel(folder / "wheels", name, version, {f"{name}.py": f"VERSION = {version!r}\n"})


def test_it_has_the_models_versions_and_is_made_once(tmp_path: Path, locks: Locks) -> None:
    server = package(tmp_path, "shared", "1") + package(tmp_path, "only_server", "1")
    files = locks(server, package(tmp_path, "shared", "2") + package(tmp_path, "only_model", "1"))
    said: list[str] = []
    workers = [Thread(target=lambda: model_environment.ensure(*files, say=said.append)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    python = model_environment.ensure(*files, say=said.append)
    assert said == ["Python: installing the model's 3 locked packages, which takes minutes for large ones"]
    program = "import shared, only_server, only_model; print(shared.VERSION, only_server.VERSION, only_model.VERSION)"
    assert subprocess.run([python, "-c", program], capture_output=True, text=True, check=True).stdout == "2 1 1\n"


def test_another_lock_is_another_environment(tmp_path: Path, locks: Locks) -> None:
    one, two = package(tmp_path, "shared", "1"), package(tmp_path, "shared", "2")
    assert model_environment.place(*locks(one, one)) != model_environment.place(*locks(one, two))
    assert model_environment.place(*locks(one, two)) == model_environment.place(*locks(two, two))


def test_a_package_without_a_build_for_this_machine_is_named_and_leaves_nothing(tmp_path: Path, locks: Locks) -> None:
    elsewhere = wheel(tmp_path / "wheels", "elsewhere", "1", {}, tag="cp27-cp27m-win32")
    files = locks(package(tmp_path, "shared", "1"), elsewhere)
    for _ in range(2):  # nothing that was left half made is taken for whole
        with pytest.raises(
            ModelEnvironmentError, match=r"cannot be installed for Python 3\.\d+ on this machine.*elsewhere"
        ):
            model_environment.ensure(*files, say=lambda _: None)
    files[1].write_text("shared\n")
    with pytest.raises(ModelEnvironmentError, match="no package with its version: shared"):
        model_environment.ensure(*files)


def test_what_is_not_the_locked_file_is_not_installed(tmp_path: Path, locks: Locks) -> None:
    files = locks("", f"shared==1 --hash=sha256:{'0' * 64}\n")
    package(tmp_path, "shared", "1")
    with pytest.raises(ModelEnvironmentError, match=r"(?i)hash mismatch"):
        model_environment.ensure(*files, say=lambda _: None)
