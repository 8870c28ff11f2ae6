"""The command's output: its help, a report on what was written, or the mistakes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tools.console import say
from tools.model.errors import ModelError
from tools.model.package import Package, package
from tools.model.settings import parse, parser, serve_command

_MAX_NAMES = 8


def run(arguments: list[str]) -> int:
    """Package one model; the exit status."""
    if not arguments:
        parser(Path.cwd()).print_help(sys.stderr)
        return 2
    try:
        print(report(package(parse(arguments, Path.cwd()))))
    except ModelError as error:
        for mistake in error.mistakes:
            say(f"error: {mistake}")
        return 1
    return 0


def report(made: Package) -> str:
    """Describe what was written."""
    source = made.manifest["source"]
    folder = made.settings.folder
    shown = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    lines = [
        f"{shown}: {made.manifest['name']} version {made.manifest['version']},"
        f" {len(made.conversion.model):,} bytes of {made.conversion.format}",
        f"  from      {source['file']} ({source['format']}), sha256 {source['sha256']}",
        *(f"  input     {_tensor(tensor)}" for tensor in made.manifest["inputs"]),
        *(f"  output    {_tensor(tensor)}" for tensor in made.manifest["outputs"]),
    ]
    if "largest_difference" in source:
        worst = source["largest_difference"]
        data = made.settings.data.name if made.settings.data else "made-up numbers"
        lines.append(
            f"  compared  with the original on {source['compared_rows']} rows of {data}: largest difference"
            f" {worst['absolute']:.2g} absolute, {worst['relative']:.2g} relative"
        )
    if "profile" in made.manifest:
        profile = made.manifest["profile"]
        sides = f"{len(profile['features'])} features and {len(profile['outputs'])} outputs"
        lines.append(f"  profile   {sides} on {profile['rows']} rows")
    else:
        lines.append("  profile   none, so drift is not watched: --data train.csv gives it one")
    lines += [f"  note      {note}" for note in made.notes]
    lines.append(f"\nserve it:  {serve_command(shown)}")
    return "\n".join(lines)


def _tensor(description: dict[str, Any]) -> str:
    names: list[str] = description.get("features") or description.get("labels") or []
    listed = f": {', '.join(names[:_MAX_NAMES])}{', ...' if len(names) > _MAX_NAMES else ''}" if names else ""
    missing = ", may be missing" if description.get("nullable") else ""
    return f"{description['name']} {description['datatype']} {description['shape']}{missing}{listed}"
