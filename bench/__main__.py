"""Runs the measurements, keeps them in bench/results/ and writes the README's section from them."""

import json
import sys
from pathlib import Path

from bench import stack
from bench.report import Result, machine, section

ROOT = Path(__file__).parents[1]
BEGIN = "<!-- figures: written by `make bench` -->\n"
END = "<!-- end of figures -->\n"


def main() -> int:
    """Measure, print, keep; 1 when a figure misses its target."""
    results = stack.measure()
    text = section(machine(), results)
    print(text)
    kept = {"machine": machine(), "results": [result.as_json() for result in results]}
    (ROOT / "bench/results/stack.json").write_text(json.dumps(kept, indent=2) + "\n")
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    readme.write_text(before + BEGIN + text + END + rest.partition(END)[2])
    return 0 if all(map(Result.met, results)) else 1


if __name__ == "__main__":
    sys.exit(main())
