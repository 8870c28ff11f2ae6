"""tools/cache.py: one process makes, the others wait, and what is there is whole."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tools import cache


def test_the_cache_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.default_cache() == tmp_path / "model-endpoint"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.default_cache() == tmp_path / ".cache/model-endpoint"


def test_what_two_want_at_once_is_made_once(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(folder: Path) -> None:
        made.append(folder)
        time.sleep(0.1)
        (folder / "file").touch()

    target = tmp_path / "cache/target"
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: cache.once(target, make), range(2)))
    assert results == [target, target]
    assert len(made) == 1
    assert [file.name for file in target.iterdir()] == ["file"]


def test_what_could_not_be_made_leaves_nothing_and_is_tried_again(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise OSError

    target = tmp_path / "target"
    with pytest.raises(OSError):  # noqa: PT011  # the test's own
        cache.once(target, fail)
    assert [file.name for file in tmp_path.iterdir()] == [".target.lock"]
    cache.once(target, lambda folder: (folder / "whole").touch())
    assert [file.name for file in target.iterdir()] == ["whole"]


def test_one_is_made_while_another_is(tmp_path: Path) -> None:
    """What is made may need something else of the cache, such as a program of Debian's."""
    inner = tmp_path / "inner"
    cache.once(tmp_path / "outer", lambda _: cache.once(inner, lambda _: None))
    assert inner.is_dir()


@pytest.mark.parametrize("name", ["lock", "folder"])
def test_a_lock_makes_the_second_wait_and_say_so(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "folder").mkdir()
    entered = threading.Event()

    def second() -> None:
        with cache.lock(tmp_path / name):
            entered.set()

    with cache.lock(tmp_path / name):
        thread = threading.Thread(target=second)
        thread.start()
        assert not entered.wait(0.2)
    thread.join(5)
    assert entered.is_set()
    assert f"Waiting for another process that holds {tmp_path / name}" in capfd.readouterr().err
