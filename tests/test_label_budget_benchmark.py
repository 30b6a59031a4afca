"""The summary of benchmarks/label_budget.py: percent, paired by seed, at 180 labels and over the rounds."""

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from label_budget import LOOP, NUM_LABELS, QUERIES, SCENARIOS, round_rows, summary

from rspretrain import config


def results(scenario: int, query: str, seed: int, *values: float) -> dict[str, Any]:
    """The results of a loop tested with 40, 110 and 180 labels."""
    rounds = [
        {"round": n, "labels": 40 + 70 * n, "f1_micro": v, "f1_macro": v / 2, "ap_macro": v / 4}
        for n, v in enumerate(values)
    ]
    measured = {"name": f"{query}_{seed}", "classes": ["a"], "num_test": 9, "multi": True, "warm_start": True}
    return {**measured, "scenario": scenario, "query": query, "seed": seed, "rounds": rounds}


RUNS = [
    results(scenario, query, seed, 0.5, 0.6 + 0.01 * seed, 0.7 + (0.02 * scenario + 0.01 * seed) * (query == "mge"))
    for scenario in SCENARIOS
    for query in QUERIES
    for seed in (0, 1)
]


def test_margins_compare_runs_of_the_same_seed_and_scenario() -> None:
    found = {(row["scenario"], row["when"], row["figure"]): row for row in summary(RUNS)}
    first = found[1, "180 labels", "f1_micro"]
    assert (first["random"], first["mge"], first["seeds"]) == (70.0, 72.5, 2)
    assert first["margin"] == pytest.approx(2.5)
    assert first["half_width"] == pytest.approx(12.71 * 0.5, abs=0.01)  # Student's t with one degree of freedom
    assert found[3, "180 labels", "f1_macro"]["margin"] == pytest.approx(3.25)
    assert found[3, "mean of rounds", "f1_micro"]["margin"] == pytest.approx(3.25)  # half of the rounds differ
    assert len(found) == 12


def test_each_round_has_a_row_in_percent() -> None:
    rows = round_rows(RUNS[:1])
    assert [(row["labels"], row["f1_micro"]) for row in rows] == [(40, 50.0), (110, 60.0), (180, 72.0)]


def test_the_loop_of_the_benchmark_ends_at_the_reported_number_of_labels() -> None:
    settings = config.load_active(Path(__file__).parents[1] / LOOP, ["backbone={rgb: there}"])
    assert settings.budget.num_labels == NUM_LABELS
