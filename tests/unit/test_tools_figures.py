"""How figures are judged and written down."""

import json
from pathlib import Path

import pytest

from tools.figures import Result, keep, table, write_section


@pytest.mark.parametrize(
    ("most", "least", "met"),
    [(None, None, True), (2, None, True), (1.9, None, False), (None, 2, True), (None, 2.1, False), (3, 2.1, False)],
)
def test_the_median_is_judged_by_both_bounds(most: float | None, least: float | None, met: bool) -> None:
    result = Result("figure", [1, 2, 9], "s", most=most, least=least)
    assert result.met() == met
    assert ("**MISSED**" in result.row()) != met


def test_a_table_says_plainly_what_is_met_and_what_is_not() -> None:
    shown = table([Result("a", [1], "s", most=2), Result("b", [1], "times", least=2), Result("c", [1], "s")])
    assert shown.splitlines()[2:] == [
        "| a | 1.00 s | 1.00 to 1.00 | 1 | at most 2 s: met |",
        "| b | 1.00 times | 1.00 to 1.00 | 1 | at least 2 times: **MISSED** |",
        "| c | 1.00 s | 1.00 to 1.00 | 1 |  |",
    ]


def test_figures_are_kept_with_the_machine(tmp_path: Path) -> None:
    keep(tmp_path / "kept.json", [Result("a", [1, 3], "s")], more="more")
    kept = json.loads((tmp_path / "kept.json").read_text())
    assert "Python" in kept["machine"]
    assert kept["more"] == "more"
    assert kept["results"][0] | {"median": 2, "runs": [1, 3], "most": None, "least": None} == kept["results"][0]


def test_only_the_named_section_of_the_page_is_written(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    begin, end = "<!-- b: written by `make bench` -->", "<!-- end of b -->"
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    write_section(page, "b", "new\n")
    assert page.read_text() == f"before\n{begin}\n\nnew\n\n{end}\nafter\n"
    with pytest.raises(ValueError, match="has no lines <!-- c"):
        write_section(page, "c", "new")
