"""Reads the stack's config once, before any resource, and refuses it as a whole when anything is wrong.

All problems are reported in one error, each with key, value, rule and the command that mends it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pulumi
from pulumi.runtime import config as runtime_config

from infra.config.checks import check_config, check_stack_name
from infra.config.keys import GROUPS, ParsedConfig, Problem, camel_case, catalog, display, parse_config
from infra.config.schema import Settings, SignIn
from infra.config.sign_in import parse_sign_in
from infra.own_folder import DOCKERFILE, EXAMPLE, procfile_command, suggested_command
from infra.server_contract import LIVENESS_PATH, READINESS_PATH

_NAME_AT_FIRST = "model-endpoint"
"""The project's name before anyone renames it."""


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
    others = {key: value for key, value in config.items() if not key.startswith(prefix)}
    secrets = {key.removeprefix(prefix) for key in config if runtime_config.is_config_secret(key)}
    region = pulumi.Config("aws").get("region")
    stack = pulumi.get_stack()
    return parse_settings(raw, secrets, others, project=project, stack=stack, region=region, root=root)


def parse_settings(
    raw: Mapping[str, str],
    secrets: Set[str],
    others: Mapping[str, str] = MappingProxyType({}),
    *,
    project: str,
    stack: str,
    region: str | None,
    root: Path,
) -> Settings:
    """Settings from `raw`, the project's config as text by key (missing keys take their default).

    `secrets` names the keys that were set with --secret; `others` is the config of other namespaces by full key;
    `root` is the project's folder. Raises ConfigError.
    """
    config = parse_config(catalog(root / "Pulumi.yaml"), raw, secrets)
    across = [*check_config(config, region, others), *_misplaced_keys(config, others, project, stack)]
    if problems := [*check_stack_name(stack), *config.problems, *_folder_problems(config, root), *across]:
        raise ConfigError(stack, problems)
    values = {**config.values, **_probe_paths(config.values)}
    groups = {name: _fill(group, values) for name, group in GROUPS.items()}
    sign_in = parse_sign_in(others) if config.values["target"] == "eks" else SignIn()
    return Settings(project=project, stack=stack, region=region or "", sign_in=sign_in, **groups)


def _probe_paths(values: Mapping[str, Any]) -> dict[str, str]:
    """The paths of the server here, unless the config names others; of a `build` no path is known."""
    if values["build"]:
        return {}
    usual = {"livenessPath": LIVENESS_PATH, "readinessPath": READINESS_PATH}
    return {name: values[name] or path for name, path in usual.items()}


def _folder_problems(config: ParsedConfig, root: Path) -> Iterator[Problem]:
    """Find out that a folder is not what it must be; what is wrong in its files is said by file when it is staged."""
    if config.values["build"]:
        yield from _build_problems(config, root / config.values["build"])
    elif not (root / config.values["model"] / "model.json").is_file():
        rule = "must be a folder with a model.json, as `make model` makes it"
        yield config.problem("model", rule, "pulumi config set model app/model")


def _build_problems(config: ParsedConfig, folder: Path) -> Iterator[Problem]:
    """Find what a service of the user's own lacks: a Dockerfile, an example, and here a command."""
    values = config.values
    if not (folder / DOCKERFILE).is_file():
        rule = f"must be a folder with a {DOCKERFILE}"
        yield config.problem("build", rule, "pulumi config set build examples/document")
        return
    if not values["example"] and not (folder / EXAMPLE).is_file():
        rule = f"must be set, or be the file {EXAMPLE} in the folder: a prediction that the service answers"
        yield config.problem("example", rule, """pulumi config set example '{"input": [1, 2, 3]}'""")
    if values["target"] == "local" and not values["command"] and not procfile_command(folder):
        rule = "must be set, or be a line `web: ...` in a Procfile: images are not built on target local"
        command = f"pulumi config set command {shlex.quote(suggested_command(folder))}"
        yield config.problem("command", rule, command)


def _misplaced_keys(config: ParsedConfig, others: Mapping[str, str], project: str, stack: str) -> Iterator[Problem]:
    """Find our keys in the namespace of another project: a renamed project leaves all of its config there, unread."""
    for full, value in others.items():
        namespace, _, name = full.partition(":")
        key = config.keys.get(name)
        of_provider = find_spec("pulumi_" + re.sub(r"\W", "_", namespace))
        if namespace != _NAME_AT_FIRST and (key is None or of_provider):
            continue
        is_secret = full in config.secrets or (key is not None and key.secret)
        remove = f"pulumi config rm {full}"
        if key is None or name in config.changed:
            command = remove
        elif key.is_map:  # as text it would be lost when a path below it is set
            command = f"sed -i.bak s/{full}/{project}:{name}/ Pulumi.{stack}.yaml"
        else:
            flag = "--secret " if is_secret else ""
            command = f'pulumi config set {flag}{name} "$(pulumi config get {full})" && {remove}'
        rule = f"has no effect: this is project {project}, and the key is one of project {namespace}"
        yield Problem(full, display(value, is_secret), rule, command)


def _fill(group: type[Any], values: Mapping[str, Any]) -> Any:
    return group(**{field.name: values[camel_case(field.name)] for field in fields(group)})
