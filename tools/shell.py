"""The user's shell variables, as the programs that `make` starts may have them."""

from __future__ import annotations

import re
from collections.abc import Mapping

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_EXEMPTIONS = ("no_proxy", "NO_PROXY", "no_grpc_proxy")


def loopback_exemption(environment: Mapping[str, str]) -> dict[str, str]:
    """Choose the variables to add to the user's, so that no proxy stands between programs of this machine.

    The engine talks to the program over gRPC on 127.0.0.1, and gRPC sends loopback to a proxy as well. It knows
    neither NO_PROXY nor the entry "*", and reads no_grpc_proxy before no_proxy.
    """
    if not any(value and re.fullmatch(r"(?!no_).*_proxy", name.lower()) for name, value in environment.items()):
        return {}
    found: dict[str, str] = {}
    exempted = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    for name in _EXEMPTIONS:
        entries = [entry.strip() for entry in (environment.get(name) or exempted).split(",") if entry.strip()]
        missing = [host for host in _LOOPBACK if host not in entries]
        everything = entries == ["*"] and name != "no_grpc_proxy"
        if everything or (name in environment and not missing):
            continue
        found[name] = ",".join([*entries, *missing])
    return found
