"""What a provider accepts, read from the types of its own SDK, so that a typo fails in a test and not in the cloud."""

from __future__ import annotations

import enum
import importlib
import inspect
import json
import re
import sys
import typing
from collections import abc
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pulumi
from pulumi import _types
from pulumi.runtime import rpc

from tests.standins import wire

Failure = tuple[str, str]
"""A property's path and what is wrong with it."""


@cache
def resource_class(token: str) -> type[pulumi.Resource] | None:
    """The SDK's class of a resource type; None if the SDK has no such type."""
    package, module, _ = token.split(":")
    importlib.import_module(f"pulumi_{package}")
    for registered in rpc._RESOURCE_MODULES.get(f"{package}:{module}", []):
        info: dict[str, Any] = getattr(registered, "mod_info", {})
        if token in info.get("classes", {}):
            return getattr(importlib.import_module(info["fqn"]), info["classes"][token])
    return None


@cache
def args_class(resource: type) -> type:
    module = sys.modules[resource.__module__]
    for suffix in ("InitArgs", "Args"):
        found = getattr(module, f"{resource.__name__}{suffix}", None)
        if found is not None:
            return found
    raise LookupError(f"no arguments class beside {resource.__name__}")


@cache
def provider_args(package: str) -> type:
    return importlib.import_module(f"pulumi_{package}.provider").ProviderArgs


@cache
def output_names(resource: type) -> frozenset[str]:
    return frozenset(_types.resource_py_to_pulumi_names(resource).values()) - {"id", "urn"}


def python_name(token: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", token.split(":")[-1]).lower()


@cache
def function(token: str) -> Callable[..., Any] | None:
    """The SDK's function behind an invoke's token; None if the SDK has no such function."""
    package, module, _ = token.split(":")
    place = module.split("/")[0]
    where = f"pulumi_{package}" if place == "index" else f"pulumi_{package}.{place}"
    try:
        return getattr(importlib.import_module(where), python_name(token), None)
    except ModuleNotFoundError:
        return None


def function_failures(found: Callable[..., Any], arguments: dict[str, Any]) -> list[Failure]:
    wire_names = {python: name for name, python in re.findall(r"__args__\['(\w+)'\] = (\w+)", inspect.getsource(found))}
    module = sys.modules[found.__module__]
    hints = typing.get_type_hints(found, globalns={**vars(pulumi), **vars(module)})
    parameters = inspect.signature(found).parameters
    known = {wire_names[name]: hints[name] for name in parameters if name in wire_names}
    required = {wire_names[n] for n, p in parameters.items() if n in wire_names and p.default is p.empty}
    return list(_object(known, required, arguments, ""))


def failures(cls: type, inputs: dict[str, Any], *, encoded: bool = False) -> list[Failure]:
    """What is wrong with `inputs` (as on the wire) for an arguments class.

    `encoded`: as for a provider, whose inputs that are not strings travel as JSON.
    """
    if encoded:
        hints = _types.input_type_types(cls)
        inputs = {key: _decoded(hints.get(key), wire.peel(value)) for key, value in inputs.items()}
    return list(_arguments(cls, inputs, ""))


def _decoded(hint: Any, value: Any) -> Any:
    if isinstance(value, str) and value != wire.UNKNOWN and str not in _alternatives(hint):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _arguments(cls: type, value: dict[str, Any], path: str) -> Iterator[Failure]:
    yield from _object(_raw_hints(cls), _required(cls), value, path)


@cache
def _raw_hints(cls: type) -> dict[str, Any]:
    return _types._raw_return_hints(cls)


@cache
def _required(cls: type) -> frozenset[str]:
    names = _types.input_type_py_to_pulumi_names(cls)
    parameters = inspect.signature(cls.__init__).parameters
    return frozenset(names[n] for n, p in parameters.items() if n in names and p.default is p.empty)


def _object(hints: dict[str, Any], required: abc.Set[str], value: dict[str, Any], path: str) -> Iterator[Failure]:
    for key in sorted(required):
        if value.get(key) is None:
            yield _join(path, key), "a required property is missing"
    for key, item in value.items():
        if item is None or key.startswith("__"):
            continue
        if key not in hints:
            yield _join(path, key), f"no such property; known are {', '.join(sorted(hints))}"
        else:
            yield from _value(hints[key], item, _join(path, key))


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


@cache
def _alternatives(hint: Any) -> tuple[Any, ...]:
    """The types that a hint allows, without what Pulumi's Input adds; empty for Any."""
    if hint is Any or hint is None:
        return ()
    if not _types._is_union_type(hint):
        return (hint,)
    members = [a for a in typing.get_args(hint) if a is not type(None) and not _is_plumbing(a)]
    if Any in members:
        return ()
    has_args = any(_types.is_input_type(a) for a in members if isinstance(a, type))
    return tuple(a for a in members if not (has_args and _is_untyped(a)))


def _is_plumbing(hint: Any) -> bool:
    return hint is pulumi.Output or typing.get_origin(hint) in {pulumi.Output, abc.Awaitable}


def _is_untyped(hint: Any) -> bool:
    """What stands beside an arguments class is the same thing written otherwise."""
    written = typing.is_typeddict(hint) or hint is dict or typing.get_origin(hint) in {dict, abc.Mapping}
    return written or (isinstance(hint, type) and _types.is_output_type(hint))


def _takes_outputs(hint: Any) -> bool:
    return hint is Any or any(_is_plumbing(a) for a in typing.get_args(hint))


def _value(hint: Any, value: Any, path: str) -> Iterator[Failure]:
    if wire.is_output(value) and not _takes_outputs(hint):
        yield path, "must be a plain value, not an output"
        return
    value = wire.peel(value)
    if value is None or value == wire.UNKNOWN:
        return
    wanted = _alternatives(hint)
    if not wanted:
        return
    attempts = [list(_one(each, value, path)) for each in wanted]
    if all(attempts):
        shape = [a for a in attempts if not a[0][1].startswith("must be ")]
        if len(wanted) == 1 or shape:
            yield from (shape or attempts)[0]
        else:
            names = " or ".join(_name(each) for each in wanted)
            yield path, f"must be {names}, not {_name_of(value)}"


def _one(hint: Any, value: Any, path: str) -> Iterator[Failure]:  # one branch a kind of type
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return
    if origin is typing.Literal:
        if value not in arguments:
            yield path, f"must be {' or '.join(map(repr, arguments))}, not {value!r}"
    elif origin in {list, abc.Sequence}:
        if not isinstance(value, list):
            yield path, f"must be a list, not {_name_of(value)}"
            return
        for index, item in enumerate(value):
            yield from _value(arguments[0], item, f"{path}[{index}]")
    elif origin in {dict, abc.Mapping}:
        if not isinstance(value, dict):
            yield path, f"must be a map, not {_name_of(value)}"
            return
        for key, item in value.items():
            yield from _value(arguments[1], item, f'{path}["{key}"]')
    elif not isinstance(hint, type):
        raise TypeError(f"{path}: the stand-in does not know the type {hint}")
    elif _types.is_input_type(hint):
        if isinstance(value, dict) and not wire.is_resource(value):
            yield from _arguments(hint, value, path)
        else:
            yield path, f"must be an object ({hint.__name__}), not {_name_of(value)}"
    elif issubclass(hint, pulumi.Resource):
        if not isinstance(value, str) and not wire.is_resource(value):
            yield path, f"must be a {hint.__name__} resource, not {_name_of(value)}"
    elif issubclass(hint, enum.Enum):
        allowed = [member.value for member in hint]
        if value not in allowed:
            yield path, f"must be one of {', '.join(map(str, allowed))}, not {value!r}"
    elif not _is_a(hint, value):
        yield path, f"must be {_name(hint)}, not {_name_of(value)}"


def _is_a(hint: type, value: Any) -> bool:
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in {str, bool}:
        return isinstance(value, hint)
    return isinstance(value, dict)


_NAMES = {str: "a string", bool: "a boolean", int: "a whole number", float: "a number"}


def _name(hint: Any) -> str:
    return _NAMES.get(hint) or getattr(hint, "__name__", str(hint))


def _name_of(value: Any) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    return f"{_NAMES.get(type(value), type(value).__name__)} ({value!r})"
