"""The stand-ins' cloud: a folder of objects, what was done to them in which order, and failures to come."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tests.standins import wire

VARIABLE = "STANDIN_CLOUD"
KUBECONFIG_VARIABLE = "STANDIN_KUBECONFIG"
"""The file of a real cluster's kubeconfig, which every EKS cluster then hands out as its own."""
REGISTRY_VARIABLE = "STANDIN_REGISTRY"
"""`host:port` of a real registry, which then is ECR; a repository's name is its path there."""
ACCOUNT = "123456789012"


class CloudError(Exception):
    """What a cloud's API would answer instead of doing what it was asked."""


def is_a(type_: str, wanted: str) -> bool:
    """Whether a type is the wanted one, or begins so where that is not a whole type."""
    return type_ == wanted if wanted.count(":") == 2 else type_.startswith(wanted)


@dataclass(frozen=True, kw_only=True)
class Thing:
    type: str
    id: str
    scope: str = ""
    """Where the id is unique: a cluster's address for what runs on it, otherwise empty."""
    urn: str = ""
    """The resource that it was made for; empty for what was there before."""
    inputs: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, Any]:
        return wire.plain(self.outputs)


class Event(NamedTuple):
    """One operation on the cloud that succeeded."""

    op: str
    type: str
    id: str
    urn: str
    start: float
    end: float


class Cloud:
    """The cloud in a folder; every plugin process and the test open it for themselves."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "things").mkdir(parents=True, exist_ok=True)

    @classmethod
    def here(cls) -> Cloud:
        if VARIABLE not in os.environ:
            raise SystemExit(f"a stand-in provider needs {VARIABLE}: the folder that is its cloud")
        return cls(Path(os.environ[VARIABLE]))

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """No other process changes the cloud meanwhile."""
        with (self.folder / "lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    # --- things ---

    def _path(self, type_: str, id_: str, scope: str) -> Path:
        name = hashlib.sha256("\0".join((type_, id_, scope)).encode()).hexdigest()[:24]
        return self.folder / "things" / f"{name}.json"

    def find(self, type_: str, id_: str, scope: str = "") -> Thing | None:
        """The object of this type and id, if there is one."""
        try:
            return Thing(**json.loads(self._path(type_, id_, scope).read_text()))
        except FileNotFoundError:
            return None

    def things(self, type_: str = "", scope: str | None = None) -> list[Thing]:
        """All objects, or those of a type or of types that begin so (`aws:ec2/`), or those of a scope."""
        found: list[Thing] = []
        for path in sorted((self.folder / "things").glob("*.json")):
            with contextlib.suppress(FileNotFoundError):
                found.append(Thing(**json.loads(path.read_text())))
        return [t for t in found if scope in {None, t.scope} and is_a(t.type, type_)]

    def only(self, type_: str) -> Thing:
        (thing,) = self.things(type_)
        return thing

    def add(self, thing: Thing) -> None:
        """Make an object; there must be none of its id."""
        path = self._path(thing.type, thing.id, thing.scope)
        if path.exists():
            raise CloudError(f"{thing.type} {thing.id!r} already exists")
        self._write(path, asdict(thing))

    def put(self, thing: Thing) -> None:
        path = self._path(thing.type, thing.id, thing.scope)
        if not path.exists():
            raise CloudError(f"{thing.type} {thing.id!r} does not exist")
        self._write(path, asdict(thing))

    def remove(self, thing: Thing) -> None:
        """Remove an object that exists, as someone at the console would."""
        self._path(thing.type, thing.id, thing.scope).unlink()

    @staticmethod
    def _write(path: Path, value: Any) -> None:
        fresh = path.with_suffix(f".{os.getpid()}.new")
        fresh.write_text(json.dumps(value, indent=1, sort_keys=True))
        fresh.replace(path)

    def wait(self, found: Callable[[], Any], otherwise: str, seconds: float = 5.0) -> Any:
        """What `found` gives, as soon as it gives anything: what another resource makes meanwhile is waited for."""
        deadline = time.monotonic() + seconds
        while not (value := found()):
            if time.monotonic() > deadline:
                raise CloudError(otherwise)
            time.sleep(0.05)
        return value

    # --- registries ---

    def _notes(self, name: str) -> dict[str, Any]:
        try:
            return json.loads((self.folder / name).read_text())
        except FileNotFoundError:
            return {}

    def logins(self) -> dict[str, list[str]]:
        """`user:password` pairs that each registry server accepts."""
        return self._notes("logins.json")

    def allow_login(self, server: str, user: str, password: str) -> None:
        """Let a registry server accept these credentials from now on."""
        with self.lock():
            logins = self.logins()
            logins.setdefault(server, []).append(f"{user}:{password}")
            self._write(self.folder / "logins.json", logins)

    def images(self, repository: str) -> dict[str, str]:
        return self._notes("images.json").get(repository, {})

    def push(self, repository: str, tag: str, digest: str) -> None:
        with self.lock():
            images = self._notes("images.json")
            images.setdefault(repository, {})[tag] = digest
            self._write(self.folder / "images.json", images)

    def drop_images(self, repository: str) -> None:
        with self.lock():
            images = self._notes("images.json")
            images.pop(repository, None)
            self._write(self.folder / "images.json", images)

    # --- the caller ---

    def caller_address(self) -> str:
        """The address that AWS sees the user come from."""
        return self._notes("caller.json").get("address", "203.0.113.7")

    def move_caller(self, address: str) -> None:
        """Let the user come from another address from now on."""
        self._write(self.folder / "caller.json", {"address": address})

    # --- journal and failures ---

    def record(self, event: Event) -> None:
        with self.lock(), (self.folder / "journal.jsonl").open("a") as journal:
            journal.write(json.dumps(event._asdict()) + "\n")

    def journal(self) -> list[Event]:
        """Every operation that succeeded, in the order of their ends."""
        path = self.folder / "journal.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [Event(**json.loads(line)) for line in lines]

    def fail_next(self, op: str, type_: str, *, after: bool = False) -> None:
        """Let the next `op` (create, update, delete) on a type fail, before anything happened or `after` it has."""
        with self.lock():
            failures = self._notes("failures.json")
            failures[f"{op} {type_}"] = "after" if after else "before"
            self._write(self.folder / "failures.json", failures)

    def planned_failure(self, op: str, type_: str) -> str | None:
        """When a planned failure strikes this operation ("before", "after"), which uses it up; None: it does not."""
        if f"{op} {type_}" not in self._notes("failures.json"):
            return None
        with self.lock():
            failures = self._notes("failures.json")
            when = failures.pop(f"{op} {type_}", None)
            self._write(self.folder / "failures.json", failures)
            return when

    def pending_failures(self) -> list[str]:
        return list(self._notes("failures.json"))
