"""tools/passphrase.py where no CLI is needed; tests/engine/test_make.py has the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import passphrase


def test_a_config_file_that_is_not_yaml_is_named(tmp_path: Path) -> None:
    file = tmp_path / "Pulumi.dev.yaml"
    file.write_text("config:\n  model-endpoint:target: [\n")
    assert (passphrase.problem(file, {}) or "").startswith("Pulumi.dev.yaml is not YAML")


@pytest.mark.parametrize("text", [None, "", "- a list", "config: {model-endpoint:target: eks}"])
def test_a_file_without_encryption_is_none_of_its_business(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "Pulumi.dev.yaml"
    if text is not None:
        file.write_text(text)
    assert passphrase.problem(file, {}) is None
