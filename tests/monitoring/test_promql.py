"""The queries of docs/monitoring.md and the rules of docs/alerts.yaml, run by Prometheus's own engine.

What they have to give is computed here, from the counts that the replicas are said to have.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tools import debian

DOCS = Path(__file__).resolve().parents[2] / "docs"
RULES = DOCS / "alerts.yaml"
PACKAGES = {"promtool": "prometheus"}
QUERIES: dict[str, str] = dict(
    re.findall(r"^### (.+?)\n\n```promql\n(.+?)```$", (DOCS / "monitoring.md").read_text(), re.DOTALL | re.MULTILINE)
)
FLOOR = 0.0001
DIGITS = 1e-6

REFERENCE: dict[str, dict[str, float]] = {
    "age": {"0": 0.25, "1": 0.25, "2": 0.5, "3": 0},
    "city": {"Aix": 0.5, "Bonn": 0.5, "other": 0},
}
SIDES = {"age": "feature", "city": "feature", "buys": "output"}
OUTPUT_REFERENCE = {"no": 0.9, "yes": 0.1}
FIRST = {"age": {"0": 4, "1": 12, "2": 20, "3": 0}, "city": {"Aix": 30, "Bonn": 0, "other": 6}}
"""What the first replica counts a minute."""
SECOND = {"age": {"0": 0, "1": 20, "2": 5, "3": 3}, "city": {"Aix": 4, "Bonn": 22, "other": 2}}
FIRST_OUTPUT = {"no": 35, "yes": 2}
SECOND_OUTPUT = {"no": 24, "yes": 4}
UNUSUAL = {("missing", "age"): 3, ("nan", "age"): 1, ("out_of_range", "age"): 4, ("unseen", "city"): 6}
"""Unusual values that each of the two counts a minute."""
SECONDS_BUCKETS = {"0.01": 50, "0.1": 90, "1.0": 98, "+Inf": 100}
REQUESTS = {("/predict", "200"): 90, ("/v2/models/m/infer", "429"): 6, ("/predict", "503"): 4, ("/metrics", "200"): 4}


@pytest.fixture(scope="module")
def promtool() -> list[str]:
    """How to start it."""
    try:
        if reason := debian.unavailable(PACKAGES):
            pytest.skip(reason)
        environment = debian.environment(PACKAGES)
    except debian.PackagesError as error:
        pytest.skip(f"no promtool: {error}")
    return ["env", *(f"{name}={value}" for name, value in environment.items()), "promtool"]


def series(metric: str, labels: Mapping[str, str], *, a_minute: float = 0, start: float = 0) -> dict[str, str]:
    """Two hours of one series of a replica, as promtool takes them."""
    texts = ", ".join(f"{name}={json.dumps(value)}" for name, value in labels.items())
    return {"series": f"{metric}{{{texts}}}", "values": f"{start}+{a_minute}x120"}


def replica(
    instance: str, version: str, bins: Mapping[str, Mapping[str, float]], outputs: Mapping[str, float]
) -> list[dict[str, str]]:
    who = {"job": "m", "instance": instance}
    made = [series("model_info", who | {"name": "m", "version": version}, start=1)]
    counts = {**bins, "buys": outputs}
    for column, reference in {**REFERENCE, "buys": OUTPUT_REFERENCE}.items():
        of_column = who | {"side": SIDES[column], "column": column}
        for each, ratio in reference.items():
            labels = of_column | {"bin": each}
            made.append(series("model_values_total", labels, a_minute=counts[column][each]))
            made.append(series("model_reference_ratio", labels, start=ratio))
        for kind in ("missing", "nan", "out_of_range" if column == "age" else "unseen"):
            labels = of_column | {"kind": kind}
            made.append(series("model_unusual_values_total", labels, a_minute=UNUSUAL.get((kind, column), 0)))
    for phase, times in (("run", 1), ("total", 2)):
        for le, count in SECONDS_BUCKETS.items():
            labels = who | {"phase": phase, "le": le}
            made.append(series("model_request_duration_seconds_bucket", labels, a_minute=count * times))
    for (path, code), count in REQUESTS.items():
        made.append(series("model_requests_total", who | {"path": path, "code": code}, a_minute=count))
    made.append(series("model_batch_rows_sum", who, a_minute=70))
    made.append(series("model_batch_rows_count", who, a_minute=20))
    return made


def replicas(first: str, second: str) -> list[dict[str, str]]:
    return [*replica("a", first, FIRST, FIRST_OUTPUT), *replica("b", second, SECOND, SECOND_OUTPUT)]


INFO = series("model_info", {"job": "m", "instance": "a", "name": "m", "version": "1"}, start=1)


def psi(live: Mapping[str, float], reference: Mapping[str, float]) -> float:
    total = sum(live.values())
    pairs = [(max(live[each] / total, FLOOR), max(ratio, FLOOR)) for each, ratio in reference.items()]
    return sum((a - r) * math.log(a / r) for a, r in pairs)


def added(*counts: Mapping[str, float]) -> dict[str, float]:
    """Bin by bin."""
    return {each: sum(count[each] for count in counts) for each in counts[0]}


def expectation(query: str, samples: Mapping[str, float]) -> dict[str, Any]:
    """That the query gives these after two hours, to six digits: promtool compares exactly."""
    per_unit = 1 / DIGITS
    return {
        "expr": f"round({query}, {DIGITS})",
        "eval_time": "2h",
        "exp_samples": [
            {"labels": labels, "value": math.floor(value * per_unit + 0.5) / per_unit}
            for labels, value in samples.items()
        ],
    }


def labels(**given: str) -> str:
    return "{" + ", ".join(f'{name}="{value}"' for name, value in given.items()) + "}"


def recorded(metric: str, side: str, column: str, version: str = "1", **more: str) -> str:
    return metric + labels(job="m", name="m", version=version, side=side, column=column, **more)


def check(promtool: Sequence[str], folder: Path, *tests: dict[str, Any]) -> None:
    """Let promtool run tests; its report is the assertion's message."""
    file = folder / "test.json"
    file.write_text(
        json.dumps(
            {
                "rule_files": [str(RULES)],
                "evaluation_interval": "1m",
                "tests": [{"interval": "1m"} | test for test in tests],
            }
        )
    )
    done = subprocess.run([*promtool, "test", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_are_well_formed(promtool: list[str]) -> None:
    done = subprocess.run([*promtool, "check", "rules", str(RULES)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_query_gives_what_python_computes(promtool: list[str], tmp_path: Path) -> None:
    live = {feature: added(FIRST[feature], SECOND[feature]) for feature in REFERENCE}
    output = added(FIRST_OUTPUT, SECOND_OUTPUT)
    scores = {feature: psi(live[feature], REFERENCE[feature]) for feature in REFERENCE}
    sizes = {feature: 60 * sum(live[feature].values()) for feature in REFERENCE}
    all_sizes = sizes | {"buys": 60 * sum(output.values())}
    all_scores = scores | {"buys": psi(output, OUTPUT_REFERENCE)}
    values = {column: all_sizes[column] + 60 * 2 * (4 if column == "age" else 0) for column in SIDES}

    def unusual(kind: str, *columns: str) -> dict[str, float]:
        return {
            labels(job="m", name="m", version="1", side=SIDES[column], column=column, kind=kind): (
                60 * 2 * UNUSUAL.get((kind, column), 0) / values[column]
            )
            for column in columns
        }

    def by_column(figures: Mapping[str, float]) -> dict[str, float]:
        return {recorded("", SIDES[column], column): figure for column, figure in figures.items()}

    phases = {labels(job="m", phase=phase): 1.0 for phase in ("run", "total")}
    expected: dict[str, dict[str, float]] = {
        "PSI of each feature over all replicas": {labels(column=name): score for name, score in scores.items()},
        "Its sample size": {labels(column=name): size for name, size in sizes.items()},
        "PSI by version, from the rules": by_column(all_scores),
        "Its sample size by version, from the rules": by_column(all_sizes),
        "Missing": unusual("missing", *SIDES),
        "NaN or infinite": unusual("nan", *SIDES),
        "Out of the training data's range": unusual("out_of_range", "age"),
        "Categories not seen in training": unusual("unseen", "city", "buys"),
        "Latency: the 99th percentile by phase": phases,
        "Latency: the median": {labels(job="m"): 0.01},
        "Predictions a second": {labels(job="m"): 2 * 100 / 60},
        "Share turned away with 429": {labels(job="m"): 0.06},
        "Share that failed": {labels(job="m"): 0.04},
        "Rows a run of the model": {labels(job="m"): 3.5},
    }
    assert QUERIES.keys() == expected.keys()
    queries = [expectation(QUERIES[name], samples) for name, samples in expected.items()]
    check(promtool, tmp_path, {"input_series": replicas("1", "1"), "promql_expr_test": queries})


def test_versions_are_not_mixed(promtool: list[str], tmp_path: Path) -> None:
    expected = {
        recorded("", "feature", feature, version): psi(counts[feature], REFERENCE[feature])
        for version, counts in (("1", FIRST), ("2", SECOND))
        for feature in REFERENCE
    }
    queries = [expectation('model:psi:1h{side="feature"}', expected)]
    check(promtool, tmp_path, {"input_series": replicas("1", "2"), "promql_expr_test": queries})


def test_silence_has_no_score(promtool: list[str], tmp_path: Path) -> None:
    nothing = {feature: dict.fromkeys(reference, 0.0) for feature, reference in REFERENCE.items()}
    idle = [each for each in replica("a", "1", nothing, dict.fromkeys(OUTPUT_REFERENCE, 0)) if "bin=" in each["series"]]
    queries = [expectation(each, {}) for each in ("model:psi:1h", QUERIES["PSI of each feature over all replicas"])]
    check(promtool, tmp_path, {"input_series": [*idle, INFO], "promql_expr_test": queries})


def test_each_alert_fires_when_it_should(promtool: list[str], tmp_path: Path) -> None:
    def drifted(column: str) -> dict[str, Any]:
        score = psi(added(FIRST[column], SECOND[column]), REFERENCE[column])
        text = f"PSI over the last hour is {score:.2f}; above 0.25 live values are not like the training data."
        who = {"job": "m", "name": "m", "version": "1", "side": "feature", "column": column}
        return {
            "exp_labels": who | {"severity": "warning"},
            "exp_annotations": {"summary": f"feature {column} of m 1 has drifted", "description": text},
        }

    drifts = [drifted("age"), drifted("city")]
    firing = 'count by (alertname, column, kind) (ALERTS{alertstate="firing"})'
    unusual = {"alertname": "ModelUnusualValues"}
    check(
        promtool,
        tmp_path,
        {
            "input_series": replicas("1", "1"),
            "alert_rule_test": [{"eval_time": "2h", "alertname": "ModelDrift", "exp_alerts": drifts}],
            "promql_expr_test": [
                expectation(
                    firing,
                    {
                        labels(alertname="ModelDrift", column="age"): 1,
                        labels(alertname="ModelDrift", column="city"): 1,
                        labels(**unusual, column="age", kind="missing"): 1,
                        labels(**unusual, column="age", kind="out_of_range"): 1,
                        labels(**unusual, column="city", kind="unseen"): 1,
                        labels(alertname="ModelOverloaded"): 1,
                        labels(alertname="ModelErrors"): 1,
                    },
                )
            ],
        },
        {
            "input_series": [
                INFO,
                *(
                    series(
                        "model_request_duration_seconds_bucket",
                        {"job": "m", "phase": "total", "le": le},
                        a_minute=count,
                    )
                    for le, count in {"1.0": 50, "2.5": 100, "+Inf": 100}.items()
                ),
            ],
            "promql_expr_test": [expectation(firing, {labels(alertname="ModelSlow"): 1})],
        },
        {"promql_expr_test": [expectation(firing, {labels(alertname="ModelAbsent"): 1})]},
    )
