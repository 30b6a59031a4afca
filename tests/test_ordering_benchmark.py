"""The generated archive of benchmarks/ordering.py shows every class to the sensors that see it, and to no other."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import ordering
from ordering import FIGURES, KINDS, ORDERINGS, SEEDS, Run, compare, figures_of, measure
from ordering_land import SEEN_BY, SHARES, Land, see_s1, see_s2

SMALL = {
    "SIZES": {"train": 40, "val": 4, "test": 6}, "EXAMINE": 2,
    "STEPS": 2, "TENTH_STEPS": 2, "PRETRAIN_STEPS": 2, "K_BRANCH_STEPS": 2,
    "BATCH": 4, "PRETRAIN_BATCH": 4, "K_BRANCH_BATCH": 2,
}  # fmt: skip
EYES = {"s1": see_s1, "s2": see_s2}
LEAST = {"s1": 0.3, "s2": 0.02}  # dB, and share of the signal
OTHERS = ("houses", "crop colour", "vine roughness")


def change(sensor, name, number):
    """[C H W] what a class changes on a sensor's finest grid: noise and speckle are the same with it and without."""
    others = [other for other in OTHERS if other != name]
    with_it, without = (EYES[sensor](7, number, labels) for labels in ([*others, name], others))
    group = f"{sensor}_10m"
    if sensor == "s1":
        return with_it[group] - without[group]
    return np.log(with_it[group].astype(float)) - np.log(without[group].astype(float))


@pytest.mark.parametrize("sensor", EYES)
@pytest.mark.parametrize("name", SEEN_BY)
def test_a_class_is_seen_by_its_sensors_and_by_no_other(name, sensor):
    changes = np.stack([change(sensor, name, number) for number in range(3)])
    touched = (changes != 0).any(axis=1)
    if sensor not in SEEN_BY[name]:
        assert not touched.any()
        return
    assert SHARES[0] / 2 < touched.mean() < 2 * SHARES[1]
    assert np.abs(changes).max(axis=1)[touched].mean() > LEAST[sensor]


def test_no_class_tells_of_another_and_patches_are_what_they_say():
    land = Land(3, train=2000, val=10, test=10)
    hot = np.array([[name in land.labels(number) for name in SEEN_BY] for number in range(2000)])
    correlation = np.corrcoef(hot.T) - np.eye(len(SEEN_BY))
    assert np.abs(correlation).max() < 0.1  # 4.5 standard errors, 66 pairs
    patches = [land.read(entry) for entry in land.entries()[0][1999:2012:6]]
    assert [patch.split for patch in patches] == ["train", "val", "test"]
    for patch in patches:
        assert {name: image.shape for name, image in patch.images.items()} == {
            group.name: (len(group.bands), *group.shape) for group in land.groups
        }
        assert patch.labels["s2"] == tuple(name for name in patch.labels["all"] if "s2" in SEEN_BY[name])


def test_gains_are_told_by_seed_with_their_sign():
    kinds = {kind for above, below, _ in ORDERINGS for kind in (above, below)}
    figures = {figure for *_, some in ORDERINGS for figure in some}
    rows = [
        {"kind": kind, "seed": seed, **dict.fromkeys(figures, 10.0 * number if kind == "sct" else 15.0)}
        for kind in kinds
        for number, seed in enumerate(SEEDS)
    ]
    first = compare(rows)[0]
    assert (first["above"], first[f"gain_{SEEDS[0]}"], first[f"gain_{SEEDS[2]}"]) == ("sct", -15.0, 5.0)
    assert first["holds_on"] == 1
    assert first["gain"] == -5.0


def test_figures_are_percent_by_what_the_classes_are_seen_by():
    names = ["houses", "crop colour", "vine roughness", "lake"]
    test = dict.fromkeys(("ap_macro", "ap_micro", "f2_macro", "recall_samples", "f1_samples", "f2_samples"), 0.5)
    row = figures_of({"classes": names, "test": {**test, "ap_per_class": [0.2, 0.3, 0.6, 0.4]}})
    assert (row["ap_macro"], row["ap_both"], row["ap_s2_only"], row["ap_s1_only"]) == (50.0, 30.0, 30.0, 60.0)


def test_every_kind_of_run_gives_its_figures_once(tmp_path, monkeypatch):
    for name, value in SMALL.items():
        monkeypatch.setattr(ordering, name, value)
    ordering.build(0, tmp_path)
    rows = [measure(Run(kind, 0, 1e-3, ordering.steps_of(kind)), tmp_path) for kind in KINDS]
    assert all(0 < row[figure] < 100 for row in rows for figure in FIGURES[:2])
    assert [row["kind"] for row in rows if "ap_s1_only" not in row] == ["k_branch", "k_branch_plain"]
    assert (tmp_path / "0/dual_simclr/2/0.001/export/s1").is_dir()
    monkeypatch.setattr(ordering, "finetune", None)
    assert measure(Run("sct", 0, 1e-3, 2), tmp_path) == rows[list(KINDS).index("sct")]
