"""What every stand-in does with a resource; each provider's module says where it differs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from tests.standins import schema, wire
from tests.standins.cloud import Cloud, CloudError, Thing


@dataclass(frozen=True)
class Request:
    type: str
    urn: str
    inputs: dict[str, Any]
    id: str = ""
    olds: dict[str, Any] = field(default_factory=dict)
    """On a check the old inputs, otherwise the old outputs."""
    seed: bytes = b""

    @property
    def name(self) -> str:
        return self.urn.rsplit("::", 1)[-1]

    @property
    def values(self) -> dict[str, Any]:
        return wire.plain(self.inputs)

    def suffix(self, length: int) -> str:
        return hashlib.sha256(self.seed + self.urn.encode()).hexdigest()[:length]


class HalfDone(Exception):  # noqa: N818 it is half a success
    """The object exists, but does not work."""

    def __init__(self, thing: Thing, message: str) -> None:
        super().__init__(message)
        self.thing = thing


class Service:
    REPLACES: ClassVar[Mapping[str, frozenset[str]]] = {}
    """Type -> the paths whose change makes a new object. Types without an entry must not change at all."""
    UNDECLARED: ClassVar[frozenset[str]] = frozenset()
    """Outputs that the provider gives and its SDK does not declare."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud

    def configure(self, config: dict[str, Any]) -> None:
        """Take the provider's configuration."""

    def config_replaces(self, old: dict[str, Any], new: dict[str, Any]) -> list[str]:
        """The provider inputs that changed so that everything of this provider must be made anew."""
        return []

    def invoke(self, token: str, arguments: dict[str, Any]) -> dict[str, Any]:
        raise CloudError("the stand-in has no answer for this function")

    def foreign_failures(self, type_: str, inputs: dict[str, Any]) -> list[schema.Failure]:
        """What is wrong with the inputs of a type that the SDK does not know."""
        return [("", f"the SDK has no resource type {type_}")]

    def check(self, asked: Request) -> dict[str, Any]:
        return asked.inputs

    def ignores(self, type_: str, path: str) -> bool:
        return False

    def replaces(self, type_: str, path: str, old: dict[str, Any]) -> bool:
        if type_ not in self.REPLACES:
            return True
        return any(path == p or path.startswith((f"{p}.", f"{p}[")) for p in self.REPLACES[type_])

    def deletes_first(self, type_: str, old: dict[str, Any], new: dict[str, Any]) -> bool:
        """Whether a replacement removes the old object before it makes the new one."""
        return False

    def scope(self) -> str:
        return ""

    def new_id(self, asked: Request) -> str:
        raise NotImplementedError

    def outputs(self, asked: Request, id_: str) -> dict[str, Any]:
        return {}

    def volatile(self, asked: Request) -> frozenset[str]:
        return frozenset()

    def preview(self, asked: Request) -> Thing:
        """What a create or update would give: whatever the cloud would compute is unknown."""
        found = schema.resource_class(asked.type)
        names = schema.output_names(found) if found else frozenset[str]()
        kept = {k: v for k, v in asked.olds.items() if k not in self.volatile(asked)} if asked.id else {}
        return Thing(
            type=asked.type, id=asked.id, outputs={**dict.fromkeys(names, wire.UNKNOWN), **kept, **asked.inputs}
        )

    def create(self, asked: Request) -> Thing:
        if wire.has_unknown(asked.values):
            raise CloudError("an input is still unknown")
        self.before_create(asked)
        id_ = self.new_id(asked)
        thing = self._thing(asked, id_)
        with self.cloud.lock():
            self.cloud.add(thing)
        self.after_create(thing)
        return thing

    def before_create(self, asked: Request) -> None:
        """Refuse what the cloud would refuse."""

    def after_create(self, thing: Thing) -> None:
        """Wait for what the provider waits for."""

    def _thing(self, asked: Request, id_: str) -> Thing:
        outputs = self.outputs(asked, id_)
        found = schema.resource_class(asked.type)
        strange = outputs.keys() - schema.output_names(found) - self.UNDECLARED if found else set[str]()
        if strange:
            raise CloudError(f"the stand-in gives {asked.type} outputs that it has not: {strange}")
        return Thing(
            type=asked.type,
            id=id_,
            urn=asked.urn,
            scope=self.scope(),
            inputs=asked.inputs,
            outputs={**outputs, **asked.inputs},
        )

    def update(self, asked: Request) -> Thing:
        thing = self._found(asked)
        self.before_update(asked, thing)
        outputs = {**thing.outputs, **self.outputs(asked, asked.id), **asked.inputs}
        gone = {k for k in thing.inputs if k not in asked.inputs}
        thing = replace(
            thing,
            urn=asked.urn,
            inputs=asked.inputs,
            outputs={k: v for k, v in outputs.items() if k not in gone},
        )
        with self.cloud.lock():
            self.cloud.put(thing)
        self.after_create(thing)
        return thing

    def before_update(self, asked: Request, thing: Thing) -> None:
        """Refuse what the cloud would refuse."""

    def delete(self, asked: Request) -> Thing:
        """Remove the object; that there is none is an error."""
        thing = self._found(asked)
        self.before_delete(thing)
        with self.cloud.lock():
            self.cloud.remove(thing)
        return thing

    def before_delete(self, thing: Thing) -> None:
        """Refuse what the cloud would refuse, and take the time that others need to get in the way."""

    def read(self, asked: Request) -> Thing | None:
        """The object as it is; None: there is none."""
        return self.cloud.find(asked.type, asked.id, self.scope())

    def _found(self, asked: Request) -> Thing:
        thing = self.cloud.find(asked.type, asked.id, self.scope())
        if thing is None:
            raise CloudError(f"{asked.type} {asked.id!r} does not exist")
        return thing
