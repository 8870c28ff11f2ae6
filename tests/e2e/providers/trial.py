"""A Pulumi project of nothing but the resources that a test writes down, for trying the provider with the real CLI."""

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

for name, described in json.load(open("resources.json")).items():
    properties = described["properties"]
    for path in described.get("secrets", []):
        *parents, last = path.split(".")
        inside = properties
        for key in parents:
            inside = inside[key]
        inside[last] = pulumi.Output.secret(inside[last])
    pulumi.CustomResource(described["type"], name, properties)
"""

Resources = Mapping[str, Mapping[str, Any]]
"""Name -> {type, properties, secrets: [paths of properties]}."""


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
