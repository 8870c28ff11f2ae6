"""Generate the tables of docs/: `python -m tools.docs` writes them, `--check` exits 1 and names what is not current.

A page's generated part stands between two comments that name it; the prose around it is written by hand.
"""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from infra.config.keys import Key, catalog
from infra.config.schema import Target
from server import settings
from tools import figures

ROOT = Path(__file__).parents[1]
USED_BY: dict[frozenset[Target], str] = {
    frozenset({"local", "kubernetes", "eks"}): "Every target",
    frozenset({"local"}): "Target local",
    frozenset({"kubernetes", "eks"}): "Targets kubernetes and eks",
    frozenset({"kubernetes"}): "Target kubernetes",
    frozenset({"eks"}): "Target eks",
}
"""The headings of the config page, in its order."""


@dataclass(frozen=True)
class Section:
    """One generated part of a page."""

    page: str
    name: str
    make: Callable[[], str]


def config_keys() -> str:
    """Every config key, grouped by the targets that use it."""
    groups: dict[str, list[tuple[str, ...]]] = {title: [] for title in USED_BY.values()}
    for key in catalog(ROOT / "Pulumi.yaml").values():
        groups[USED_BY[key.targets]].append(_config_row(key))
    head = ("key", "default", "what it is", "must be")
    return "\n".join(f"## {title}\n\n{table(head, rows)}" for title, rows in groups.items())


def _config_row(key: Key) -> tuple[str, ...]:
    is_list = isinstance(key.default, tuple)
    default = ", ".join(cast("tuple[str, ...]", key.default)) if is_list else str(key.default)
    default = {"None": "", "{}": "", "True": "true", "False": "false"}.get(default, default)
    rule = f"secret: {key.rule.text}" if key.secret else key.rule.text
    return f"`{key.name}`", _code(default), key.description, rule


def server_variables() -> str:
    """Every environment variable of the server."""
    rows = [
        (f"`{each.name}`", each.type, each.unit, _code(each.default), each.description, each.rule)
        for each in settings.catalog()
    ]
    return table(("variable", "type", "unit", "default", "what it is", "must be"), rows)


def cluster_figures() -> str:
    """Figures of the last whole `make e2e`."""
    kept: dict[str, Any] = json.loads((ROOT / "bench/results/cluster.json").read_text())
    results = [figures.Result(each["name"], each["runs"], each["unit"], most=each["most"]) for each in kept["results"]]
    return f"On {kept['machine']}.\n\n{figures.table(results)}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown; a cell's vertical bars are escaped."""
    lines = [" | ".join(cell.replace("|", "\\|") for cell in line) for line in (head, ["---"] * len(head), *rows)]
    return "".join(f"| {line} |\n" for line in lines)


def _code(text: str) -> str:
    return f"`{text}`" if text and "`" not in text else text


SECTIONS = (
    Section("docs/configuration.md", "config keys", config_keys),
    Section("docs/server-settings.md", "server settings", server_variables),
    Section("docs/benchmarks.md", "cluster", cluster_figures),
)


def main(arguments: list[str]) -> int:
    """Write every generated part, or check it; the exit status."""
    stale = False
    for section in SECTIONS:
        page = ROOT / section.page
        old = page.read_text()
        new = figures.with_section(old, section.name, section.make(), command="make docs")
        if arguments != ["--check"]:
            page.write_text(new)
        elif new != old:
            print(f"{section.page}: {section.name} not current; run `make docs`", file=sys.stderr)
            stale = True
    return int(stale)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
