"""The README's table of config keys, generated from Pulumi.yaml and infra/config/schema.py.

`python -m tools.config_table` rewrites the table; with `--check` it exits 1, and says so, when the README is not
current.
"""

import sys
from pathlib import Path
from typing import cast

from infra.config.keys import Key, catalog

ROOT = Path(__file__).parents[1]
BEGIN = "<!-- config table: written by `make docs` -->\n"
END = "<!-- end of config table -->\n"


def row(key: Key) -> str:
    """One line of the table."""
    is_list = isinstance(key.default, tuple)
    default = ", ".join(cast(tuple[str, ...], key.default)) if is_list else str(key.default)
    default = {"None": "", "{}": "", "True": "true", "False": "false"}.get(default, default)
    targets = ", ".join(sorted(key.targets, key=("local", "kubernetes", "eks").index))
    rule = "secret: " + key.rule.text if key.secret else key.rule.text
    shown = f"`{default}`" if default else ""
    return f"| `{key.name}` | {targets} | {shown} | {key.description} | {rule} |\n"


def table() -> str:
    """The whole table, in the order of Pulumi.yaml's groups."""
    head = "| key | targets | default | what it is | must be |\n|---|---|---|---|---|\n"
    return head + "".join(row(key) for key in catalog(ROOT / "Pulumi.yaml").values())


def with_table(readme: str) -> str:
    """`readme` with its table replaced."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + table() + END + after


def main(arguments: list[str]) -> int:
    """Rewrites the README, or checks it."""
    path = ROOT / "README.md"
    old = path.read_text()
    new = with_table(old)
    if arguments == ["--check"]:
        if old != new:
            print("README.md: the config table is not current; run `make docs`", file=sys.stderr)
            return 1
        return 0
    path.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
