"""Pulumi's own Kubernetes plugin, built once a user from its Go module, for machines that cannot download it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from tools import go
from tools.cache import default_cache, digest, machine, once

PROGRAM = "pulumi-resource-kubernetes"

_HERE = Path(__file__).parent
_MODULE = "github.com/pulumi/pulumi-kubernetes/provider/v4"
_VERSION = "4.25.0"
"""The release whose commit go.mod pins: a module below a repository's root carries no tag of its own."""
_SOURCES = ("go.mod", "go.sum", "main.go")


def built() -> Path:
    """Return the plugin's program, from the cache or built into it now. Raises go.GoError."""
    sources = digest([_HERE / name for name in _SOURCES])
    return once(default_cache() / f"{PROGRAM}-{_VERSION}-{machine()}-{sources}", _build) / PROGRAM


def _build(into: Path) -> None:
    with TemporaryDirectory() as temporary:
        source = Path(temporary)
        for name in _SOURCES:
            shutil.copy(_HERE / name, source)
        embedded = go.source_of(source, _MODULE) / "cmd" / PROGRAM
        schema = json.loads((embedded / "schema.json").read_text())
        (source / "schema.json").write_text(json.dumps({**schema, "version": _VERSION}))
        shutil.copyfile(embedded / "terraform-mapping.json", source / "terraform-mapping.json")
        version = f"-X {_MODULE}/pkg/version.Version={_VERSION}"
        go.build(source, ".", into, name="Pulumi's Kubernetes plugin", linker_flags=version)
