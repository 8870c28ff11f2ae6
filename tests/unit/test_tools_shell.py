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
