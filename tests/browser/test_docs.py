"""The page at /docs, as somebody sees it who opens it: judged in a real browser on the real server."""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from tests.app.harness import IRIS, SETOSA, Server, helper, write_model
from tests.browser.conftest import StartServer
from tests.browser.driver import Browser

KEY = "0123456789abcdef"
CHANCE = (9 + 2 * math.sqrt(2 * 9)) / 100
"""What PSI of ten bins on a hundred values stays below without any drift, nearly always."""
MARKUP = "<img src=x onerror=document.title='run'>"
FEATURES: list[str] = IRIS["inputs"][0]["features"]


def open_docs(browser: Browser, server: Server) -> None:
    browser.open(f"{server.url}/docs")
    browser.until("document.querySelector('#signature tbody tr')")


def drift_row(browser: Browser, column: str) -> list[str]:
    """The texts of the column's row: side, name, plot, PSI, sample, what was counted apart."""
    row = "[...document.querySelectorAll('#drift tbody tr')].find((row) => row.cells[1].innerText === arguments[0])"
    return browser.run(f"return [...{row}.cells].map((cell) => cell.innerText)", column)


def psi(live: Sequence[float], reference: Sequence[float]) -> float:
    shares = [[max(count / sum(counts), 1e-4) for count in counts] for counts in (live, reference)]
    return sum((a - r) * math.log(a / r) for a, r in zip(*shares, strict=True))


def assert_quiet(browser: Browser, server: Server, refused: int = 0) -> None:
    """Nothing on the console but the refused requests, which browsers always note, and no request to anybody else."""
    messages = browser.console()
    network = [message for message in messages if message["source"] == "network"]
    assert len(network) == refused, messages
    assert messages == network
    others = [url for url in browser.requested() if not url.startswith((f"{server.url}/", "data:", "about:"))]
    assert others == []


def test_the_model_and_its_signature_are_shown(browser: Browser, start_server: StartServer) -> None:
    server = start_server()
    open_docs(browser, server)
    assert browser.text("h1") == "iris version 1"
    signature = browser.text("#signature")
    for tensor in [*IRIS["inputs"], *IRIS["outputs"]]:
        assert f"{tensor['name']} {tensor['datatype']} {json.dumps(tensor['shape'])}" in signature
    assert ", ".join(FEATURES) in signature
    assert_quiet(browser, server)


def test_the_example_is_answered(browser: Browser, start_server: StartServer) -> None:
    server = start_server()
    open_docs(browser, server)
    assert json.loads(browser.run("return document.querySelector('#body').value")) == IRIS["example"]
    browser.click("#send")
    browser.until("document.querySelector('#outcome').textContent === '200'")
    answer = json.loads(browser.text("#answer"))
    assert answer == server.post(json.dumps(IRIS["example"])).json()
    assert answer["prediction"]["species"] == "setosa"
    assert browser.text("#timing").endswith("ms")
    assert_quiet(browser, server)


def test_a_bad_body_shows_where_it_is_wrong(browser: Browser, start_server: StartServer) -> None:
    server = start_server()
    open_docs(browser, server)
    browser.write("#body", '{"input": [1, "two", 3]}')
    browser.click("#send")
    browser.until("document.querySelector('#outcome').textContent === '422'")
    assert browser.text("#fault").startswith("$.input[1]: ")
    assert_quiet(browser, server, refused=1)


def test_a_key_is_sent_and_not_kept(browser: Browser, start_server: StartServer, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(KEY)
    server = start_server(API_KEY_FILE=str(file))
    open_docs(browser, server)
    browser.click("#send")
    browser.until("document.querySelector('#outcome').textContent === '401'")
    browser.write("#key", KEY)
    browser.click("#send")
    browser.until("document.querySelector('#outcome').textContent === '200'")
    assert browser.run("return [localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
    open_docs(browser, server)
    assert browser.run("return document.querySelector('#key').value") == ""
    assert_quiet(browser, server, refused=1)


def test_latencies_are_plotted(browser: Browser, start_server: StartServer) -> None:
    server = start_server()
    open_docs(browser, server)
    browser.click("#repeat")
    browser.until("document.querySelectorAll('#sent svg circle').length === 20")
    assert browser.text("#sent p").startswith("20 requests, 0 failed; median ")
    browser.until("/total.* ms.* ms.* ms.*20$/ms.test(document.querySelector('#phases').innerText)")
    assert browser.run("return document.querySelector('#phases svg rect.live').getBoundingClientRect().width") > 0
    assert_quiet(browser, server)


def test_the_drift_of_each_column_is_shown(browser: Browser, start_server: StartServer) -> None:
    server = start_server()
    open_docs(browser, server)
    browser.until("document.querySelectorAll('#drift tbody tr').length >= 4")
    assert drift_row(browser, FEATURES[0])[3] == "too few samples"

    rows = [[SETOSA[0] + index / 50 + 0.005, SETOSA[1], 40] for index in range(100)]
    with httpx.Client(trust_env=False) as client:
        answers = [client.post(f"{server.url}/predict", json={"input": row}).json() for row in rows]
    browser.until("[...document.querySelectorAll('#drift tbody tr')].every((row) => row.cells[4].innerText === '100')")

    for index, name in enumerate(FEATURES):
        profile: dict[str, Any] = IRIS["profile"]["features"][name]
        bins = Counter(bisect_left(profile["edges"], row[index]) for row in rows)
        expected = psi([bins[each] for each in range(len(profile["counts"]))], profile["counts"])
        verdict = "steady" if expected <= CHANCE else "shifted" if expected <= 0.25 else "drifted"
        assert drift_row(browser, name)[3] == f"{expected:.3f} {verdict}"
    assert drift_row(browser, "petal_width_cm")[5] == "out of range 100 (100.0 %)"
    species = Counter(answer["prediction"]["species"] for answer in answers)
    reference: dict[str, int] = IRIS["profile"]["outputs"]["species"]["categories"]
    expected = psi([*(species[name] for name in reference), 0], [*reference.values(), 0])
    assert drift_row(browser, "species")[3].startswith(f"{expected:.3f} ")
    assert browser.run("return document.querySelectorAll('#drift svg rect.reference').length") > 0
    assert_quiet(browser, server)


def test_a_name_with_markup_is_text(browser: Browser, start_server: StartServer, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", [helper.make_node("Identity", ["x"], ["y"])], example=[1.0], name=MARKUP)
    server = start_server(MODEL_DIR=str(folder))
    open_docs(browser, server)
    assert browser.text("h1") == f"{MARKUP} version 1"
    browser.click("#send")
    browser.until("document.querySelector('#outcome').textContent === '200'")
    assert MARKUP in browser.text("#answer")
    assert browser.run("return document.querySelectorAll('img').length") == 0
    assert browser.run("return document.title") == f"{MARKUP} 1"
    assert browser.text("#drift-note") == "This model has no reference profile."
    assert_quiet(browser, server)
