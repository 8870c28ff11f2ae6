"""The place of Pulumi's state: the user's own login, untouched, or else inside the clone."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

FOLDER = ".pulumi-state"


def variables(root: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Choose the variables to add to the user's; without a login the clone gets a state folder of its own."""
    if has_login(environment):
        return {}
    folder = root / FOLDER
    found = {"PULUMI_BACKEND_URL": backend(root)}
    folder.mkdir(mode=0o700, exist_ok=True)
    if not environment.keys() & {"PULUMI_CONFIG_PASSPHRASE", "PULUMI_CONFIG_PASSPHRASE_FILE"}:
        found["PULUMI_CONFIG_PASSPHRASE_FILE"] = str(passphrase(folder))
    return found


def backend(root: Path) -> str:
    """The URL of the clone's own state."""
    return (root / FOLDER).as_uri()


def has_login(environment: Mapping[str, str]) -> bool:
    """Tell whether Pulumi already knows where the user keeps state."""
    if environment.get("PULUMI_BACKEND_URL") or environment.get("PULUMI_ACCESS_TOKEN"):
        return True
    home = environment.get("PULUMI_CREDENTIALS_PATH") or environment.get("PULUMI_HOME") or Path.home() / ".pulumi"
    try:
        return bool(json.loads((Path(home) / "credentials.json").read_text()).get("current"))
    except (OSError, ValueError, AttributeError):
        return False


def passphrase(folder: Path) -> Path:
    """Make the file with a random passphrase, once: without it no secret of the clone's stacks can be read again."""
    file = folder / "passphrase"
    if not file.is_file():
        new = folder / f"passphrase.{os.getpid()}"
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            out.write(secrets.token_urlsafe(32))
        try:
            file.hardlink_to(new)  # never over one that another process has made meanwhile
        except FileExistsError:
            pass
        finally:
            new.unlink()
    return file
