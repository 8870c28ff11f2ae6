"""Only declared files run, from the bytes that were checked, and what fails is told with file and line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.errors import StartError
from server.model.author_code import digests, load_predictor

FILES = {
    "predictor.py": "from net import scale\nfrom lib.deep import offset\nvalue = scale * offset\n",
    "net.py": "scale = 3\n",
    "lib/__init__.py": "",
    "lib/deep.py": "from .inner.numbers_ import offset\n",
    "lib/inner/numbers_.py": "offset = 7\n",
}


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    before, modules = sys.meta_path[:], set(sys.modules)
    yield
    sys.meta_path[:] = before
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def write(folder: Path, **changed: str | None) -> Path:
    for name, content in {**FILES, **changed}.items():
        if content is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content)
    return folder


def test_modules_packages_and_relative_imports_are_found_and_nothing_is_left_in_the_folder(tmp_path: Path) -> None:
    folder = write(tmp_path)
    assert load_predictor(folder, digests(folder)).value == 21
    assert not list(folder.rglob("__pycache__"))


def test_one_model_after_another_gets_its_own_modules(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a"), write(tmp_path / "b", **{"net.py": "scale = 5\n"})
    assert load_predictor(first, digests(first)).value == 21
    assert load_predictor(second, digests(second)).value == 35


@pytest.mark.parametrize("name", ["extra.py", "lib/extra.py", "fast.so", "old.pyc"])
def test_code_that_is_slipped_in_does_not_run(tmp_path: Path, name: str) -> None:
    declared = digests(write(tmp_path))
    (tmp_path / name).write_bytes(b"raise SystemExit\n")
    with pytest.raises(StartError, match=rf"{name} is code that model.json does not declare.*make model"):
        load_predictor(tmp_path, declared)


def test_a_changed_or_missing_file_is_named(tmp_path: Path) -> None:
    declared = digests(write(tmp_path))
    (tmp_path / "net.py").write_text("scale = 4\n")
    with pytest.raises(StartError, match=r"net.py is not the file that model.json declares"):
        load_predictor(tmp_path, declared)
    (tmp_path / "net.py").unlink()
    with pytest.raises(StartError, match=r"net.py is missing, which model.json declares"):
        load_predictor(tmp_path, declared)


def test_cached_byte_code_is_neither_asked_for_nor_read(tmp_path: Path) -> None:
    declared = digests(write(tmp_path))
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / f"net.{sys.implementation.cache_tag}.pyc").write_bytes(b"nothing that runs")
    assert load_predictor(tmp_path, declared).value == 21


def test_weights_of_any_name_are_not_code(tmp_path: Path) -> None:
    folder = write(tmp_path)
    (folder / "model.pth").write_bytes(b"weights")
    assert "model.pth" not in digests(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("scale = 1\n1 / 0\n", r"net\.py, line 2: ZeroDivisionError: division by zero"),
        ("def broken(:\n", r"net\.py, line 1: SyntaxError: invalid syntax"),
        ("import sys\nsys.exit(3)\n", r"net\.py, line 2: SystemExit: 3"),
        ("raise KeyboardInterrupt\n", r"net\.py, line 1: KeyboardInterrupt"),
        ("import no_such_package\n", r"net\.py, line 1: ModuleNotFoundError: .*no_such_package.*requirements\.txt"),
    ],
)
def test_what_fails_is_told_with_file_and_line(tmp_path: Path, content: str, message: str) -> None:
    folder = write(tmp_path, **{"net.py": content})
    with pytest.raises(StartError, match=message):
        load_predictor(folder, digests(folder))


@pytest.mark.parametrize("name", ["queue.py", "server/__init__.py"])
def test_a_file_that_hides_another_module_is_refused(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path, **{name: ""})
    with pytest.raises(StartError, match=r"hides the module .* give it another name"):
        load_predictor(folder, digests(folder))
