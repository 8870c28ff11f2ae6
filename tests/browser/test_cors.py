"""Pages of other origins, judged by a real browser: its own preflights, and what it lets a page read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.app.harness import SETOSA, Server
from tests.browser.conftest import StartServer
from tests.browser.driver import Browser

KEY = "0123456789abcdef"
PREDICT = """
    const [url, key, input] = arguments;
    const headers = {
      "authorization": `Bearer ${key}`, "content-type": "application/json",
      "x-request-id": "mine", "x-request-timeout-ms": "5000",
    };
    return fetch(url, {method: "POST", headers, body: JSON.stringify({input})}).then(
      async (answer) => [answer.status, answer.headers.get("x-request-id"), await answer.json()],
      (error) => String(error),
    );
"""


def predict(browser: Browser, page: Server, api: Server, key: str, values: list[float]) -> Any:
    """What a page of `page`'s origin reads of an answer of `api`."""
    browser.open(f"{page.url}/v2")
    return browser.run(PREDICT, f"{api.url}/predict", key, values)


@pytest.mark.parametrize("listed", [True, False])
def test_a_page_reads_the_answers_if_its_origin_is_listed(
    browser: Browser, start_server: StartServer, tmp_path: Path, listed: bool
) -> None:
    key = tmp_path / "key"
    key.write_text(KEY)
    page = start_server()
    api = start_server(API_KEY_FILE=str(key), CORS_ORIGINS=page.url if listed else "https://app.example.com")
    answers = [predict(browser, page, api, *given) for given in ((KEY, SETOSA), ("wrong", SETOSA), (KEY, SETOSA[:1]))]
    if listed:
        assert [answer[:2] for answer in answers] == [[200, "mine"], [401, "mine"], [422, "mine"]]
        assert answers[0][2]["prediction"]["species"] == "setosa"
    else:
        assert answers == ["TypeError: Failed to fetch"] * 3
