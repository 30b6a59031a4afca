"""In the generated archive of benchmarks/ordering.py, each class changes the pixels of its own sensors only."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import ordering
from ordering import KINDS, METRICS, ORDERINGS, SEEDS, Run, compare, measure
from ordering_land import BLOB_AREAS, VISIBLE_TO, Land, render_s1, render_s2

SMALL = {
    "SIZES": {"train": 40, "val": 4, "test": 6}, "VALIDATE_EVERY": 2,
    "STEPS": 2, "TENTH_STEPS": 2, "PRETRAIN_STEPS": 2, "K_BRANCH_STEPS": 2,
    "BATCH": 4, "PRETRAIN_BATCH": 4, "K_BRANCH_BATCH": 2,
}  # fmt: skip
RENDER = {"s1": render_s1, "s2": render_s2}
MIN_CHANGE = {"s1": 0.3, "s2": 0.02}  # dB, and fraction of the signal
OTHERS = ("houses", "crop colour", "vine roughness")


def change(sensor, name, number):
    """[C H W] change by a class on a sensor's finest grid, with the same noise and speckle."""
    others = [other for other in OTHERS if other != name]
    with_it, without = (RENDER[sensor](7, number, labels) for labels in ([*others, name], others))
    group = f"{sensor}_10m"
    if sensor == "s1":
        return with_it[group] - without[group]
    return np.log(with_it[group].astype(float)) - np.log(without[group].astype(float))


@pytest.mark.parametrize("sensor", RENDER)
@pytest.mark.parametrize("name", VISIBLE_TO)
def test_a_class_is_visible_to_its_sensors_only(name, sensor):
    changes = np.stack([change(sensor, name, number) for number in range(3)])
    touched = (changes != 0).any(axis=1)
    if sensor not in VISIBLE_TO[name]:
        assert not touched.any()
        return
    assert BLOB_AREAS[0] / 2 < touched.mean() < 2 * BLOB_AREAS[1]
    assert np.abs(changes).max(axis=1)[touched].mean() > MIN_CHANGE[sensor]


def test_classes_are_independent_and_patches_match_their_groups():
    land = Land(3, train=2000, val=10, test=10)
    hot = np.array([[name in land.labels(number) for name in VISIBLE_TO] for number in range(2000)])
    correlation = np.corrcoef(hot.T) - np.eye(len(VISIBLE_TO))
    assert np.abs(correlation).max() < 0.1  # 4.5 standard errors, 66 pairs
    patches = [land.read(entry) for entry in land.entries()[0][1999:2012:6]]
    assert [patch.split for patch in patches] == ["train", "val", "test"]
    for patch in patches:
        assert {name: image.shape for name, image in patch.images.items()} == {
            group.name: (len(group.bands), *group.shape) for group in land.groups
        }
        assert patch.labels["s2"] == tuple(name for name in patch.labels["all"] if "s2" in VISIBLE_TO[name])


def test_gains_are_listed_by_seed_with_their_sign():
    kinds = {kind for above, below, _ in ORDERINGS for kind in (above, below)}
    metrics = {metric for *_, some in ORDERINGS for metric in some}
    rows = [
        {"kind": kind, "seed": seed, **dict.fromkeys(metrics, 10.0 * number if kind == "sct" else 15.0)}
        for kind in kinds
        for number, seed in enumerate(SEEDS)
    ]
    first = compare(rows)[0]
    assert (first["above"], first[f"gain_{SEEDS[0]}"], first[f"gain_{SEEDS[2]}"]) == ("sct", -15.0, 5.0)
    assert first["holds_on"] == 1
    assert first["gain"] == -5.0


def test_metrics_are_percent_and_grouped_by_visibility():
    names = ["houses", "crop colour", "vine roughness", "lake"]
    test = dict.fromkeys(("ap_macro", "ap_micro", "f2_macro", "recall_samples", "f1_samples", "f2_samples"), 0.5)
    row = ordering.metrics_of({"classes": names, "test": {**test, "ap_per_class": [0.2, 0.3, 0.6, 0.4]}})
    assert (row["ap_macro"], row["ap_both"], row["ap_s2_only"], row["ap_s1_only"]) == (50.0, 30.0, 30.0, 60.0)


def test_each_kind_of_run_gives_its_metrics_and_is_cached(tmp_path, monkeypatch):
    for name, value in SMALL.items():
        monkeypatch.setattr(ordering, name, value)
    ordering.build(0, tmp_path)
    rows = [measure(Run(kind, 0, 1e-3, ordering.steps_of(kind)), tmp_path) for kind in KINDS]
    assert all(0 < row[metric] < 100 for row in rows for metric in METRICS[:2])
    assert [row["kind"] for row in rows if "ap_s1_only" not in row] == ["k_branch", "k_branch_plain"]
    assert (tmp_path / "0/dual_simclr/2/0.001/export/s1").is_dir()
    monkeypatch.setattr(ordering, "finetune", None)
    assert measure(Run("sct", 0, 1e-3, 2), tmp_path) == rows[list(KINDS).index("sct")]
