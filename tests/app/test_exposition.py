"""Formats of /metrics: what is answered is what was asked for, and is what it says it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from server.telemetry.exposition import choose
from tests.app.harness import SETOSA, Server

Parser = Callable[[str], Iterable[Metric]]

OLD = "text/plain; version=0.0.4; charset=utf-8"
NEW = "text/plain; version=1.0.0; charset=utf-8; escaping=underscores"
OPEN = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PARSERS: dict[str, Parser] = {OLD: parse_text, NEW: parse_text, OPEN: parse_openmetrics}

PROMETHEUS_2 = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,"
PROMETHEUS_2 += "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
PROMETHEUS_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
PROMETHEUS_3 += "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
PROMETHEUS_3 += "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", OLD),
        ("*/*", OLD),
        (BROWSER, OLD),
        (PROMETHEUS_2, OPEN),
        (PROMETHEUS_3, OPEN),
        ("text/plain", OLD),
        ("TEXT/PLAIN;VERSION=0.0.4", OLD),
        ("text/*", OLD),
        ("text/plain;version=1.0.0", NEW),
        ('text/plain; version="1.0.0"; q=0.9, text/plain; version=0.0.4; q=0.8', NEW),
        ("application/openmetrics-text", OPEN),
        ("application/*", OPEN),
        ("application/openmetrics-text; version=1.0.0, text/plain", OPEN),
        ("text/plain, application/openmetrics-text; version=1.0.0", OLD),
        ("application/openmetrics-text;q=0.1, text/plain;q=0.2", OLD),
        ("application/openmetrics-text;q=0, */*", OLD),
        ("text/plain;q=0, */*;q=0.1", OPEN),
        ("application/openmetrics-text;version=0.0.1", OLD),
        ("application/openmetrics-text;version=9.9.9", OLD),
        ("application/openmetrics-text;version=;q=high", OLD),
        ("application/openmetrics-text;q=nan, text/plain;q=inf", OLD),
        ("application/json", OLD),
        (";,;=,q=1;;", OLD),
        ("a/b," * 5_000 + "application/openmetrics-text", OLD),
    ],
)
def test_the_format_is_the_one_that_is_wanted_most(accept: str, content_type: str) -> None:
    assert choose(accept).content_type == content_type


def scrape(server: Server, accept: str) -> tuple[str, str]:
    response = server.get("/metrics", headers={"accept": accept})
    assert (response.status_code, response.headers["vary"]) == (200, "accept")
    return response.headers["content-type"], response.text


def model_samples(families: Iterable[Metric]) -> dict[Any, float]:
    """What the model has counted; the process's own figures change from one scrape to the next."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
        if sample.name.startswith("model_") and ("path", "/metrics") not in sample.labels.items()
    }


def test_what_is_answered_is_valid_as_what_it_says_it_is_and_the_same_in_every_format(iris: Server) -> None:
    assert iris.post(f'{{"input": {SETOSA}}}').status_code == 200
    seen: list[dict[Any, float]] = []
    for accept, expected in (
        ("text/plain;version=0.0.4", OLD),
        ("text/plain;version=1.0.0", NEW),
        (PROMETHEUS_3, OPEN),
    ):
        content_type, text = scrape(iris, accept)
        assert content_type == expected
        assert text.endswith("# EOF\n") == (expected == OPEN)
        families = list(PARSERS[content_type](text))
        assert {"process_cpu_seconds", "python_info"} < {family.name for family in families}
        seen.append(model_samples(families))
    assert seen[0] == seen[1] == seen[2]
    assert sum(value for (name, *_), value in seen[0].items() if name == "model_values_total") >= len(SETOSA)
