from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from server.errors import StartError
from server.model.manifest import Manifest, parse_manifest
from server.model.tensors import DTYPES
from server.telemetry.drift import DriftCounters

Samples = dict[tuple[str, ...], float]
"""By name, side, column, and bin or kind."""
NUMBERS = {"kind": "numeric", "min": -2, "max": 2.5, "edges": [-1, 0, 0.1, 1.5], "counts": [10, 20, 30, 30, 10]}


def categories(*names: str) -> dict[str, Any]:
    return {"kind": "categorical", "categories": {name: index + 1 for index, name in enumerate(names)}}


def tensor(name: str, datatype: str, *shape: int, **more: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(shape), **more}


def manifest(inputs: list[Any], outputs: list[Any], features: Any, of_outputs: Any, **more: Any) -> Manifest:
    profile = {"rows": 100, "features": features, "outputs": of_outputs}
    described = {"name": "m", "version": "1", "inputs": inputs, "outputs": outputs, "profile": profile, "example": {}}
    return parse_manifest(json.dumps(described | more).encode())


def one_input(datatype: str, profile: Any, **more: Any) -> Manifest:
    return manifest([tensor("x", datatype, -1, **more)], [tensor("y", "FP32", -1)], {"x": profile}, {})


def scrape(monitor: DriftCounters) -> Samples:
    registry = CollectorRegistry()
    registry.register(monitor)
    samples: Samples = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            labels = sample.labels
            key = (sample.name, labels["side"], labels["column"], labels["kind" if "kind" in labels else "bin"])
            assert key not in samples
            samples[key] = sample.value
    return samples


def after(described: Manifest, values: list[Any], dtype: Any = None) -> dict[str, float]:
    """The counters, by "bin <bin>" or what else is counted, once `values` of the input x have been seen."""
    monitor = DriftCounters(described)
    dtype = dtype or DTYPES[described.inputs[0].datatype]
    monitor.note({"x": np.array(values, dtype=dtype)}, {"y": np.zeros(len(values), np.float32)})
    return {
        f"bin {what}" if name == "model_values_total" else what: value
        for (name, *_, what), value in scrape(monitor).items()
        if value and name != "model_reference_ratio"
    }


MIXED = manifest(
    inputs=[
        tensor("measures", "FP32", -1, 3, features=["length", "ignored", "width"], nullable=True),
        tensor("pixels", "FP64", -1, 2, 2),
        tensor("sentence", "BYTES", -1),
        tensor("words", "BYTES", -1, 2),
        tensor("flag", "BOOL", -1),
        tensor("grade", "INT8", -1, 1),
        tensor("id", "UINT64", -1),
        tensor("picture", "UINT8", -1, 3, 1, 1, image={}),
        tensor("series", "FP32", -1, -1),
    ],
    outputs=[
        tensor("species", "INT64", -1, labels=["setosa", "versicolor", "virginica"]),
        tensor("probabilities", "FP16", -1, 2, labels=["no", "yes"]),
        tensor("unwatched", "FP64", -1),
    ],
    features={
        "length": NUMBERS,
        "width": NUMBERS,
        "pixels[3]": NUMBERS,
        "words[0]": categories("a", "b", "other"),
        "words[1]": categories("c", ""),
        "flag": categories("true", "false"),
        "grade": categories("-1", "2", "300", "none"),
        "id": categories(str(2**64 - 1), str(2**53 + 1)),
        "picture[0]": NUMBERS,
    },
    of_outputs={"species": categories("virginica", "setosa"), "probabilities[yes]": NUMBERS},
)


def some_rows(random: np.random.Generator, rows: int) -> tuple[dict[str, Any], dict[str, Any]]:
    def numbers(dtype: Any, *shape: int) -> Any:
        values = random.normal(size=(rows, *shape)).astype(dtype)
        edges = random.choice(np.array([-2, -1, 0, 0.1, 1.5, 2.5], dtype), values.shape)
        odd = random.choice(np.array([math.nan, math.inf, -math.inf], dtype), values.shape)
        kind = random.random(values.shape)
        return np.where(kind < 0.1, odd, np.where(kind < 0.3, edges, values))

    def texts(choices: list[str], *shape: int) -> Any:
        return random.choice(np.array(choices, dtype=object), (rows, *shape))

    inputs = {
        "measures": numbers(np.float32, 3),
        "pixels": numbers(np.float64, 2, 2),
        "sentence": texts(["a b c", "d"]),
        "words": texts(["a", "b", "c", "", "other", "é"], 2),
        "flag": random.random(rows) < 0.3,
        "grade": random.integers(-2, 4, (rows, 1), dtype=np.int8),
        "id": random.choice(np.array([2**64 - 1, 2**64 - 2, 2**53, 2**53 + 1, 0], dtype=np.uint64), rows),
        "picture": np.zeros((rows, 3, 1, 1), np.uint8),
        "series": np.zeros((rows, 1 + rows % 3), np.float32),
    }
    outputs = {
        "species": random.integers(-1, 4, rows),
        "probabilities": numbers(np.float16, 2),
        "unwatched": np.zeros(rows),
    }
    return inputs, outputs


def slowly(side: str, column: str, values: list[float] | list[str], *, nullable: bool = False) -> Samples:
    """The counters of one column, by the words of the contract."""
    assert MIXED.profile
    profiles = MIXED.profile.features if side == "feature" else MIXED.profile.outputs
    profile: Any = profiles[column]
    numeric = hasattr(profile, "edges")
    bins = [str(index) for index in range(len(profile.counts))] if numeric else {*profile.categories, "other"}
    counts: Counter[str] = Counter()
    unusual = dict.fromkeys(["missing", "nan", "out_of_range" if numeric else "unseen"], 0)
    for value in values:
        if isinstance(value, float) and not math.isfinite(value):
            unusual["missing" if nullable and math.isnan(value) else "nan"] += 1
        elif not isinstance(value, str):
            counts[str(sum(value > edge for edge in profile.edges))] += 1
            unusual["out_of_range"] += not profile.min <= value <= profile.max
        else:
            counts[value if value in profile.categories else "other"] += 1
            unusual["unseen"] += value not in profile.categories
    reference = dict(zip(bins, profile.counts, strict=True)) if numeric else profile.categories
    samples: Samples = {}
    for name in bins:
        samples["model_values_total", side, column, name] = counts[name]
        samples["model_reference_ratio", side, column, name] = reference.get(name, 0) / sum(reference.values())
    return samples | {("model_unusual_values_total", side, column, kind): count for kind, count in unusual.items()}


@pytest.mark.parametrize(("seed", "rows"), [*enumerate([0, 1, 2, 50, 4096, 6000, 6000, 13_000])])
def test_what_is_counted_is_what_a_loop_over_the_values_counts(seed: int, rows: int) -> None:
    random = np.random.default_rng(seed)
    inputs, outputs = some_rows(random, rows)
    monitor = DriftCounters(MIXED)
    first = 0
    while first < rows:
        last = first + int(random.choice([1, 2, 30, 5000]))
        monitor.note(
            {name: values[first:last] for name, values in inputs.items()},
            {name: values[first:last] for name, values in outputs.items()},
        )
        if random.random() < 0.02:
            scrape(monitor)
        first = last

    def texts(values: Any) -> list[str]:
        return [str(value) for value in values.ravel().tolist()]

    labels = dict(enumerate(["setosa", "versicolor", "virginica"]))
    expected = (
        slowly("feature", "length", inputs["measures"][:, 0].tolist(), nullable=True)
        | slowly("feature", "width", inputs["measures"][:, 2].tolist(), nullable=True)
        | slowly("feature", "pixels[3]", inputs["pixels"][:, 1, 1].tolist())
        | slowly("feature", "words[0]", inputs["words"][:, 0].tolist())
        | slowly("feature", "words[1]", inputs["words"][:, 1].tolist())
        | slowly("feature", "flag", [text.lower() for text in texts(inputs["flag"])])
        | slowly("feature", "grade", texts(inputs["grade"]))
        | slowly("feature", "id", texts(inputs["id"]))
        | slowly("output", "species", [labels.get(value, "?") for value in outputs["species"].tolist()])
        | slowly("output", "probabilities[yes]", outputs["probabilities"][:, 1].tolist())
    )
    found = scrape(monitor)
    assert found == expected
    for column in {key[1:3] for key in found}:
        bins = [value for key, value in found.items() if key[:3] == ("model_values_total", *column)]
        assert (
            sum(bins) + sum(found["model_unusual_values_total", *column, kind] for kind in ("missing", "nan")) == rows
        )


def test_the_stability_index_from_the_exposition_is_that_of_the_raw_data() -> None:
    random = np.random.default_rng(1)
    training, live = random.normal(0, 1, 5000), random.normal(0.4, 1.2, 7000).astype(np.float32)
    edges = np.quantile(training, np.linspace(0.1, 0.9, 9))

    def shares(values: Any) -> Any:
        inside = (values[:, None] > np.array([-np.inf, *edges])) & (values[:, None] <= np.array([*edges, np.inf]))
        return inside.mean(axis=0)

    def index(actual: Any, expected: Any) -> float:
        return float(np.sum((actual - expected) * np.log(actual / expected)))

    counts = np.rint(shares(training) * len(training)).astype(int).tolist()
    profile = {"kind": "numeric", "min": training.min(), "max": training.max(), "edges": list(edges), "counts": counts}
    described = one_input("FP32", profile)
    replicas = [DriftCounters(described), DriftCounters(described)]
    for number, row in enumerate(live):
        replicas[number % 3 == 0].note({"x": np.array([row])}, {"y": np.zeros(1, np.float32)})
    found = [scrape(monitor) for monitor in replicas]

    bins = np.array(
        [sum(one["model_values_total", "feature", "x", str(index)] for one in found) for index in range(10)]
    )
    reference = np.array([found[0]["model_reference_ratio", "feature", "x", str(index)] for index in range(10)])
    assert bins.sum() == len(live)
    psi = index(bins / bins.sum(), reference)
    assert psi == pytest.approx(index(shares(live.astype(np.float64)), shares(training)))
    assert psi > 0.1


def test_a_null_is_missing_and_other_odd_numbers_are_nan() -> None:
    values = [math.nan, math.nan, math.inf, -math.inf, 0.05]
    assert after(one_input("FP64", NUMBERS), values) == {"bin 2": 1, "nan": 4}
    assert after(one_input("FP64", NUMBERS, nullable=True), values) == {"bin 2": 1, "missing": 2, "nan": 2}


def test_a_value_on_an_edge_belongs_below_it_in_the_profiles_own_precision() -> None:
    edge = NUMBERS | {"edges": [0.1, float(np.float32(0.2))], "counts": [1, 1, 1]}
    # The nearest single to 0.1 is above it.
    assert after(one_input("FP32", edge), [0.1, 0.2]) == {"bin 1": 2}
    assert after(one_input("FP64", edge), [0.1, 0.2]) == {"bin 0": 1, "bin 1": 1}


def test_the_ends_of_the_range_are_inside_it() -> None:
    assert after(one_input("INT32", NUMBERS | {"max": 2}), [-3, -2, 2, 3]) == {
        "bin 0": 2,
        "bin 4": 2,
        "out_of_range": 2,
    }


def test_thousands_of_unknown_words_are_one_series() -> None:
    found = after(one_input("BYTES", categories("known")), [f"word {number}" for number in range(10_000)] + ["known"])
    assert found == {"bin other": 10_000, "bin known": 1, "unseen": 10_000}


def test_numbers_may_be_categories() -> None:
    found = after(one_input("FP32", categories("0.1", "2", "x")), [0.1, 0.1, 2, 3, math.nan])
    assert found == {"bin 0.1": 2, "bin 2": 1, "bin other": 1} | {"unseen": 1, "nan": 1}


def test_labels_of_a_rows_values_are_not_those_of_classes() -> None:
    votes = tensor("votes", "INT64", -1, 2, labels=["no", "yes"])
    monitor = DriftCounters(manifest([tensor("x", "FP32", -1)], [votes], {}, {"votes[yes]": categories("0", "1")}))
    monitor.note({"x": np.zeros(3)}, {"votes": np.array([[0, 1], [5, 1], [0, 0]])})
    found = scrape(monitor)
    assert [found["model_values_total", "output", "votes[yes]", name] for name in ("0", "1", "other")] == [1, 2, 0]


def test_arrays_of_another_type_or_layout_are_counted_by_value() -> None:
    described = one_input("INT64", categories("1", "2"))
    assert after(described, [1, 2, 3, 2], np.int8) == after(described, [1, 2, 3, 2])
    monitor = DriftCounters(described)
    monitor.note({"x": np.array([[1, 2, 3, 2]] * 2).T[:, 0]}, {})
    assert scrape(monitor)["model_values_total", "feature", "x", "2"] == 2


@pytest.mark.parametrize("batching", ["fixed", "none"])
def test_models_without_free_batches_are_counted_row_by_row(batching: str) -> None:
    shape = [8] if batching == "fixed" else []
    monitor = DriftCounters(
        manifest(
            [tensor("x", "FP32", *shape, 2)],
            [tensor("y", "INT64", *shape, labels=["a", "b"])],
            {"x[1]": NUMBERS},
            {"y": categories("a", "b")},
            batching=batching,
        )
    )
    monitor.note({"x": np.array([[9, 0.05], [9, 1]], np.float32)}, {"y": np.array([0, 1])})
    found = scrape(monitor)
    assert [found["model_values_total", "feature", "x[1]", name] for name in "0123"] == [0, 0, 1, 1]
    assert [found["model_values_total", "output", "y", name] for name in "ab"] == [1, 1]


def test_without_a_profile_nothing_is_kept_or_shown() -> None:
    described = manifest([tensor("x", "FP32", -1)], [tensor("y", "FP32", -1)], {}, {}, profile=None)
    monitor = DriftCounters(described)
    monitor.note({"x": np.zeros(10)}, {"y": np.zeros(10)})
    assert list(monitor.collect()) == []


def test_a_numeric_profile_of_strings_is_refused() -> None:
    with pytest.raises(StartError, match=r"'x' in model\.json must be categorical"):
        DriftCounters(one_input("BYTES", NUMBERS))


@pytest.mark.parametrize(
    ("datatype", "profile", "batch"),
    [
        ("FP32", NUMBERS, lambda: np.zeros(1, np.float32)),
        ("BYTES", categories("a"), lambda: np.array(["x" * 100_000], dtype=object)),
    ],
)
def test_what_waits_to_be_counted_is_bounded(datatype: str, profile: Any, batch: Callable[[], Any]) -> None:
    monitor = DriftCounters(one_input(datatype, profile))
    waiting: list[int] = []
    for _ in range(4200):
        monitor.note({"x": batch()}, {"y": np.zeros(1, np.float32)})
        (table,) = monitor._inputs
        waiting.append(len(table._numbers) + sum(len(text or "") for text in table._strings))
    assert 0 in waiting
    assert max(waiting) <= 4 * 2**20


def test_a_missing_text_is_counted_as_missing() -> None:
    described = manifest(
        [tensor("x", "BYTES", -1, nullable=True)],
        [tensor("y", "FP32", -1)],
        {"x": categories("a", "c")},
        {},
        format="python",
        predictor={"call": "batch", "sha256": {}},
    )
    assert after(described, ["a", None, "b", None]) == {"bin a": 1, "bin other": 1, "missing": 2, "unseen": 1}
