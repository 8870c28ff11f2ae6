from __future__ import annotations

import stat
from pathlib import Path

import pytest

from infra.diagnose import _private_file


def test_the_private_file_is_removed_when_its_use_fails() -> None:
    def use() -> None:
        with _private_file("secret") as file:
            seen.append(file)
            assert stat.S_IMODE(Path(file).stat().st_mode) == 0o600
            raise KeyError

    seen: list[str] = []
    with pytest.raises(KeyError):
        use()
    assert not Path(seen[0]).exists()
