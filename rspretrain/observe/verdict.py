"""From measures to a verdict: healthy, suspicious or collapsed, why, since when, and what to change.

`judge` is a pure function of some lines of metrics: a rule speaks only where its condition holds on every line of the
window, so that a single odd batch accuses nobody. Causes come before symptoms, and the first that speaks is the reason.
docs/health.md explains every threshold; none of them is fitted to a benchmark.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, final

from pydantic import Field

from rspretrain.observe.input_health import DUPLICATES, OFFSET, SPREAD
from rspretrain.settings import Settings

Line = Mapping[str, float]  # one line of metrics.jsonl: "step" and metrics by name
LEVELS = ("healthy", "suspicious", "collapsed")
# Spread of features: of a teacher's where there is one, whose student's come second.
SPREADS = ("health/feature_std", "health/student_std")
RANK, INFORMATION = "health/effective_rank", "health/target_information"
GAINS = (*SPREADS, RANK, INFORMATION)  # what collapse takes away


class HealthSettings(Settings):
    """When a run is called collapsed, and what happens then."""

    on_collapse: Literal["warn", "stop"] = Field(
        default="warn",
        description="warn: report a collapse; stop: also save a checkpoint, write the summary and exit with status 1.",
    )
    window: int = Field(
        default=5,
        ge=2,
        description="Number of consecutive lines of metrics that must agree before a verdict; see watch.every.",
    )


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    cause: str  # a name for programs, as in docs/health.md
    level: int  # 1 suspicious, 2 collapsed
    measure: str  # the metric that shows it
    value: float  # on the newest line
    expected: str
    meaning: str
    remedy: str

    @property
    def reason(self) -> str:
        """One sentence: what it means, the measure, its value, the expectation."""
        return f"{self.meaning}: {self.measure} is {self.value:.4g}, expected {self.expected}"


def judge(best: Line, window: Sequence[Line]) -> list[Finding]:
    """What is wrong on all lines of `window`, causes first. `best`: the most that each of GAINS has been so far."""
    found: list[Finding] = []
    for rule in RULES:
        found += rule(best, window)
    return found


def _all(window: Sequence[Line], name: str, holds: Callable[[float], bool]) -> bool:
    """Whether a metric is there and the condition holds on every line; NaN fulfils none."""
    return all(name in line and holds(line[name]) for line in window)


def _bands(window: Sequence[Line], kind: str) -> list[str]:
    return [name for name in window[-1] if name.startswith("input/") and name.endswith(f"/{kind}")]


def _constant_band(best: Line, window: Sequence[Line]) -> Iterable[Finding]:
    for name in _bands(window, SPREAD):
        if _all(window, name, lambda spread: spread < 1e-3):
            yield Finding(
                "constant_band", 1, name, window[-1][name], "near 1", f"Band {_band(name)} is constant",
                f"Look at band {_band(name)} (shards/inspect.py --statistics); leave it out of sensors.<name>.bands, "
                "or build the shards anew.",
            )  # fmt: skip


def _shifted_band(best: Line, window: Sequence[Line]) -> Iterable[Finding]:
    """0.5 deviations: by Chebyshev a mean of 32 images has no more than 1/8 of a chance, five of them 3e-5."""
    for name in _bands(window, OFFSET):
        if _all(window, name, lambda offset: offset > 0.5) or _all(window, name, lambda offset: offset < -0.5):
            yield _foreign(name, window[-1][name], "within 0.5 of 0")
    for name in _bands(window, SPREAD):  # by Markov a variance of 9 times the mean one has 1/9, five of them 2e-5
        if _all(window, name, lambda spread: spread > 3.0):
            yield _foreign(name, window[-1][name], "near 1")


def _foreign(name: str, value: float, expected: str) -> Finding:
    return Finding(
        "shifted_band", 1, name, value, expected,
        f"Band {_band(name)} does not look like this band of the shard set",
        "Are bands swapped, or units wrong, in some of the shards (shards/inspect.py --statistics)? Where data.filter "
        "or data.split chooses samples of another kind, it may be right.",
    )  # fmt: skip


def _band(name: str) -> str:
    _, group, band, _ = name.split("/")
    return f"{band} of {group}"


def _duplicates(best: Line, window: Sequence[Line]) -> Iterable[Finding]:
    if _all(window, DUPLICATES, lambda share: share > 0.1):
        yield Finding(
            "duplicates", 1, DUPLICATES, window[-1][DUPLICATES], "under 0.1",
            "Batches hold the same image more than once",
            "Look for copies, or for images without data, in the archive; leave them out by data.filter or build anew.",
        )  # fmt: skip


def _identical_views(best: Line, window: Sequence[Line]) -> Iterable[Finding]:
    """Rounding leaves 1e-13 between equal rows in float32; no trained network maps different pixels that close."""
    alignment, std = "health/alignment", "health/feature_std"
    if _all(window, alignment, lambda apart: apart < 1e-8) and _all(window, std, lambda spread: spread > 1e-3):
        yield Finding(
            "identical_views", 1, alignment, window[-1][alignment], "over 1e-8",
            "The two views of a sample are the same image",
            "Restore the random crop (objective.scale, crop_px) and the colours: there is nothing to be invariant to.",
        )  # fmt: skip


def _teacher_is_student(best: Line, window: Sequence[Line]) -> Iterable[Finding]:
    drift = "health/teacher_drift"
    if _all(window, drift, lambda apart: apart == 0.0) and _all(window, "train/lr", lambda lr: lr > 0.0):
        yield Finding(
            "teacher_is_student", 1, drift, window[-1][drift], "over 0",
            "The teacher is the student",
            "Raise objective.momentum (0.99 to 0.999): a target that jumps with every step is none.",
        )  # fmt: skip


def _still_teacher(best: Line, window: Sequence[Line]) -> Iterable[Finding]:
    momentum = "train/momentum"
    if _all(window, momentum, lambda value: value >= 1.0):
        yield Finding(
            "still_teacher", 1, momentum, window[-1][momentum], "under 1",
            "The teacher does not move",
            "Lower objective.momentum (0.99 to 0.999): the student learns to repeat a random network.",
        )  # fmt: skip


def _refused(best: Line, window: Sequence[Line]) -> Iterable[Finding]:
    refused = "train/refused"
    counts = [line.get(refused, 0.0) for line in window]
    if all(before < after for before, after in pairwise(counts)):
        yield Finding(
            "refused_steps", 1, refused, counts[-1], f"to stay at {counts[0]:.0f}",
            "Steps are refused again and again because a loss or gradient is not finite",
            "Lower optim.lr, set optim.clip_norm, or use strategy.precision=fp32.",
        )  # fmt: skip


def _exploded(best: Line, window: Sequence[Line]) -> Iterable[Finding]:
    growth = "train/weight_growth"
    if _all(window, growth, lambda factor: factor > 10.0):
        yield Finding(
            "exploded_weights", 1, growth, window[-1][growth], "under 10",
            "The weights are many times as long as at the start, so steps are far too large",
            f"Lower optim.lr (now {window[-1].get('train/lr', math.nan):.3g}) tenfold or more, or lengthen "
            "optim.warmup_epochs, and start anew.",
        )  # fmt: skip


def _above_chance(best: Line, window: Sequence[Line]) -> Iterable[Finding]:
    """Not in a warm-up: two random networks may start there, because samples of one sensor look alike to its own."""
    ratio, lr = "health/chance_ratio", "train/lr"
    warming = window[-1].get(lr, 0.0) > window[0].get(lr, 0.0)
    if not warming and _all(window, ratio, lambda value: value > 2.0):
        yield Finding(
            "worse_than_chance", 1, ratio, window[-1][ratio], "1 or less",
            "The loss is far worse than guessing, so the network is sure and wrong",
            "Raise objective.temperature (0.07 to 0.5) where there is one, or lower optim.lr.",
        )  # fmt: skip


def _no_gradient(best: Line, window: Sequence[Line]) -> Iterable[Finding]:
    if _all(window, "train/grad_norm", lambda norm: norm < 1e-12):
        yield Finding(
            "no_gradient", 2, "train/grad_norm", window[-1]["train/grad_norm"], "over 0",
            "No gradient reaches the weights",
            "Look for a loss that is constant: everything masked, a temperature near 0, all parameters frozen.",
        )  # fmt: skip


def _blind(best: Line, window: Sequence[Line]) -> Iterable[Finding]:
    for std in SPREADS:
        if _all([best, *window], std, lambda value: value < 1e-4):
            yield Finding(
                "blind", 2, std, window[-1][std], "over 0.1",
                "All samples have had the same features from the start, so the network sees nothing of them",
                "Look at what reaches it: is everything masked, are the pixels constant, is the scaling right "
                "(sensors.<name>.normalise)?",
            )  # fmt: skip
            return


def _equal_features(best: Line, window: Sequence[Line]) -> Iterable[Finding]:
    """0.1: the mean cosine of two samples is 0.99, so 1 % of what a feature is made of tells samples apart."""
    for std in SPREADS:
        if _fell_under(0.1, best, window, std):
            yield Finding(
                "collapsed_features", 2, std, window[-1][std], "over 0.1",
                "All samples have come to nearly the same features", _why_collapsed(window),
            )  # fmt: skip
            return


def _low_rank(best: Line, window: Sequence[Line]) -> Iterable[Finding]:
    """Under 1.5 two thirds and more of what differs between samples lies along one direction."""
    if _fell_under(1.5, best, window, RANK):
        yield Finding(
            "one_dimension", 1, RANK, window[-1][RANK], "over 1.5",
            "Features have come to lie on one line", _why_collapsed(window),
        )  # fmt: skip


def _uninformed_targets(best: Line, window: Sequence[Line]) -> Iterable[Finding]:
    """0.01 nats: of a sample its target tells 1/70 of a bit."""
    if not _fell_under(0.01, best, window, INFORMATION):
        return
    one = window[-1].get("health/target_entropy", math.nan) < 0.5
    yield Finding(
        "one_target" if one else "uniform_targets", 2, INFORMATION, window[-1][INFORMATION], "over 0.01",
        "All samples have the same few prototypes as their target" if one else "Targets are uniform for all samples",
        "Restore the centering of the teacher (a center that follows: momentum 0.9), or raise its temperature."
        if one
        else "Sharpen the teacher: lower its temperature (0.04 to 0.07) below the student's.",
    )  # fmt: skip


def _zero_loss(best: Line, window: Sequence[Line]) -> Iterable[Finding]:
    if _all(window, "train/loss", lambda loss: abs(loss) < 1e-7):
        yield Finding(
            "zero_loss", 1, "train/loss", window[-1]["train/loss"], "over 0",
            "The loss is zero, so there is nothing left to learn",
            "Make the task harder: views that differ, a mask, negatives, a predictor.",
        )  # fmt: skip


def _fell_under(limit: float, best: Line, window: Sequence[Line], name: str) -> bool:
    """Whether training made a measure worse: under `limit`, under half of its best, and no longer rising.

    Without the second a slow start would be accused: random networks give nearly equal features, in a long warm-up for
    long. What doubles in a window rises, unless it is still under a tenth of the limit: rounding doubles, too.
    """
    if not _all(window, name, lambda value: value < limit):
        return False
    rises = window[-1][name] >= max(2.0 * window[0][name], 0.1 * limit)
    return window[-1][name] < 0.5 * best[name] and not rises


def _why_collapsed(window: Sequence[Line]) -> str:
    if INFORMATION in window[-1]:
        return "Restore the centering and the sharpening of the teacher; then lower optim.lr."
    if "health/teacher_drift" in window[-1]:
        return (
            "Without negatives a predictor behind the student, no gradient into the teacher, and a slow teacher keep "
            "features apart: restore what is missing of them; else lower optim.lr."
        )
    return (
        "Lower optim.lr, raise objective.temperature, or enlarge train.global_batch, whose samples are the negatives."
    )


# Causes before symptoms: what goes in, then teacher and steps, then what came of it.
RULES: tuple[Callable[[Line, Sequence[Line]], Iterable[Finding]], ...] = (
    _constant_band, _shifted_band, _duplicates, _identical_views, _blind, _teacher_is_student, _still_teacher,
    _refused, _exploded, _above_chance, _uninformed_targets, _equal_features, _no_gradient, _low_rank, _zero_loss,
)  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """What is to be said of a run after some line; `findings` with the step of the first line that showed each."""

    findings: tuple[tuple[Finding, int], ...]

    @property
    def level(self) -> int:
        """0 healthy, 1 suspicious, 2 collapsed."""
        return max((finding.level for finding, _ in self.findings), default=0)

    @property
    def causes(self) -> list[tuple[str, int]]:
        """The causes by name, each with its level: a person is told when they change."""
        return sorted({(finding.cause, finding.level) for finding, _ in self.findings})

    def text(self) -> str:
        """For the terminal."""
        if not self.findings:
            return "health: healthy again."
        (finding, since), *others = self.findings
        also = f" Also: {', '.join(other.cause for other, _ in others)}." if others else ""
        return f"health: {LEVELS[self.level]} since step {since}. {finding.reason}. {finding.remedy}{also}"

    def summary(self) -> dict[str, object]:
        """For summary.json."""
        told = [
            {"cause": f.cause, "since_step": since, "reason": f.reason, "remedy": f.remedy}
            for f, since in self.findings
        ]
        return {"verdict": LEVELS[self.level], "findings": told}


@final
class Watch:
    """The recent lines of a run and the best of all before; `add` gives the verdict after each."""

    def __init__(self, settings: HealthSettings, lines: Iterable[Line] = ()) -> None:
        """`lines` are those that a resumed run has written before."""
        self._best = dict.fromkeys(GAINS, -math.inf)
        self._window: deque[Line] = deque(maxlen=settings.window)
        self._since: dict[tuple[str, str], int] = {}
        self.verdict = Verdict(())
        for line in lines:
            self.add(line)

    def add(self, line: Line) -> Verdict:
        """One more line."""
        self._best |= {name: max(best, line.get(name, best)) for name, best in self._best.items()}  # a NaN is none
        self._window.append(line)
        full = len(self._window) == self._window.maxlen
        found = judge(self._best, self._window) if full else []
        start = int(self._window[0]["step"])
        self._since = {(f.cause, f.measure): self._since.get((f.cause, f.measure), start) for f in found}
        self.verdict = Verdict(tuple((f, self._since[f.cause, f.measure]) for f in found))
        return self.verdict
