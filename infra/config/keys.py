"""The config key by key: what a key is, how its text becomes a value, and what is wrong with it by itself."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, cast, get_args, get_type_hints

import yaml

from infra.config.schema import Group, Rule, Secret, Settings, Target, broken_rule, is_document

MAX_SHOWN_CHARACTERS = 60
"""Longer values are cut in messages."""

GROUPS: Mapping[str, type[Group]] = {
    name: kind for name, kind in get_type_hints(Settings).items() if isinstance(kind, type) and issubclass(kind, Group)
}
"""The fields of `Settings` that are groups of keys."""


@dataclass(frozen=True)
class Key:
    """One config key: type, rule, default, and the targets that use it."""

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

    @property
    def set_command(self) -> str:
        """The shell command that sets the rule's example."""
        if self.is_map:  # as text it would be lost when a path below it is set
            [(name, value)] = parse_map(self.rule.example).items()
            return f"pulumi config set --path {self.name}.{name} {shlex.quote(value)}"
        return f"pulumi config set {'--secret ' if self.secret else ''}{self.name} {shlex.quote(self.rule.example)}"

    def parse(self, text: str) -> Any:
        """Convert the engine's `text` to the key's type. Raises ValueError when it breaks the rule.

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
        if not re.fullmatch(r"-?[0-9]+", text):
            raise ValueError(text)
        return int(text)
    if kind is bool:
        return ("false", "true").index(text) == 1
    if kind == tuple[str, ...]:
        items = json.loads(text)
        if not isinstance(items, list) or not all(isinstance(item, str) for item in cast(list[Any], items)):
            raise ValueError(text)
        return tuple(cast(list[str], items))
    if kind == Mapping[str, str]:
        entries = parse_map(text)
        if not all(isinstance(value, str) for value in entries.values()):
            raise ValueError(text)
        return entries
    if text not in get_args(kind):
        raise ValueError(text)
    return text


def parse_map(text: str) -> dict[str, Any]:
    """Parse a JSON object, sorted by name; numbers, true and false become the text that they are written as."""
    found = json.loads(text, parse_int=str, parse_float=str, parse_constant=_refuse_constant)
    if not isinstance(found, dict):
        raise ValueError(text)  # noqa: TRY004  # what every wrong value raises
    entries = sorted(cast(dict[str, Any], found).items())
    return {name: json.dumps(value) if isinstance(value, bool) else value for name, value in entries}


def _refuse_constant(text: str) -> Any:
    """Refuse NaN and Infinity, which JSON does not have."""
    raise ValueError(text)


def camel_case(field: str) -> str:
    head, *tail = field.split("_")
    return head + "".join(part.capitalize() for part in tail)


@cache
def catalog(project_file: Path) -> dict[str, Key]:
    """Every key by its name: types and rules from the groups, defaults and descriptions from `project_file`.

    Raises KeyError when a field is not described there: the two must agree.
    """
    described = yaml.safe_load(project_file.read_text())["config"]
    keys: dict[str, Key] = {}
    for group in GROUPS.values():
        for field, hint in get_type_hints(group, include_extras=True).items():
            if field == "targets":
                continue
            kind, rule = get_args(hint)
            name = camel_case(field)
            entry = described[name]
            default = entry["default"]
            text = default if isinstance(default, str) else json.dumps(default)  # as the engine hands it over
            keys[name] = Key(name, kind, rule, group.targets, _parse(kind, text), entry["description"])
    return keys


@dataclass(frozen=True)
class Problem:
    """One wrong key; `rule` says what it must be or must not, `command` mends it."""

    key: str
    value: str
    rule: str
    command: str

    def __str__(self) -> str:
        return f"  {self.key} = {self.value}\n    {self.rule}\n    {self.command}"


@dataclass(frozen=True)
class ParsedConfig:
    """The config read key by key, not yet judged as a whole."""

    keys: Mapping[str, Key]
    raw: Mapping[str, str]
    secrets: Set[str]
    """Keys that were set with --secret."""
    values: Mapping[str, Any]
    """Typed value of every key; the default where it was not set or is wrong."""
    problems: tuple[Problem, ...]
    """Problems of single keys."""

    @property
    def changed(self) -> set[str]:
        """Keys whose value is not the default."""
        return {name for name, key in self.keys.items() if self.values[name] != key.default}

    def problem(self, key: str, rule: str, command: str) -> Problem:
        """Make the Problem of `key` with its value as a message may show it."""
        hidden = key in self.secrets or (key in self.keys and self.keys[key].secret)
        empty = self.values.get(key) in (None, "", ())
        text = "" if empty else self.raw.get(key, str(self.values[key]))
        return Problem(key, display(text, hidden), rule, command)


def parse_config(keys: Mapping[str, Key], raw: Mapping[str, str], secrets: Set[str]) -> ParsedConfig:
    """Read `raw`, text by key; `secrets` names the keys that were set with --secret."""
    values: dict[str, Any] = {name: key.default for name, key in keys.items()}
    problems: list[Problem] = []
    for name, text in raw.items():
        key = keys.get(name)
        hidden = name in secrets or (key is not None and key.secret)
        if key is None:
            near = get_close_matches(name, keys, n=1)
            rule = f"unknown key; did you mean {near[0]}?" if near else "unknown key"
            problems.append(Problem(name, display(text, hidden), rule, f"pulumi config rm {name}"))
            continue
        try:
            values[name] = key.parse(text)
        except ValueError:
            whole = Problem(name, display(text, hidden), f"must be {key.rule.text}", key.set_command)
            problems += list(_entry_problems(key, text, hidden)) or [whole]
        problems += _secrecy_problems(key, text, name in secrets)
    return ParsedConfig(keys, raw, secrets, values, tuple(problems))


def _entry_problems(key: Key, text: str, hidden: bool) -> Iterator[Problem]:
    """Find the wrong entries of a map; none when the text is no map at all."""
    try:
        entries = parse_map(text) if key.is_map else {}
    except ValueError:
        return
    for name, value in entries.items():
        if rule := broken_rule(name, value):
            path = shlex.quote(f"{key.name}.{name}" if name.isidentifier() else f"{key.name}[{json.dumps(name)}]")
            no_value_will_do = broken_rule(name, "")
            command = f"rm --path {path}" if no_value_will_do else f"set --path {path} <value>"
            shown = display(value if isinstance(value, str) else json.dumps(value), hidden)
            yield Problem(f"{key.name}.{name}", shown, rule, f"pulumi config {command}")


def _secrecy_problems(key: Key, text: str, set_as_secret: bool) -> Iterator[Problem]:
    if key.secret and text and not set_as_secret:
        yield Problem(key.name, "[hidden]", "is a secret in plain text", key.set_command)
    if key.is_map and set_as_secret:
        rule = "must not hold a secret: everyone who may see the process or the pods sees what it holds"
        yield Problem(key.name, "[hidden]", rule, f"pulumi config rm --path '{key.name}.<name of the secret>'")


def display(text: str, hidden: bool) -> str:
    """Quote and shorten `text` for a message; hide a secret, and a document that may hold some."""
    if not text:
        return "(not set)"
    if hidden or is_document(text):
        return "[hidden]"
    return json.dumps(text if len(text) <= MAX_SHOWN_CHARACTERS else text[:MAX_SHOWN_CHARACTERS] + "...")
