"""A copy of the project that the real CLI works on, away from the user's own Pulumi and from any cloud."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest
import yaml

from tests import standins
from tests.standins.cloud import VARIABLE, Cloud
from tools import pulumi_cli

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 180
"""Longer than any command here takes; the engine's own deadlines are shorter."""

NO_CLUSTER = {"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "localhost,127.0.0.1"}
"""For the environment where clusters are stand-ins: nothing is at their addresses, and the program does not ask for it
behind a proxy."""

NOTHING = frozenset({"same", "read", "refresh"})
"""The operations that change nothing."""


@dataclass(frozen=True)
class Ran:
    """What a command said, and what the engine did meanwhile."""

    code: int
    stdout: str
    stderr: str
    events: list[dict[str, Any]] = field(default_factory=list, repr=False)

    @property
    def text(self) -> str:
        """Both streams."""
        return self.stdout + self.stderr

    def steps(self) -> list[tuple[str, str, str]]:
        """(operation, type, name) of every step that changes something, in order, replacements as one `replace`."""
        found: list[tuple[str, str, str]] = []
        for event in self.events:
            meta = (event.get("resourcePreEvent") or {}).get("metadata")
            if meta and meta["op"] not in NOTHING | {"create-replacement", "delete-replaced", "discard-replaced"}:
                found.append((meta["op"], meta["type"], meta["urn"].rsplit("::", 1)[-1]))
        return found

    def changed(self) -> Counter[tuple[str, str]]:
        """How many steps of each (operation, last part of the type).

        Without the stack itself and the providers, which the engine updates with every change of the config.
        """
        steps = [(op, type_) for op, type_, _ in self.steps() if not type_.startswith("pulumi:")]
        return Counter((op, type_.rsplit(":", 1)[-1]) for op, type_ in steps)


@dataclass
class Project:
    """The copy, its stack, its state and its cloud."""

    root: Path
    stack: str
    bin: Path
    state: Path
    cloud: Cloud
    environment: dict[str, str]
    """Of every command."""
    said: list[Ran] = field(default_factory=list)
    """All that any command said."""
    seconds: float = SECONDS
    """How long a command may take."""

    @classmethod
    def make(cls, folder: Path, cli: Path, stack: str) -> Self:
        """Copy the project's files, tracked or new, into an empty folder and make the stack."""
        root = folder / "project"
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
        )
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).is_file() and not name.startswith(("tests/", "docs/")):
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, root / name)
        for file in root.glob("Pulumi.*.yaml"):
            file.write_text(yaml.safe_dump(_without_secrets(yaml.safe_load(file.read_text()))))
        (root / ".venv").symlink_to(Path(sys.prefix))
        binaries = folder / "bin"
        standins.install(binaries)
        (folder / "state").mkdir()
        environment = isolated_environment(folder, cli)
        project = cls(root, stack, binaries, folder / "state", Cloud(folder / "cloud"), environment)
        project.pulumi("stack", "init", stack)
        return project

    def pulumi(self, *arguments: str, ok: bool = True, stack: bool = True) -> Ran:
        """Run the CLI in the copy. `ok`: whether it must succeed."""
        log = self.root.parent / "events.json"
        log.unlink(missing_ok=True)
        changing = arguments[0] in {"up", "preview", "destroy", "refresh"}
        command = ["pulumi", *arguments, "--non-interactive"]
        if changing:
            command += ["--event-log", str(log)]
        if stack and arguments[:2] != ("stack", "init"):
            command += ["--stack", self.stack]
        done = subprocess.run(
            command,
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=self.seconds,
            check=False,
        )
        events = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        ran = Ran(done.returncode, done.stdout, done.stderr, events)
        self.said.append(ran)
        if (done.returncode == 0) is not ok:
            pytest.fail(f"{' '.join(command)} {'failed' if ok else 'succeeded'}:\n{ran.text}", pytrace=False)
        return ran

    def begin_up(self) -> subprocess.Popen[str]:
        """Start `up` in a session of its own, so that a signal reaches the CLI alone."""
        return subprocess.Popen(
            ["pulumi", "up", "--yes", "--skip-preview", "--non-interactive", "--stack", self.stack],
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def up(self, *arguments: str, ok: bool = True) -> Ran:
        """`pulumi up` without the preview before it."""
        return self.pulumi("up", "--yes", "--skip-preview", *arguments, ok=ok)

    def configure(self, plain: Mapping[str, object] | None = None, secret: Mapping[str, str] | None = None) -> None:
        pairs = [f"{key}={value}" for key, value in (plain or {}).items()]
        arguments = [part for pair in pairs for part in ("--plaintext", pair)]
        arguments += [part for key, value in (secret or {}).items() for part in ("--secret", f"{key}={value}")]
        self.pulumi("config", "set-all", *arguments)

    def forget(self, *keys: str) -> None:
        self.pulumi("config", "rm-all", *keys)

    def exported(self) -> dict[str, Any]:
        return json.loads(self.pulumi("stack", "export").stdout)

    def resources(self) -> list[dict[str, Any]]:
        return self.exported()["deployment"].get("resources", [])

    def snapshot(self) -> dict[str, tuple[Any, Any]]:
        """Inputs and outputs of the stack's resources by URN.

        Without what every run touches: the stack itself, and the ciphertext of secrets.
        """
        text = re.sub(r'"ciphertext": "[^"]*"', '"ciphertext": ""', json.dumps(self.resources()))
        found = [r for r in json.loads(text) if not r["type"].startswith("pulumi:")]
        return {r["urn"]: (r.get("inputs"), r.get("outputs")) for r in found}

    def needs(self, urn: str) -> set[str]:
        """All that must be there for a resource, directly or not: destroy takes it down before any of them."""
        resources = {r["urn"]: r for r in self.resources()}
        found: set[str] = set()
        open_ = [urn]
        while open_:
            resource = resources[open_.pop()]
            named = [*resource.get("dependencies", ()), resource.get("provider", "").rpartition("::")[0]]
            fresh = {urn for urn in named if urn} - found
            found |= fresh
            open_ += fresh
        return found

    def orphans(self) -> set[str]:
        """What the cloud holds for this project and the state does not know: paid for, and never deleted."""
        known = {(r["type"], r.get("id")) for r in self.resources()}
        return {f"{t.type} {t.id}" for t in self.cloud.things() if t.urn and (t.type, t.id) not in known}


def isolated_environment(folder: Path, cli: Path) -> dict[str, str]:
    """The user's environment without a cloud, a cluster or a Pulumi of theirs; all state is in `folder`.

    Nor has it what `make test` itself was given: a stack, an answer, options.
    """
    others = ("PULUMI_", "AWS_", "KUBE", "PYTHON", "STACK", "YES", "MAKE", "MFLAGS")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(others)}
    return {
        **kept,
        "PATH": os.pathsep.join([str(folder / "bin"), str(cli), os.environ["PATH"]]),
        "HOME": str(folder / "home"),
        VARIABLE: str(folder / "cloud"),
        "PULUMI_HOME": str(folder / "home/.pulumi"),
        "PULUMI_BACKEND_URL": f"file://{folder / 'state'}",
        "PULUMI_CONFIG_PASSPHRASE": "correct horse battery staple",
        "PULUMI_DEBUG_COMMANDS": "true",  # for --event-log
        "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        "NO_PROXY": "*",
    }


def _without_secrets(stack: dict[str, Any]) -> dict[str, Any]:
    """A stack's config as it was before its user encrypted anything: the tests have another passphrase."""
    config = stack.get("config") or {}
    return {"config": {key: value for key, value in config.items() if not isinstance(value, dict)}}


def find_cli() -> Path:
    """The folder of the CLI that the project uses, built if it must be."""
    try:
        return pulumi_cli.ensure(pulumi_cli.Source())
    except pulumi_cli.CliError as error:
        pytest.skip(f"the Pulumi CLI cannot be had here: {error}")


def leaves(value: Any) -> Iterator[str]:
    """Every text in plain data."""
    if isinstance(value, dict):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, str):
        yield value
