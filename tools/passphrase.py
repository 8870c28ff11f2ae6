"""Tells when a stack's config or state was encrypted with another passphrase than the one at hand."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

_WRONG = "incorrect passphrase"
"""What the CLI says; its exit status is that of every failure [pulumi/pulumi:pkg/secrets/passphrase/manager.go]."""
_SALT = re.compile(r"v1:[A-Za-z0-9+/]{11}=:v1:[A-Za-z0-9+/]{16}:[A-Za-z0-9+/]{30}==")
"""8 bytes of salt; then a nonce of 12 bytes and the known word that shows whether a passphrase fits [the same file]."""
SECRET = "1b47061264138c4ac30d75fd1eb44270"  # noqa: S105  # the mark itself is public
"""Marks a secret in a state [pulumi/pulumi:sdk/go/common/resource/sig/sig.go]."""
_OWN_TYPES = ("pulumi:", "pulumi-python:")
"""The beginnings of the types that stand for nothing outside this machine."""


def problem(
    stack_file: Path, environment: Mapping[str, str], stack: str = "", deployment: Mapping[str, Any] | None = None
) -> str | None:
    """Explain why the secrets of a stack cannot be read, and what mends it; None when they can.

    `environment` is what the CLI would run with, `deployment` the stack's exported state, None where there is none.
    """
    import yaml  # of the virtual environment: the first command of a clone starts without it

    try:
        content = yaml.safe_load(stack_file.read_text()) if stack_file.is_file() else None
    except yaml.YAMLError as error:
        return f"{stack_file.name} is not YAML: {error}"
    salt, state_salt = _member(content, "encryptionsalt"), _state_salt(deployment)
    if salt and not (isinstance(salt, str) and _SALT.fullmatch(salt)):
        return (
            f"{stack_file.name}: encryptionsalt = {json.dumps(salt, default=str)}: Pulumi wrote no such salt."
            " Nothing was changed.\n  Put back the line "
        ) + (
            f"that the stack's state has:\n    encryptionsalt: {state_salt}"
            if state_salt
            else f"of the file's history; or, where it is lost,{_anew(stack, (stack_file.name, content), None)}"
        )
    file_opens = not salt or _opens(salt, environment)
    state_opens = not state_salt or (file_opens if state_salt == salt else _opens(state_salt, environment))
    if file_opens and state_opens:
        return None
    used = environment.get("PULUMI_CONFIG_PASSPHRASE_FILE")
    used = "PULUMI_CONFIG_PASSPHRASE" if "PULUMI_CONFIG_PASSPHRASE" in environment else used
    anew = _anew(stack, None if file_opens else (stack_file.name, content), None if state_opens else deployment)
    return (
        f"{f'the state of stack {stack}' if file_opens else stack_file.name} was encrypted with another passphrase"
        f" than that of {used}:\n"
        "  with that of another clone, or of a state folder that is gone. Nothing was changed. Either use that one:\n"
        "    export PULUMI_CONFIG_PASSPHRASE_FILE=<the other clone's .pulumi-state/passphrase>\n"
        f"  or, where it is lost, begin anew:{anew}"
    )


def _anew(stack: str, file: tuple[str, Any] | None, deployment: Mapping[str, Any] | None) -> str:
    """Write how to go on without the secrets of the stack's file (name, content) and those of its state, if any."""
    name = shlex.quote(stack)
    steps: list[str] = []
    commands = [f"pulumi stack select --create {name}"]
    if file:
        config: dict[str, Any] = _member(file[1], "config") or {}
        secrets = [key for key, value in config.items() if '"secure"' in json.dumps(value, default=str)]
        keys = f" and {', '.join(secrets)},\n  which nobody can read without it" if secrets else ""
        steps.append(f"remove from {file[0]} the line `encryptionsalt`{keys}")
        commands += [f"pulumi config set --secret {key} <value> --stack {name}" for key in secrets]
    if deployment:
        note, abandon = _abandon_state(stack, deployment)
        steps.append(note)
        commands = [*abandon, *commands]
    shown = "".join(f"\n    {command}" for command in ['eval "$(make -s env)"', *commands])
    return "".join(f"\n  {step};" for step in steps) + f" then{shown}"


def _abandon_state(stack: str, deployment: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Say what becomes of what the stack made, and write the commands after which Pulumi knows nothing of it."""
    remove = f"pulumi stack rm --force --preserve-config {shlex.quote(stack)}"
    resources: list[dict[str, Any]] = deployment.get("resources") or []
    types: list[str] = [resource["type"] for resource in resources if resource.get("custom")]
    made = [type_ for type_ in types if not type_.startswith(_OWN_TYPES)]
    if not made:
        note = "Pulumi has to forget the stack's state; a process that runs stays, and the next `make up` takes it over"
        return note, [remove]
    packages = ", ".join(sorted({type_.partition(":")[0] for type_ in made}))
    record = shlex.quote(f"{stack.rpartition('/')[2]}.state.json")
    return (
        f"Pulumi has to forget the stack's state, and cannot delete what it made: {len(made)} resources of {packages}"
        "\n  go on, and cost, until they are deleted by hand (type and id stand in the file that is exported)"
    ), [f"pulumi stack export --stack {shlex.quote(stack)} --file {record}", remove]


def _state_salt(deployment: Mapping[str, Any] | None) -> str | None:
    """Find the salt of a state that holds secrets; None: no secrets, or no passphrase that protects them."""
    if not deployment or SECRET not in json.dumps(deployment.get("resources")):
        return None
    return _member(_member(deployment.get("secrets_providers"), "state"), "salt")


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
