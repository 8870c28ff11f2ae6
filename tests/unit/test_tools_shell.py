"""tools/shell.py: which of the shell's variables reach what `make` starts."""

from __future__ import annotations

import pytest

from tools import shell

LOOPBACK = "localhost,127.0.0.1,::1"
PROXY = "http://proxy.example.com:3128"


@pytest.mark.parametrize("name", ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "grpc_proxy"])
def test_a_proxy_is_kept_from_loopback(name: str) -> None:
    assert shell.loopback_exemption({name: PROXY}) == dict.fromkeys(["no_proxy", "NO_PROXY", "no_grpc_proxy"], LOOPBACK)


@pytest.mark.parametrize("environment", [{}, {"no_proxy": "a"}, {"http_proxy": ""}, {"MY_PROXY_POLICY": "x"}])
def test_without_a_proxy_nothing_is_set(environment: dict[str, str]) -> None:
    assert shell.loopback_exemption(environment) == {}


def test_the_users_own_entries_stay() -> None:
    found = shell.loopback_exemption({"https_proxy": PROXY, "NO_PROXY": "corp.example, 127.0.0.1"})
    assert set(found.values()) == {"corp.example,127.0.0.1,localhost,::1"}
    found = shell.loopback_exemption({"https_proxy": PROXY, "no_proxy": "a", "NO_PROXY": "b"})
    assert found == {"no_proxy": f"a,{LOOPBACK}", "NO_PROXY": f"b,{LOOPBACK}", "no_grpc_proxy": f"a,{LOOPBACK}"}


def test_an_exemption_of_everything_stays_one() -> None:
    """urllib and curl know the entry "*" only where it stands alone."""
    environment = {"http_proxy": PROXY, "no_proxy": "*"}
    assert shell.loopback_exemption(environment) == {"no_grpc_proxy": f"*,{LOOPBACK}"}


def test_what_is_exempt_already_is_not_set_again() -> None:
    environment = {"http_proxy": PROXY}
    environment |= shell.loopback_exemption(environment)
    assert shell.loopback_exemption(environment) == {}


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
    assert list(shell.installer_environment(dict.fromkeys([*DROPPED, *KEPT], "x"))) == KEPT
