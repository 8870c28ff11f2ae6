"""The command's output: its help, a report on what was written, or the mistakes."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

from tools.console import say
from tools.model.errors import ModelError
from tools.model.folder import EXAMPLE_FILE, MAX_INLINE_BYTES
from tools.model.package import ROOT, Package, package
from tools.model.predictor_package import Predictor
from tools.model.settings import PLACEHOLDERS, command, make_command, parse, parser, serve_command

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
        if error.needs:
            say(_command(arguments, error.needs))
        return 1
    return 0


def _command(arguments: list[str], needs: dict[str, str]) -> str:
    """Write the command to paste, in both spellings where both work here."""
    lines = [f"with all of that:  {command(arguments, needs)}"]
    if Path.cwd() == ROOT:
        lines.insert(0, f"with all of that:  {make_command(arguments, needs)}")
        lines[1] = f"or, the same:      {command(arguments, needs)}"
    unknown = [value for name, value in needs.items() if PLACEHOLDERS.get(name) == value]
    if unknown:
        lines.append(f"({' and '.join(unknown)} {'stand' if len(unknown) > 1 else 'stands'} for your own)")
    return "\n".join(lines)


def report(made: Package) -> str:
    """Describe what was written."""
    source = made.manifest["source"]
    folder = made.settings.folder
    shown = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    lines = [
        f"{shown}: {made.manifest['name']} version {made.manifest['version']},"
        f" {made.bytes:,} bytes of {made.conversion.format}",
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
    if made.predictor:
        lines.append(f"  takes     {_cost(made.predictor)}")
    if "profile" in made.manifest:
        profile = made.manifest["profile"]
        sides = f"{len(profile['features'])} features and {len(profile['outputs'])} outputs"
        lines.append(f"  profile   {sides} on {profile['rows']} rows")
    else:
        lines.append("  profile   none, so drift is not watched: --data train.csv gives it one")
    lines += [f"  note      {note}" for note in made.notes]
    lines.append(f"\nserve it:  {serve_command(shown)}")
    lines.append(f"ask it:    {_curl(made, shown)}")
    return "\n".join(lines)


def _cost(predictor: Predictor) -> str:
    megabytes = predictor.dependencies_bytes / 1e6
    packages = f"{megabytes:,.0f} MB of packages besides the server's" if megabytes >= 1 else "no large package"
    return f"{predictor.seconds_per_row * 1000:.3g} ms for a row by itself, {packages}"


def _curl(made: Package, shown: Path) -> str:
    """Write the request of the example, from a file where it is long."""
    example = json.dumps(made.manifest["example"], ensure_ascii=False)
    stream = "-N -H 'Accept: text/event-stream' " if made.manifest.get("predictor", {}).get("streams") else ""
    short = len(example.encode()) <= MAX_INLINE_BYTES
    body = shlex.quote(example) if short else shlex.quote(f"@{shown / EXAMPLE_FILE}")
    return f'curl {stream}"$(make -s output)/predict" -d {body}'


def _tensor(description: dict[str, Any]) -> str:
    names: list[str] = description.get("features") or description.get("labels") or []
    listed = f": {', '.join(names[:_MAX_NAMES])}{', ...' if len(names) > _MAX_NAMES else ''}" if names else ""
    missing = ", may be missing" if description.get("nullable") else ""
    return f"{description['name']} {description['datatype']} {description['shape']}{missing}{listed}"
