"""What the command says: the settings there are, the report on what was written, or what was wrong."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.console import say
from tools.model.package import Package, package
from tools.model.problem import ModelError
from tools.model.settings import DESCRIPTIONS


def run(settings: Mapping[str, str]) -> int:
    """Package one model; the exit status."""
    if not settings:
        say(usage())
        return 2
    try:
        print(report(package(settings, Path.cwd())))
    except ModelError as error:
        for line in str(error).splitlines():
            say(line if line.startswith(" ") else f"error: {line}")
        return 1
    return 0


def usage() -> str:
    """What can be set."""
    width = max(map(len, DESCRIPTIONS))
    lines = [f"  {name:<{width}}  {text}" for name, text in DESCRIPTIONS.items()]
    return "make model FROM=<model file> [NAME=value ...]; docs/models.md has examples\n" + "\n".join(lines)


def report(made: Package) -> str:
    """What was written, for whoever asked for it."""
    source = made.description["source"]
    folder = made.settings.folder
    shown = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    lines = [
        f"{shown}: {made.description['name']} version {made.description['version']},"
        f" {len(made.converted.model):,} bytes of {made.converted.format}",
        f"  from      {source['file']} ({made.kind.value}), sha256 {source['sha256']}",
        *(f"  input     {_tensor(tensor)}" for tensor in made.description["inputs"]),
        *(f"  output    {_tensor(tensor)}" for tensor in made.description["outputs"]),
    ]
    if "largest_difference" in source:
        worst = source["largest_difference"]
        rows = (
            f"{source['compared_rows']} rows of {made.settings.data.name if made.settings.data else 'made-up numbers'}"
        )
        lines.append(
            f"  compared  with the original on {rows}: largest difference"
            f" {worst['absolute']:.2g} absolute, {worst['relative']:.2g} relative"
        )
    if "profile" in made.description:
        profile = made.description["profile"]
        sides = f"{len(profile['features'])} features and {len(profile['outputs'])} outputs"
        lines.append(f"  profile   {sides} on {profile['rows']} rows")
    else:
        lines.append("  profile   none, so drift is not watched: DATA=train.csv gives it one")
    lines += [f"  note      {note}" for note in made.notes]
    lines.append(f"\nserve it:  pulumi config set model {shown} && make up")
    return "\n".join(lines)


def _tensor(description: dict[str, Any]) -> str:
    names: list[str] = description.get("features") or description.get("labels") or []
    listed = f": {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}" if names else ""
    missing = ", may be missing" if description.get("nullable") else ""
    return f"{description['name']} {description['datatype']} {description['shape']}{missing}{listed}"
