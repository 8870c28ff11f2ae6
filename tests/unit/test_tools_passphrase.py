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


STATE_SALT = "v1:JTUv5W4dvoA=:v1:n5C+S2gkW4TW9hqR:4fmOp8iCFxXqlgkg09q2ZTez4NoEUQ=="
STATE = {
    "secrets_providers": {"type": "passphrase", "state": {"salt": STATE_SALT}},
    "resources": [
        {"type": "pulumi:pulumi:Stack", "outputs": {"4dabf18193072939515e22adb298388d": passphrase.SECRET}},
        {"type": "aws:ec2/vpc:Vpc", "custom": True},
        {"type": "kubernetes:core/v1:Namespace", "custom": True},
    ],
}


@pytest.mark.parametrize("salt", ["garbage", "5", "{a: b}", STATE_SALT[:-6]])
def test_a_salt_that_pulumi_did_not_write_is_named(tmp_path: Path, salt: str) -> None:
    file = tmp_path / "Pulumi.dev.yaml"
    file.write_text(f"encryptionsalt: {salt}\nconfig:\n  model-endpoint:apiKey: {{secure: x}}\n")
    said = passphrase.problem(file, {}, "dev") or ""
    assert said.startswith("Pulumi.dev.yaml: encryptionsalt = ")
    assert "pulumi config set --secret model-endpoint:apiKey <value> --stack dev" in said
    assert f"encryptionsalt: {STATE_SALT}" in (passphrase.problem(file, {}, "dev", STATE) or "")


def test_a_lost_passphrase_names_what_pulumi_cannot_delete_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passphrase, "_opens", lambda _salt, _environment: False)
    said = passphrase.problem(tmp_path / "Pulumi.dev.yaml", {"PULUMI_CONFIG_PASSPHRASE": "x"}, "dev", STATE) or ""
    assert "2 resources of aws, kubernetes" in said
    assert said.index("stack export --stack dev --file dev.state.json") < said.index("stack rm --force")
