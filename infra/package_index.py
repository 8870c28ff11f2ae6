"""The package index as the user's own settings of pip and uv reach it; the standard library only."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

_INDEX_SETTING = re.compile(
    r"PIP_(INDEX_URL|EXTRA_INDEX_URL|NO_INDEX|FIND_LINKS|TRUSTED_HOST|CERT|CLIENT_CERT|PROXY|(DEFAULT_)?TIMEOUT|RETRIES"
    r"|KEYRING_PROVIDER|USE_FEATURE|USE_DEPRECATED|CONFIG_FILE|CACHE_DIR|NO_CACHE_DIR)"
    r"|UV_(INDEX.*|DEFAULT_INDEX|EXTRA_INDEX_URL|NO_INDEX|FIND_LINKS|INSECURE_HOST|NATIVE_TLS|SYSTEM_CERTS|OFFLINE"
    r"|HTTP_.*|REQUEST_TIMEOUT|CONCURRENT_.*|KEYRING_PROVIDER|CREDENTIALS_DIR|CONFIG_FILE|NO_CONFIG|CACHE_DIR|NO_CACHE"
    r"|LINK_MODE)"
)
"""Variables of pip and uv that say how to reach an index and where to cache; the others change what is installed."""

_UV_NAMES = {
    "index-url": ("UV_DEFAULT_INDEX", " "),
    "extra-index-url": ("UV_INDEX", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "trusted-host": ("UV_INSECURE_HOST", " "),
    "cert": ("SSL_CERT_FILE", " "),
}
"""Settings of pip -> uv's variables and what stands between several values."""
_UV_SYNONYMS = {"UV_DEFAULT_INDEX": "UV_INDEX_URL", "UV_INDEX": "UV_EXTRA_INDEX_URL"}


def installer_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Drop what would install something else, or somewhere else, than the lock files into the virtual environment."""
    return {
        name: value
        for name, value in environment.items()
        if name not in {"PYTHONPATH", "PYTHONHOME"}
        and (not name.startswith(("PIP_", "UV_")) or _INDEX_SETTING.fullmatch(name))
    }


def uv() -> str:
    """Path of the uv beside the Python that runs this: the one that tools/uv.lock pins."""
    return str(Path(sys.prefix) / "bin/uv")


def uv_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """`installer_environment`, with what pip's own settings say told to uv, which reads its own alone."""
    found = installer_environment(environment)
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "list"],
        env=found, capture_output=True, text=True, check=False,
    )  # fmt: skip
    for key, value in _settings(listing.stdout).items():
        name, separator = _UV_NAMES.get(key, ("", ""))
        if name and name not in found and _UV_SYNONYMS.get(name) not in found:
            found[name] = separator.join(value.split())
    return found


def _settings(listing: str) -> dict[str, str]:
    """Read lines such as `global.index-url='https://...'`; `install` and variables go before `global`."""
    found: dict[str, tuple[int, str]] = {}
    for line in listing.splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.rpartition(".")
        rank = {"global": 0, "install": 1, ":env:": 2}.get(section, -1)
        if rank >= found.get(key, (0, ""))[0]:
            found[key] = rank, str(ast.literal_eval(value))
    return {key: value for key, (_, value) in found.items()}
