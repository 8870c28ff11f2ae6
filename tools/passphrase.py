"""Tells when a stack's config was encrypted with another passphrase than the one at hand."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

_WRONG = "incorrect passphrase"
"""What the CLI says; its exit status is that of every failure [pulumi/pulumi:pkg/secrets/passphrase/manager.go]."""


def problem(stack_file: Path, environment: Mapping[str, str]) -> str | None:
    """Explain why the secrets of `stack_file` cannot be read, and what mends it; None when they can.

    `environment` is what the CLI would run with.
    """
    import yaml  # of the virtual environment: the first command of a clone starts without it

    try:
        content = yaml.safe_load(stack_file.read_text()) if stack_file.is_file() else None
    except yaml.YAMLError as error:
        return f"{stack_file.name} is not YAML: {error}"
    salt = _member(content, "encryptionsalt")
    if not salt or _opens(salt, environment):
        return None
    config: dict[str, Any] = _member(content, "config") or {}
    secrets = [key for key, value in config.items() if '"secure"' in json.dumps(value, default=str)]
    used = environment.get("PULUMI_CONFIG_PASSPHRASE_FILE")
    used = "PULUMI_CONFIG_PASSPHRASE" if "PULUMI_CONFIG_PASSPHRASE" in environment else used
    return (
        f"{stack_file.name} was encrypted with another passphrase than that of {used}:\n"
        "  with that of another clone, or of a state folder that is gone. Nothing was changed. Either use that one:\n"
        "    export PULUMI_CONFIG_PASSPHRASE_FILE=<the other clone's .pulumi-state/passphrase>\n"
        f"  or, where it is lost, begin anew: remove from {stack_file.name} the line `encryptionsalt`"
        + (f" and {', '.join(secrets)},\n  which nobody can read without it; then set them again:" if secrets else "")
        + "".join(f"\n    pulumi config set --secret {key} <value>" for key in secrets)
    )


def _member(content: Any, name: str) -> Any:
    return cast("dict[str, Any]", content).get(name) if isinstance(content, dict) else None


def _opens(salt: str, environment: Mapping[str, str]) -> bool:
    """Let the CLI make a stack with this salt, in a state of its own."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "Pulumi.yaml").write_text("name: probe\nruntime: python\n")
        Path(folder, "Pulumi.probe.yaml").write_text(f"encryptionsalt: {salt}\n")
        variables = {**environment, "PULUMI_BACKEND_URL": Path(folder).as_uri()}
        if file := environment.get("PULUMI_CONFIG_PASSPHRASE_FILE"):
            variables["PULUMI_CONFIG_PASSPHRASE_FILE"] = str(Path(file).resolve())
        command = ["pulumi", "stack", "init", "probe", "--no-select", "--non-interactive"]
        done = subprocess.run(
            command, cwd=folder, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        return _WRONG not in done.stderr
