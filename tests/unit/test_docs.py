"""The docs: a README that is short, links that lead somewhere, generated parts and quoted answers that are current."""

from __future__ import annotations

import json
import re
import string
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.app.harness import Server
from tools import docs

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
RESULTS = ROOT / "bench/results"
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"")
GITHUBS_OWN = "../../actions/"
"""Paths of the repository's pages on GitHub, which are no files: where it will be hosted is not known here."""


def links(page: Path) -> Iterator[str]:
    text = re.sub(r"`[^`\n]*`(?!\])", "", FENCE.sub("", page.read_text()))
    return (found[1] or found[2] for found in LINK.finditer(text))


def anchors(page: Path) -> set[str]:
    """GitHub's anchors of the page's headings: the text in lower case without punctuation, numbered when it repeats."""
    kept = str.maketrans("", "", string.punctuation.replace("-", "").replace("_", ""))
    found: list[str] = []
    for heading in re.findall(r"^#+ (.+?)\s*$", FENCE.sub("", page.read_text()), re.MULTILINE):
        shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        anchor = shown.lower().translate(kept).replace(" ", "-")
        found.append(f"{anchor}-{found.count(anchor)}" if anchor in found else anchor)
    return set(found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    broken: list[str] = []
    for link in links(page):
        url = urllib.parse.urlsplit(link)
        if url.scheme:
            good = url.scheme == "https" and "." in url.netloc
        elif link.startswith(GITHUBS_OWN):
            good = page == ROOT / "README.md"
        else:
            target = (page.parent / urllib.parse.unquote(url.path)).resolve() if url.path else page
            good = target.exists() and target.is_relative_to(ROOT)
            if good and url.fragment:
                good = target.suffix == ".md" and url.fragment in anchors(target)
        if not good:
            broken.append(link)
    assert broken == []


def test_a_link_to_nothing_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A `b`, [c](d.md)!\n\n[one](#a-b-c) `[code](no)` [`two`](x/y.md#z)\n```\n[fenced](no)\n# no\n```\n## A b c\n"
    )
    assert list(links(page)) == ["d.md", "#a-b-c", "x/y.md#z"]
    assert anchors(page) == {"a-b-c", "a-b-c-1"}


def test_every_page_is_in_the_index() -> None:
    listed = {(ROOT / "docs" / link).resolve() for link in links(ROOT / "docs/README.md")}
    assert {page for page in (ROOT / "docs").glob("*.md") if page.name != "README.md"} <= listed


def test_the_readme_is_read_to_its_end() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    assert "not yet been run against an AWS account" in "".join(text.splitlines(keepends=True)[:12])


def test_the_readme_shows_the_real_answer() -> None:
    text = (ROOT / "README.md").read_text()
    asked = re.search(r"^curl http://<endpoint>(\S+) -d '(.+)'$", text, re.MULTILINE)
    shown = re.search(r"^```json\n(.+?)^```$", text, re.MULTILINE | re.DOTALL)
    assert asked
    assert shown
    server = Server({})
    try:
        answer = server.post(asked[2], asked[1]).json()
    finally:
        server.stop()
    expected = json.loads(shown[1])
    expected["prediction"]["probabilities"] = pytest.approx(expected["prediction"]["probabilities"], abs=1e-5)
    assert answer == expected


def test_generated_parts_are_current(capsys: pytest.CaptureFixture[str]) -> None:
    assert docs.main(["--check"]) == 0, capsys.readouterr().err


def test_only_the_named_part_of_a_page_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    begin, end = "<!-- b: written by `make docs` -->", "<!-- end of b -->"
    page = tmp_path / "page.md"
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    monkeypatch.setattr(docs, "SECTIONS", (docs.Section("page.md", "b", lambda: "new\n"),))
    assert docs.main(["--check"]) == 1
    assert docs.main([]) == 0
    assert page.read_text() == f"before\n{begin}\n\nnew\n\n{end}\nafter\n"
    assert docs.main(["--check"]) == 0


@pytest.mark.parametrize("results", ["stack", "serving", "cluster"])
def test_the_figures_are_those_that_were_kept(results: str) -> None:
    rows = dict(re.findall(r"^\| (.+?) \| ([\d.]+) \S+ \|", (ROOT / "docs/benchmarks.md").read_text(), re.MULTILINE))
    for each in json.loads((RESULTS / f"{results}.json").read_text())["results"]:
        assert float(rows[each["name"]]) == pytest.approx(each["median"], abs=0.011)


@pytest.mark.parametrize("section", ["figures", "serving", "profile"])
def test_make_bench_finds_its_sections(section: str) -> None:
    page = (ROOT / "docs/benchmarks.md").read_text()
    assert page.index(f"<!-- {section}: written by `make bench` -->\n") < page.index(f"<!-- end of {section} -->\n")


@pytest.mark.parametrize("name", ["docs-light.png", "docs-dark.png", "stack-light.svg", "stack-dark.svg"])
def test_pictures_are_small(name: str) -> None:
    assert 1000 < (ROOT / "docs/images" / name).stat().st_size < 200_000
