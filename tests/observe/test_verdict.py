"""Every rule reports its fault, ignores a single odd line, and names cause, measure, first step and remedy."""

from pathlib import Path

import pytest

from rspretrain.observe.verdict import HealthMonitor, HealthSettings, judge

GOOD = {
    "train/loss": 2.0, "train/lr": 1e-3, "train/grad_norm": 0.3, "train/refused": 0.0, "train/weight_growth": 1.1,
    "train/momentum": 0.99, "health/teacher_drift": 0.02, "health/chance_ratio": 0.6, "health/feature_std": 0.7,
    "health/student_std": 0.7,
    "health/effective_rank": 12.0, "health/alignment": 0.4, "health/target_information": 0.8,
    "health/target_entropy": 0.7, "input/duplicates": 0.0, "input/s2_10m/B02/offset": 0.1,
    "input/s2_10m/B02/spread": 0.9,
}  # fmt: skip
FAULTS = {
    "constant_band": {"input/s2_10m/B02/spread": 0.0},
    "shifted_band": {"input/s2_10m/B02/offset": -0.7},
    "duplicates": {"input/duplicates": 0.5},
    "identical_views": {"health/alignment": 1e-13},
    "teacher_is_student": {"health/teacher_drift": 0.0},
    "still_teacher": {"train/momentum": 1.0},
    "exploded_weights": {"train/weight_growth": 40.0},
    "worse_than_chance": {"health/chance_ratio": 1000.0},
    "one_target": {"health/target_information": 1e-4, "health/target_entropy": 0.01},
    "uniform_targets": {"health/target_information": 1e-4, "health/target_entropy": 0.99},
    "collapsed_features": {"health/feature_std": 0.04},
    "one_dimension": {"health/effective_rank": 1.1},
    "no_gradient": {"train/grad_norm": 0.0},
    "zero_loss": {"train/loss": 0.0},
}
COLLAPSED = {"one_target", "uniform_targets", "collapsed_features", "no_gradient"}


def verdict_after(*changes, window=3, good=GOOD):
    """The verdict after a healthy line, then one line for each of `changes`."""
    monitor = HealthMonitor(HealthSettings(window=window))
    for number, change in enumerate(({}, *changes), start=1):
        monitor.add({"step": 10 * number, **good, **change})
    return monitor.verdict


def test_the_docs_explain_every_cause():
    page = (Path(__file__).parents[2] / "docs/health.md").read_text()
    assert [cause for cause in (*FAULTS, "refused_steps", "blind") if f"`{cause}`" not in page] == []


def test_a_healthy_run():
    assert verdict_after(*[{}] * 9).level == 0
    assert verdict_after(*[{}] * 9).summary() == {"verdict": "healthy", "findings": []}


@pytest.mark.parametrize("cause", FAULTS)
def test_a_fault_on_every_line_is_reported(cause):
    verdict = verdict_after(*[FAULTS[cause]] * 4)
    ((finding, since),) = verdict.findings
    assert (finding.cause, finding.level, since) == (cause, 2 if cause in COLLAPSED else 1, 20)
    assert finding.measure in FAULTS[cause]
    assert finding.value == FAULTS[cause][finding.measure]


@pytest.mark.parametrize("cause", FAULTS)
def test_one_healthy_line_in_the_window_prevents_a_finding(cause):
    assert verdict_after(FAULTS[cause], FAULTS[cause], {}, FAULTS[cause], FAULTS[cause]).level == 0


@pytest.mark.parametrize("cause", FAULTS)
def test_missing_metrics_and_nan_give_no_finding(cause):
    lines = [{"step": step, "train/refused": 0.0} for step in range(5)]
    assert judge(lines[0], lines) == []
    nan = {name: float("nan") for name in FAULTS[cause]}
    assert verdict_after(*[nan] * 4).level == 0


def test_repeatedly_refused_steps():
    (found, since), *_ = verdict_after(*({"train/refused": float(n)} for n in range(4))).findings
    assert (found.cause, found.reason.split(": ")[1]) == ("refused_steps", "train/refused is 3, expected to stay at 1")
    assert since == 20
    assert verdict_after(*({"train/refused": 7.0} for n in range(4))).level == 0


def test_a_slow_start_is_no_collapse_but_equal_features_from_the_start_are_reported():
    near = {"health/feature_std": 0.05, "health/effective_rank": 1.2}
    slow = HealthMonitor(HealthSettings(window=3))
    blind = HealthMonitor(HealthSettings(window=3))
    for step in range(20):
        slow.add({"step": step, **GOOD, **near})
        blind.add({"step": step, **GOOD, "health/feature_std": 0.0})
    assert slow.verdict.level == 0
    ((finding, since),) = blind.verdict.findings
    assert (finding.cause, finding.level, since) == ("blind", 2, 0)


@pytest.mark.parametrize("std", ["health/feature_std", "health/student_std"])
def test_student_and_teacher_have_the_same_rules(std):
    ((finding, _),) = verdict_after(*[{std: 0.05}] * 4).findings
    assert (finding.cause, finding.measure) == ("collapsed_features", std)
    ((finding, _),) = HealthMonitor(
        HealthSettings(), [{"step": n, **GOOD, std: 0.0} for n in range(5)]
    ).verdict.findings
    assert (finding.cause, finding.measure) == ("blind", std)


@pytest.mark.parametrize("std", [0.0, 1e-9])
def test_rounding_is_no_recovery(std):
    """Twice 0 is 0, and rounding errors may double."""
    lines = ({"health/feature_std": value} for value in (std, std, 4 * std))
    assert [finding.cause for finding, _ in verdict_after(*lines).findings] == ["collapsed_features"]


def test_a_fall_is_measured_from_the_best_line():
    """Not from the first, because random features are similar too."""
    lines = ({"health/feature_std": std} for std in (0.8, float("nan"), 0.06, 0.06, 0.06))
    assert verdict_after(*lines, good=GOOD | {"health/feature_std": 0.08}).findings[0][0].cause == "collapsed_features"


def test_loss_above_chance_is_allowed_during_warm_up():
    assert verdict_after(*({"health/chance_ratio": 5.0, "train/lr": n * 1e-4} for n in range(1, 6))).level == 0
    assert verdict_after(*({"health/chance_ratio": 5.0, "train/lr": 1e-3 - n * 1e-4} for n in range(1, 6))).level == 1


def test_a_rising_measure_is_no_collapse():
    assert verdict_after(*({"health/feature_std": std} for std in (0.01, 0.03, 0.09))).level == 0


def test_causes_come_before_symptoms_and_the_message_has_all_parts():
    verdict = verdict_after(*[{"train/weight_growth": 50.0, "health/feature_std": 0.001}] * 4)
    assert verdict.text() == (
        "health: collapsed since step 20. The norm of the weights has grown many times over, so steps are far too "
        "large: train/weight_growth is 50, expected under 10. Lower optim.lr (now 0.001) tenfold or more, or increase "
        "optim.warmup_epochs, and start again. Also: collapsed_features."
    )
    assert [each["cause"] for each in verdict.summary()["findings"]] == ["exploded_weights", "collapsed_features"]


def test_the_remedy_depends_on_the_objective():
    lines = [{"health/feature_std": 0.001}] * 4
    byol = {name: value for name, value in GOOD.items() if "target_" not in name}
    simclr = {name: value for name, value in byol.items() if "drift" not in name and "momentum" not in name}
    for good, word in ((GOOD, "centering"), (byol, "a predictor after the student"), (simclr, "temperature")):
        assert word in verdict_after(*lines, good=good).findings[0][0].remedy


def test_a_resumed_run_has_the_verdict_of_an_uninterrupted_one():
    lines = [{"step": 1, **GOOD}, *({"step": n, **GOOD, **FAULTS["collapsed_features"]} for n in range(2, 9))]
    whole, resumed = HealthMonitor(HealthSettings(), lines), HealthMonitor(HealthSettings(), lines[:4])
    for line in lines[4:]:
        resumed.add(line)
    assert resumed.verdict == whole.verdict
    assert whole.verdict.findings[0][1] == 2


def test_no_finding_before_the_window_is_full():
    assert verdict_after(FAULTS["duplicates"], window=3).level == 0
