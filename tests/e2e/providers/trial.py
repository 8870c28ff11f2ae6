"""A Pulumi project of nothing but the resources that a test writes down, for trying the providers with the real CLI."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.e2e import providers
from tests.standins.cloud import Cloud
from tests.support.engine_project import Project, isolated_environment

_PROJECT = """\
name: trial
runtime:
  name: python
  options:
    virtualenv: .venv
"""
_PROGRAM = """\
import json
import pulumi

made = {}
for name, described in json.load(open("resources.json")).items():
    options = described.get("options", {})
    for key in ("provider", "parent"):
        if key in options:
            options[key] = made[options[key]]
    if "depends_on" in options:
        options["depends_on"] = [made[other] for other in options["depends_on"]]
    if "custom_timeouts" in options:
        options["custom_timeouts"] = pulumi.CustomTimeouts(**options["custom_timeouts"])
    properties = described["properties"]
    for path in described.get("secrets", []):
        *parents, last = path.split(".")
        inside = properties
        for key in parents:
            inside = inside[key]
        inside[last] = pulumi.Output.secret(inside[last])
    if described["type"].startswith("pulumi:providers:"):
        kind = described["type"].rpartition(":")[2]
        made[name] = pulumi.ProviderResource(kind, name, properties, pulumi.ResourceOptions(**options))
    else:
        made[name] = pulumi.CustomResource(described["type"], name, properties, pulumi.ResourceOptions(**options))
"""

Resources = Mapping[str, Mapping[str, Any]]
"""Name -> {type, properties, options, secrets: [paths of properties]}; an option names resources before it."""


class Trial(Project):
    """The project, its stack and its state, in a folder."""

    @classmethod
    def start(cls, folder: Path, cli: Path, environment: Mapping[str, str]) -> Trial:
        """An empty stack. `environment`: for the providers, beside the usual."""
        root = folder / "project"
        root.mkdir(parents=True)
        (root / "Pulumi.yaml").write_text(_PROJECT)
        (root / "__main__.py").write_text(_PROGRAM)
        (root / ".venv").symlink_to(Path(sys.prefix))
        providers.install(folder / "bin")
        (folder / "state").mkdir()
        environment = {**isolated_environment(folder, cli), **environment}
        trial = cls(root, "trial", folder / "bin", folder / "state", Cloud(folder / "cloud"), environment)
        trial.describe({})
        trial.pulumi("stack", "init", "trial")
        return trial

    def describe(self, resources: Resources) -> None:
        (self.root / "resources.json").write_text(json.dumps(resources))
