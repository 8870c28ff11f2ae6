"""requirements.lock and packages.txt of a model folder: what the model needs besides the server."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

LOCK = "requirements.lock"
REQUIREMENTS = "requirements.txt"
PACKAGES = "packages.txt"

_PIN = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(\[[^]]*\])?==(?P<version>[^\s;\\]+)")
_SOURCE = re.compile(r"# (?P<digest>[0-9a-f]{64})  (?P<file>.+)")
_INDEX = re.compile(r"--(extra-index-url|index-url|find-links)\s")
_DEBIAN_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+(:[a-z0-9]+)?(=[A-Za-z0-9.+:~-]+)?")
"""Name, architecture and version, as apt-get takes them [debian-policy 5.6.1, 5.6.12]."""


@dataclass(frozen=True)
class Pin:
    """One package of a lock file."""

    name: str
    """Lower case, with hyphens [PEP 503]."""
    version: str
    text: str
    """Its lines: version, marker and hashes."""


@dataclass(frozen=True, kw_only=True)
class Lock:
    """A lock file, read."""

    pins: tuple[Pin, ...] = ()
    indexes: tuple[str, ...] = ()
    """Options that name an index, such as `--extra-index-url https://...`."""
    sources: dict[str, str] = field(default_factory=dict[str, str])
    """Digest by `digest_of` of each file that it was made of, by path in the model folder."""


def parse(text: str) -> Lock:
    """Read a lock file; raises a ValueError for what `make model` would not have written."""
    pins: list[Pin] = []
    indexes: list[str] = []
    sources: dict[str, str] = {}
    for lines in _logical_lines(text):
        if source := _SOURCE.fullmatch(lines):
            sources[source["file"]] = source["digest"]
        elif _INDEX.match(lines):
            indexes.append(lines)
        elif pin := _PIN.match(lines):
            if "--hash=sha256:" not in lines:
                raise ValueError(f"has no hash for {pin['name']}=={pin['version']}")
            pins.append(Pin(canonical(pin["name"]), pin["version"], lines))
        elif not lines.startswith("#"):
            raise ValueError(f"has a line that is no package with its version: {lines[:80]}")
    return Lock(pins=tuple(pins), indexes=tuple(indexes), sources=sources)


def _logical_lines(text: str) -> Iterator[str]:
    """Yield each line with those that a backslash continues, and no indented comments."""
    held: list[str] = []
    for line in text.splitlines():
        if not line.strip() or re.match(r"\s+#", line):
            continue
        held.append(line.rstrip())
        if not line.rstrip().endswith("\\"):
            yield "\n".join(held)
            held = []
    if held:
        yield "\n".join(held).rstrip("\\ ")


def canonical(name: str) -> str:
    """Spell a package's name in the one way that compares [PEP 503]."""
    return re.sub(r"[-_.]+", "-", name).lower()


def beyond_server(model: Lock, servers: Iterable[Lock]) -> tuple[Pin, ...]:
    """List the pins that the server's own lock files do not have at the same version."""
    own = {(pin.name, pin.version) for server in servers for pin in server.pins}
    return tuple(pin for pin in model.pins if (pin.name, pin.version) not in own)


def together(model: Lock, server: Lock) -> str:
    """Write the lock file of the model's packages and those of the server that it does not name."""
    named = {pin.name for pin in model.pins}
    return render(model.indexes, [*model.pins, *(pin for pin in server.pins if pin.name not in named)])


def render(indexes: Iterable[str], pins: Iterable[Pin]) -> str:
    """Write a lock file of these, in an order that does not depend on theirs."""
    return "".join(f"{line}\n" for line in [*indexes, *sorted(pin.text for pin in pins)])


def digest_of(content: bytes) -> str:
    """SHA-256 (hex) of a requirements file, whatever its line ends."""
    return hashlib.sha256(b"\n".join(content.splitlines())).hexdigest()


def debian_packages(text: str) -> tuple[str, ...]:
    """Read packages.txt: one package a line, `name` or `name=version`; raises a ValueError with the line at fault."""
    found: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        package = line.partition("#")[0].strip()
        if package and not _DEBIAN_PACKAGE.fullmatch(package):
            raise ValueError(f"line {number}: {package!r} is no Debian package, such as libgomp1 or ffmpeg=7:7.1-1")
        if package:
            found.append(package)
    return tuple(found)
