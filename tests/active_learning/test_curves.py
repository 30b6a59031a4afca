import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from rspretrain.active_learning.curves import (
    compare,
    curves_csv,
    curves_of_run,
    draw_curves,
    half_width,
    margins,
    means,
    method_names,
    read_run,
)


def run(query: str, seed: int, *values: float, **other: Any) -> dict[str, Any]:
    """A loop with the micro F1 `values`; macro F1 and AP are lower by 0.1 and 0.2."""
    rounds = [
        {
            "round": number, "labels": 4 + 2 * number, "f1_micro": value, "f1_macro": value - 0.1,
            "ap_macro": value - 0.2, "intervals_95": {"f1_micro": {"low": value - 0.05, "high": value + 0.02}},
        }
        for number, value in enumerate(values)
    ]  # fmt: skip
    measured = {"name": f"{query}_{seed}", "classes": ["a", "b"], "num_test": 9, "multi": True}
    return {**measured, "scenario": 1, "warm_start": True, "query": query, "seed": seed, "rounds": rounds, **other}


RUNS = [
    run("mge", 0, 0.3, 0.6, 0.8),
    run("random", 0, 0.3, 0.5, 0.6),
    run("mge", 1, 0.5, 0.8),
    run("random", 1, 0.5, 0.7),
]


def test_mean_over_runs_with_interval() -> None:
    curve = compare(RUNS)["f1_micro"]["mge"]
    assert (curve.labels, curve.num_runs) == ((4, 6, 8), (2, 2, 1))
    assert curve.mean == pytest.approx((0.4, 0.7, 0.8))
    assert curve.high[1] - 0.7 == pytest.approx(0.7 - curve.low[1])
    assert curve.low[2] == curve.high[2] == 0.8
    assert list(compare(RUNS)) == ["f1_micro", "f1_macro", "ap_macro"]


def test_intervals_equal_students_t_of_scipy() -> None:
    values = [0.2, 0.5, 0.6, 0.9]
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert half_width(values) == pytest.approx((high - low) / 2)
    assert half_width([0.3]) == 0.0


def test_means_are_over_the_rounds_after_a_query_that_all_runs_have() -> None:
    found = {(row["method"], row["metric"]): row for row in means(RUNS)}
    assert found["mge", "f1_micro"]["mean"] == pytest.approx((0.6 + 0.8) / 2)
    assert found["random", "ap_macro"]["mean"] == pytest.approx((0.5 + 0.7) / 2 - 0.2)
    assert found["mge", "f1_micro"]["num"] == 2


def test_margins_compare_with_the_baseline_of_the_same_seed() -> None:
    found = {(row["method"], row["metric"]): row for row in margins(RUNS)}
    assert found.keys() == {("mge", "f1_micro"), ("mge", "f1_macro"), ("mge", "ap_macro")}
    assert found["mge", "f1_micro"]["mean"] == pytest.approx(((0.1 + 0.2) / 2 + 0.1) / 2)
    assert margins(RUNS[:1]) == []
    third = [run("mge", 0, 0.3, 0.9, scenario=3), run("random", 0, 0.3, 0.5, scenario=3)]
    rows = {row["method"]: row["mean"] for row in margins([*RUNS, *third]) if row["metric"] == "f1_micro"}
    assert rows == pytest.approx({"mge, scenario 1": 0.125, "mge, scenario 3": 0.4})


def test_runs_are_compared_at_one_number_of_labels() -> None:
    found = {row["method"]: row for row in means(RUNS, 6) if row["metric"] == "f1_micro"}
    assert {name: row["mean"] for name, row in found.items()} == pytest.approx({"mge": 0.7, "random": 0.6})
    (row,) = (row for row in margins(RUNS, 6) if row["metric"] == "f1_micro")
    assert (row["mean"], row["num"]) == (pytest.approx(0.1), 2)
    assert means(RUNS, 4)[0]["mean"] == pytest.approx(0.4)  # before any query, too
    with pytest.raises(ValueError, match=r"a round with 8 labels, expected a number .*'mge_1': \[4, 6\].* continue"):
        means(RUNS, 8)


def test_method_names_contain_the_settings_that_differ() -> None:
    others = [RUNS[0], run("mge", 0, 0.1, scenario=3), run("mge", 0, 0.1, warm_start=False)]
    first, *named = method_names(others)
    assert first == "mge, scenario 1, warm start"
    assert named == ["mge, scenario 3, warm start", "mge, scenario 1, cold start"]
    with pytest.raises(ValueError, match=r"The runs differ in num_test \(mge_0: 9; x_0: 8\); .* at a time"):
        compare([RUNS[0], run("x", 0, 0.1, num_test=8)])


def test_curves_of_one_run_have_its_bootstrap_intervals() -> None:
    curves = curves_of_run(RUNS[0])
    assert curves["f1_micro"]["mge"].low == pytest.approx((0.25, 0.55, 0.75))
    assert curves["f1_micro"]["mge"].high == pytest.approx((0.32, 0.62, 0.82))
    assert curves["f1_macro"]["mge"].low == curves["f1_macro"]["mge"].mean  # without an interval


def test_the_csv_has_all_points() -> None:
    lines = list(csv.DictReader(curves_csv(compare(RUNS)).splitlines()))
    assert [(line["method"], line["labels"], line["num_runs"]) for line in lines[:3]] == [
        ("mge", "4", "2"), ("mge", "6", "2"), ("mge", "8", "1"),
    ]  # fmt: skip
    assert float(lines[1]["f1_macro"]) == pytest.approx(0.6)
    assert float(lines[1]["f1_macro_high"]) == pytest.approx(0.6 + half_width([0.5, 0.7]), abs=1e-6)
    assert len(lines) == 6


def test_the_figure_has_a_panel_per_metric_and_a_line_per_method(tmp_path: Path) -> None:
    curves = compare(RUNS)
    draw_curves(curves, tmp_path / "all.png", "Title", "note")
    draw_curves({"f1_micro": {"mge": curves["f1_micro"]["mge"]}}, tmp_path / "one.png", "Title", "note")
    with Image.open(tmp_path / "all.png") as three, Image.open(tmp_path / "one.png") as one:
        assert three.width == 3 * one.width
        colours = {colour for _, colour in three.convert("RGB").getcolors(1_000_000)}
    assert {(181, 68, 58), (59, 111, 174)} <= colours


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no readable active.json \(FileNotFoundError\); .* Name folders"):
        read_run(tmp_path)
    (tmp_path / "active.json").write_text(json.dumps(RUNS[0] | {"rounds": []}))
    with pytest.raises(
        ValueError, match=r"has no complete round, expected at least one. Continue the loop with --resume"
    ):
        read_run(tmp_path)
    (tmp_path / "active.json").write_text(json.dumps(RUNS[0]))
    assert read_run(tmp_path) == RUNS[0]
