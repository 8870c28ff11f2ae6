"""The serving benchmark's parts that need no server."""

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from bench.serving import cores, load, plot, report
from bench.serving.peers import CONSTANT, OURS, PEERS, ROOT
from bench.serving.runs import BARE, HEAVY_MANY, MEMORY, START, TINY_MANY, TINY_ONE, Measured


def measured(**ours: float) -> Measured:
    """A round in which every peer has 10 of everything, and ours what is given."""
    what = (TINY_MANY.rate, TINY_ONE.p50, HEAVY_MANY.rate, START, MEMORY)
    values = {peer.name: dict.fromkeys(what, 10.0) for peer in PEERS} | {BARE: {HEAVY_MANY.rate: 10.0}}
    values[OURS] = {name: ours.get(name.partition(",")[0], 10.0) for name in what}
    return Measured(cores.Cores(0, 1, siblings=False), rounds=[values])


@pytest.mark.parametrize(
    ("allowed", "siblings", "chosen"),
    [
        ({0, 1}, {0: "0", 1: "1"}, (0, 1, False)),
        ({0, 1}, {0: "0-1", 1: "0-1"}, (0, 1, True)),
        ({2, 3, 4}, {2: "2-3\n"}, (2, 4, False)),
        ({0, 1, 8}, {0: "0,8"}, (0, 1, False)),
        ({5, 9}, {}, (5, 9, False)),
    ],
)
def test_server_and_load_get_a_core_each(
    tmp_path: Path, allowed: set[int], siblings: dict[int, str], chosen: tuple[int, int, bool]
) -> None:
    for core, text in siblings.items():
        folder = tmp_path / f"cpu{core}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(text)
    assert cores.choose(allowed, tmp_path) == cores.Cores(*chosen)


def test_one_core_is_too_few(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="a core each"):
        cores.choose({3}, tmp_path)


def test_an_error_is_no_answer() -> None:
    line = (
        '{"requests": 300, "microseconds": 2000000, "p50": 1500, "p99": 2500, "max": 9000, '
        '"errors": {"status": 100, "connect": 0, "read": 2, "write": 0, "timeout": 0}}'
    )
    seen = load.parse(f"Running 2s test\n\n{line}\n")
    assert seen.per_second == 100
    assert (seen.p50, seen.p99, seen.longest) == (1.5, 2.5, 9)
    assert seen.errors == {"status": 100, "read": 2}


def test_ratios_are_taken_within_a_round() -> None:
    both = measured(tiny=100)
    both.rounds += measured(tiny=60).rounds
    both.rounds[1]["fastapi"][TINY_MANY.rate] = 20.0
    ratio = next(result for result in report.results(both) if "FastAPI's" in result.name and "32" in result.name)
    assert ratio.values == [10, 3]


def test_ours_is_judged_by_the_best_peer() -> None:
    results = {result.name: result for result in report.results(measured(heavy=11, start=9, memory=11))}
    assert results["heavy model, 32 connections: rows/s, ours to the best peer's"].values == [1.1]
    assert results["start to first answer, ours to the quickest peer's"].met()
    assert not results["memory at rest, ours to the smallest peer's"].met()


def test_a_server_that_did_not_run_is_said_to() -> None:
    some = measured()
    del some.rounds[0]["mosec"]
    some.failures["mosec"] = "its last words"
    shown = report.text(some, report.results(some))
    assert "**mosec did not run:**" in shown
    assert "its last words" in shown
    assert report.details(some)["servers"]["mosec"]["failure"] == "its last words"


def test_the_picture_has_a_bar_for_each_server() -> None:
    root = ET.fromstring(plot.svg(measured(tiny=50)))  # noqa: S314 - our own
    panels = [element for element in root if element.tag.endswith("}g")]
    bars = [sum(element.tag.endswith("}rect") for element in panel) for panel in panels]
    assert bars == [len(PEERS), len(PEERS), len(PEERS) - 1, len(PEERS) - 1]


def test_all_servers_run_the_same_onnx_runtime() -> None:
    assert len({peer.versions()["onnxruntime"] for peer in PEERS}) == 1


def test_every_peer_is_promised_something() -> None:
    for peer in PEERS:
        if peer.name not in (OURS, CONSTANT):
            assert any(f"ours to {peer.title}'s" in claim.name for claim in report.CLAIMS)
            assert (ROOT / peer.lock).is_file()
