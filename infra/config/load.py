"""Reads the stack's config once, before any resource, and refuses it as a whole when anything is wrong.

All problems are reported in one error, each with key, value, rule and the command that mends it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import fields
from pathlib import Path
from typing import Any

import pulumi
from pulumi.runtime import config as runtime_config

from infra.config.checks import check_config, check_stack_name
from infra.config.keys import GROUPS, Problem, camel_case, catalog, parse_config
from infra.config.schema import Settings


class ConfigError(pulumi.RunError):
    """The configuration is refused; `problems` lists everything that is wrong with it."""

    def __init__(self, stack: str, problems: Sequence[Problem]) -> None:
        self.problems = problems
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(
            f"{count} in the configuration of stack {stack}; nothing was changed:\n\n" + "\n\n".join(map(str, problems))
        )


def load_settings(root: Path) -> Settings:
    """Settings of the running Pulumi program; `root` is the project's folder. Raises ConfigError."""
    project = pulumi.get_project()
    prefix = f"{project}:"
    config = runtime_config.CONFIG.get()
    raw = {key.removeprefix(prefix): value for key, value in config.items() if key.startswith(prefix)}
    secrets = {name for name in raw if runtime_config.is_config_secret(prefix + name)}
    region = pulumi.Config("aws").get("region")
    return parse_settings(raw, secrets, project=project, stack=pulumi.get_stack(), region=region, root=root)


def parse_settings(
    raw: Mapping[str, str], secrets: Set[str], *, project: str, stack: str, region: str | None, root: Path
) -> Settings:
    """Settings from `raw`, the project's config as text by key (missing keys take their default).

    `secrets` names the keys that were set with --secret; `root` is the project's folder. Raises ConfigError.
    """
    config = parse_config(catalog(root / "Pulumi.yaml"), raw, secrets)
    if problems := [*check_stack_name(stack), *config.problems, *check_config(config, region)]:
        raise ConfigError(stack, problems)
    groups = {name: _fill(group, config.values) for name, group in GROUPS.items()}
    return Settings(project=project, stack=stack, region=region or "", **groups)


def _fill(group: type[Any], values: Mapping[str, Any]) -> Any:
    return group(**{field.name: values[camel_case(field.name)] for field in fields(group)})
