"""infra/package_index.py: what of the user's settings of pip and uv reaches an installer."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra import package_index

KEPT = [
    "PATH", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "PIP_CERT", "PIP_PROXY", "PIP_CONFIG_FILE",
    "PIP_NO_INDEX", "PIP_FIND_LINKS", "UV_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_CORP_PASSWORD", "UV_NATIVE_TLS",
    "UV_HTTP_TIMEOUT", "UV_CACHE_DIR", "UV_OFFLINE", "SSL_CERT_FILE", "https_proxy",
]  # fmt: skip
DROPPED = [
    "PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_PYTHON", "PIP_CONSTRAINT", "PIP_REQUIREMENT",
    "PIP_DRY_RUN", "PIP_REQUIRE_VIRTUALENV", "PIP_NO_DEPS", "PIP_PRE", "UV_SYSTEM_PYTHON", "UV_WORKING_DIR",
    "UV_NO_VERIFY_HASHES", "UV_EXCLUDE_NEWER", "UV_TORCH_BACKEND", "UV_CONSTRAINT", "PYTHONPATH", "PYTHONHOME",
]  # fmt: skip


def test_an_installer_is_told_how_to_reach_the_index_and_not_what_to_install() -> None:
    assert list(package_index.installer_environment(dict.fromkeys([*DROPPED, *KEPT], "x"))) == KEPT


def test_what_pip_is_told_uv_is_told_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "pip.conf"
    config.write_text(
        "[global]\nindex-url = https://mirror.example.com/simple\nextra-index-url =\n  https://a.example\n"
        "  https://b.example\ntimeout = 60\n[install]\nfind-links = https://wheels.example.com\n"
    )
    given = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PIP_CONFIG_FILE": str(config)}
    told = package_index.uv_environment(given)
    assert told["UV_DEFAULT_INDEX"] == "https://mirror.example.com/simple"
    assert told["UV_INDEX"] == "https://a.example https://b.example"
    assert told["UV_FIND_LINKS"] == "https://wheels.example.com"
    own = {"UV_INDEX_URL": "https://own.example.com", "PIP_EXTRA_INDEX_URL": "https://c.example"}
    told = package_index.uv_environment(given | own)
    assert "UV_DEFAULT_INDEX" not in told, "uv's own setting goes before pip's"
    assert told["UV_INDEX"] == "https://c.example"
