"""Reads the stack's config once, before any resource, and refuses it as a whole when anything is wrong.

All problems are reported in one error, each with key, value, rule and the command that mends it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Set
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, cast, get_args, get_type_hints

import pulumi
import yaml
from pulumi.runtime import config as runtime_config

from infra.config.schema import Group, Rule, Secret, Settings, Target, is_document, variable_problem


@dataclass(frozen=True)
class Problem:
    """One wrong key."""

    key: str
    value: str
    rule: str
    command: str

    def __str__(self) -> str:
        return f"  {self.key} = {self.value}\n    {self.rule}\n    {self.command}"


class ConfigError(pulumi.RunError):
    """The configuration is refused; `problems` lists everything that is wrong with it."""

    def __init__(self, stack: str, problems: list[Problem]) -> None:
        self.problems = problems
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(
            f"{count} in the configuration of stack {stack}; nothing was changed:\n\n" + "\n\n".join(map(str, problems))
        )


_SHOWN = 60
"""Characters of a value in a message."""

GROUPS: Mapping[str, type[Group]] = {
    name: kind for name, kind in get_type_hints(Settings).items() if isinstance(kind, type) and issubclass(kind, Group)
}
"""The fields of `Settings` that are groups of keys."""


@dataclass(frozen=True)
class Key:
    """One config key: where it goes, what it must be, what it is by default."""

    name: str
    kind: Any
    rule: Rule
    targets: frozenset[Target]
    default: Any
    description: str

    @property
    def secret(self) -> bool:
        return self.kind == Secret | None

    @property
    def is_map(self) -> bool:
        return self.kind == Mapping[str, str]

    def parse(self, text: str) -> Any:
        """The typed value of the engine's `text`; raises ValueError where it is not what the rule says.

        The default always passes, since the engine merges it in: an empty one may mean "not set".
        """
        value = _parse(self.kind, text)
        if value != self.default and value is not None and not self.rule.holds(text if self.secret else value):
            raise ValueError(text)
        return value


def _parse(kind: Any, text: str) -> Any:
    if kind == Secret | None:
        return Secret(text) if text else None
    if kind == str | None:
        return text or None
    if kind is str:
        return text
    if kind is int:
        return int(text)
    if kind is bool:
        return ("false", "true").index(text) == 1
    if kind == tuple[str, ...]:
        items = json.loads(text)
        if not isinstance(items, list) or not all(isinstance(item, str) for item in cast(list[Any], items)):
            raise ValueError(text)
        return tuple(cast(list[str], items))
    if kind == Mapping[str, str]:
        entries = _entries(text)
        if not all(isinstance(value, str) for value in entries.values()):
            raise ValueError(text)
        return entries
    if text not in get_args(kind):
        raise ValueError(text)
    return text


def _entries(text: str) -> dict[str, Any]:
    """A JSON object's entries by name; numbers, true and false as the text that they are written as."""
    found = json.loads(text, parse_int=str, parse_float=str, parse_constant=_no_number)
    if not isinstance(found, dict):
        raise ValueError(text)  # noqa: TRY004 - what every wrong value raises
    entries = sorted(cast(dict[str, Any], found).items())
    return {name: json.dumps(value) if isinstance(value, bool) else value for name, value in entries}


def _no_number(text: str) -> Any:
    """NaN and Infinity, which JSON does not have."""
    raise ValueError(text)


def _camel(name: str) -> str:
    head, *tail = name.split("_")
    return head + "".join(part.capitalize() for part in tail)


@cache
def catalog(project_file: Path) -> dict[str, Key]:
    """Every key by its name: types and rules from the groups, defaults and descriptions from `project_file`.

    Raises KeyError when a field is not described there: the two must agree.
    """
    described = yaml.safe_load(project_file.read_text())["config"]
    keys: dict[str, Key] = {}
    for group in GROUPS.values():
        for name, hint in get_type_hints(group, include_extras=True).items():
            if name == "targets":
                continue
            kind, rule = get_args(hint)
            key = _camel(name)
            entry = described[key]
            keys[key] = Key(key, kind, rule, group.targets, _parse(kind, _text(entry["default"])), entry["description"])
    return keys


def _text(value: Any) -> str:
    """A YAML value as the engine hands it to the program."""
    return value if isinstance(value, str) else json.dumps(value)


@dataclass(frozen=True)
class Given:
    """What was set, read key by key and not yet judged as a whole."""

    raw: Mapping[str, str]
    secrets: Set[str]
    """Keys that were set with --secret."""
    values: Mapping[str, Any]
    """Typed; of every key, by default what Pulumi.yaml says."""
    changed: Set[str]
    """Keys whose value is not the default."""

    def shown(self, key: str) -> str:
        """A key's value for a message."""
        empty = self.values.get(key) in (None, "", ())
        return _shown("" if empty else self.raw.get(key, str(self.values[key])), key in self.secrets)


def read(
    raw: Mapping[str, str], secrets: Set[str], *, project: str, stack: str, region: str | None, root: Path
) -> Settings:
    """Settings from `raw`, the project's config as text by key (missing keys take their default).

    `secrets` names the keys that were set with --secret; `root` is the project's folder. Raises ConfigError.
    """
    keys = catalog(root / "Pulumi.yaml")
    values: dict[str, Any] = {name: key.default for name, key in keys.items()}
    problems: list[Problem] = []
    for name, text in raw.items():
        if name not in keys:
            near = get_close_matches(name, keys, n=1)
            hint = f"unknown key; did you mean {near[0]}?" if near else "unknown key"
            problems.append(Problem(name, _shown(text, name in secrets), hint, f"pulumi config rm {name}"))
            continue
        key = keys[name]
        hidden = key.secret or name in secrets
        try:
            values[name] = key.parse(text)
        except ValueError:
            entries = _wrong_entries(key, text, hidden)
            problems += entries or [Problem(name, _shown(text, hidden), f"must be {key.rule.text}", _set(key))]
        if key.secret and text and name not in secrets:
            problems.append(Problem(name, _shown(text, hidden), "is a secret in plain text", _set(key)))
        if key.is_map and name in secrets:
            rule = "must not hold a secret: everyone who may see the process or the pods sees what it holds"
            problems.append(Problem(name, "[hidden]", rule, f"pulumi config rm --path '{name}.<name of the secret>'"))
    if not any(problem.key == "target" for problem in problems):
        broken = {problem.key for problem in problems}
        given = Given(raw, secrets, values, {name for name, key in keys.items() if values[name] != key.default})
        later = [*_strangers(keys, given), *_contradictions(given, region)]
        problems += [problem for problem in later if problem.key not in broken]
    if problems:
        raise ConfigError(stack, problems)
    groups = {name: _group(kind, values) for name, kind in GROUPS.items()}
    return Settings(project=project, stack=stack, region=region or "", **groups)


def load(root: Path) -> Settings:
    """Settings of the running Pulumi program; `root` is the project's folder. Raises ConfigError."""
    project = pulumi.get_project()
    prefix = f"{project}:"
    config = runtime_config.CONFIG.get()
    raw = {key.removeprefix(prefix): value for key, value in config.items() if key.startswith(prefix)}
    secrets = {name for name in raw if runtime_config.is_config_secret(prefix + name)}
    region = pulumi.Config("aws").get("region")
    return read(raw, secrets, project=project, stack=pulumi.get_stack(), region=region, root=root)


def _group(kind: type[Any], values: Mapping[str, Any]) -> Any:
    return kind(**{each.name: values[_camel(each.name)] for each in fields(kind)})


def _shown(text: str, secret: bool = False) -> str:
    """`text` for a message: quoted, and short, but not what is a secret or a document that may hold some."""
    if not text:
        return "(not set)"
    if secret or is_document(text):
        return "[hidden]"
    return json.dumps(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")


def _set(key: Key) -> str:
    if key.is_map:  # as text it would be lost when a path below it is set
        [(name, value)] = _entries(key.rule.example).items()
        return f"pulumi config set --path {key.name}.{name} {shlex.quote(value)}"
    return f"pulumi config set {'--secret ' if key.secret else ''}{key.name} {shlex.quote(key.rule.example)}"


def _wrong_entries(key: Key, text: str, hidden: bool) -> list[Problem]:
    """What is wrong with the single entries of a map; nothing when it is no map at all."""
    try:
        entries = _entries(text) if key.is_map else {}
    except ValueError:
        return []
    problems: list[Problem] = []
    for name, value in entries.items():
        rule = variable_problem(name, value)
        if rule:
            shown = _shown(value if isinstance(value, str) else json.dumps(value), hidden)
            plain = name.isidentifier()
            path = shlex.quote(f"{key.name}.{name}" if plain else f"{key.name}[{json.dumps(name)}]")
            mends = f"set --path {path} <value>" if rule.startswith("must be") else f"rm --path {path}"
            problems.append(Problem(f"{key.name}.{name}", shown, rule, f"pulumi config {mends}"))
    return problems


def _strangers(keys: Mapping[str, Key], given: Given) -> list[Problem]:
    """Keys that were set although the target does not use them."""
    target = given.values["target"]
    return [
        Problem(
            name,
            "[hidden]" if key.secret else given.shown(name),
            f"is a key of target {' or '.join(sorted(key.targets))}; this stack's target is {target}",
            f"pulumi config rm {name}",
        )
        for name, key in keys.items()
        if target not in key.targets and name in given.changed
    ]


def _contradictions(given: Given, region: str | None) -> list[Problem]:
    """What no single key shows: keys that do not go together, and what a target cannot do without."""
    checks = {
        "local": [],
        "kubernetes": [*_workload_checks(given.values), *_existing_checks(given)],
        "eks": [*_workload_checks(given.values), *_eks_checks(given, region)],
    }[given.values["target"]]
    return [Problem(key, given.shown(key), rule, command) for wrong, key, rule, command in checks if wrong]


Check = tuple[bool, str, str, str]
"""Is it wrong, which key, which rule, which command mends it."""


def _workload_checks(values: Mapping[str, Any]) -> list[Check]:
    replicas, most = values["replicas"], values["maxReplicas"]
    return [
        (
            replicas > most,
            "replicas",
            f"must not exceed maxReplicas, {most}",
            f"pulumi config set maxReplicas {replicas}",
        ),
        (
            bool(values["image"] and values["baseImage"]),
            "baseImage",
            "has no effect on a prebuilt image",
            "pulumi config rm baseImage",
        ),
        (
            bool(values["image"]) and not values["example"],
            "example",
            "must be set: a prediction that the prebuilt image answers",
            """pulumi config set example '{"input": [1, 2, 3]}'""",
        ),
    ]


def _existing_checks(given: Given) -> list[Check]:
    values = given.values
    repository, user, password = values["repository"], values["registryUsername"], values["registryPassword"]
    kubeconfig = values["kubeconfig"] or ""
    return [
        (
            not repository and not values["image"],
            "repository",
            "must be set: the image is pushed there (or name a prebuilt one with `image`)",
            "pulumi config set repository registry.example.com/team/model",
        ),
        (
            bool(user) and not password,
            "registryPassword",
            "must be set, since registryUsername is",
            "pulumi config set --secret registryPassword <password>",
        ),
        (
            bool(password) and not user,
            "registryUsername",
            "must be set, since registryPassword is",
            "pulumi config set registryUsername <user>",
        ),
        (
            is_document(kubeconfig) and "kubeconfig" not in given.secrets,
            "kubeconfig",
            "is a secret in plain text",
            "pulumi config set --secret kubeconfig <text>",
        ),
    ]


def _eks_checks(given: Given, region: str | None) -> list[Check]:
    values = given.values
    vpc, private, public = values["vpcId"], values["privateSubnetIds"], values["publicSubnetIds"]
    domain, zone = values["domain"], values["hostedZone"]
    return [
        (
            not region,
            "aws:region",
            "must be set: where everything is made",
            "pulumi config set aws:region us-east-1",
        ),
        *[
            (
                not values[key],
                key,
                "must be set: it tags every AWS resource",
                f"pulumi config set {key} <name>",
            )
            for key in ("owner", "costCenter")
        ],
        (
            not values["publicAccessCidrs"] and not vpc,
            "publicAccessCidrs",
            "must name your own address: nobody could reach the API server of a new VPC from outside",
            """pulumi config set --path 'publicAccessCidrs[0]' <your address>/32""",
        ),
        (
            bool(vpc) and len(set(private)) < 2,
            "privateSubnetIds",
            "must name at least two subnets in different zones, since vpcId is set",
            """pulumi config set --path 'privateSubnetIds[0]' subnet-0123456789abcdef0""",
        ),
        *[
            (bool(vpc), key, "has no effect on an existing VPC", f"pulumi config rm {key}")
            for key in ("natPerZone", "flowLogs", "vpcCidr")
            if key in given.changed
        ],
        (
            bool(private or public) and not vpc,
            "vpcId",
            "must be set, since subnets are named",
            "pulumi config set vpcId vpc-0123456789abcdef0",
        ),
        (
            bool(zone) and not domain,
            "hostedZone",
            "has no effect without domain",
            "pulumi config rm hostedZone",
        ),
        (
            bool(domain and zone) and not f".{domain}".endswith(f".{zone}"),
            "hostedZone",
            f"must hold the domain {domain}",
            "pulumi config rm hostedZone",
        ),
        (
            bool(domain) and values["servicePort"] not in (80, 443),
            "servicePort",
            "has no effect with a domain: the listener is 443",
            "pulumi config rm servicePort",
        ),
    ]
