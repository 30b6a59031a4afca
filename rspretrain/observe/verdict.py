"""Verdict on a run from its metrics: healthy, suspicious or collapsed, with the cause, the first step and a remedy.

`judge` is a pure function of a window of metrics lines. A rule reports a finding only if its condition holds on every
line of the window, so a single odd batch raises no alarm. Rules are ordered from causes to symptoms; the first finding
is the reason. docs/health.md explains every threshold; none is fitted to a benchmark.
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
# Spread of the features: the teacher's first if there is a teacher, then the student's.
SPREADS = ("health/feature_std", "health/student_std")
RANK, INFORMATION = "health/effective_rank", "health/target_information"
GAINS = (*SPREADS, RANK, INFORMATION)  # measures that collapse reduces


class HealthSettings(Settings):
    """Collapse detection: the window, and the action on collapse."""

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
    """One problem that a rule has found."""

    cause: str  # identifier, as in docs/health.md
    level: int  # 1 suspicious, 2 collapsed
    measure: str  # name of the metric
    value: float  # on the latest line
    expected: str
    meaning: str
    remedy: str

    @property
    def reason(self) -> str:
        """One sentence: meaning, measure, value, expected value."""
        return f"{self.meaning}: {self.measure} is {self.value:.4g}, expected {self.expected}"


def judge(best: Line, window: Sequence[Line]) -> list[Finding]:
    """Problems that hold on all lines of `window`, causes first. `best`: the maximum so far of each of GAINS."""
    found: list[Finding] = []
    for rule in RULES:
        found += rule(best, window)
    return found


def _all(window: Sequence[Line], name: str, holds: Callable[[float], bool]) -> bool:
    """Whether every line has the metric and fulfils the condition; NaN never does."""
    return all(name in line and holds(line[name]) for line in window)


def _bands(window: Sequence[Line], kind: str) -> list[str]:
    return [name for name in window[-1] if name.startswith("input/") and name.endswith(f"/{kind}")]


def _constant_band(best: Line, window: Sequence[Line]) -> Iterable[Finding]:
    for name in _bands(window, SPREAD):
        if _all(window, name, lambda spread: spread < 1e-3):
            yield Finding(
                "constant_band", 1, name, window[-1][name], "near 1", f"Band {_band(name)} is constant",
                f"Check band {_band(name)} (`rspretrain inspect --statistics`). Remove it from "
                "sensors.<name>.bands, or rebuild the shards.",
            )  # fmt: skip


def _shifted_band(best: Line, window: Sequence[Line]) -> Iterable[Finding]:
    """0.5 deviations: by Chebyshev the mean of 32 images exceeds it with probability 1/8 at most, five lines 3e-5."""
    for name in _bands(window, OFFSET):
        if _all(window, name, lambda offset: offset > 0.5) or _all(window, name, lambda offset: offset < -0.5):
            yield _shifted(name, window[-1][name], "within 0.5 of 0")
    for name in _bands(window, SPREAD):  # by Markov a variance of 9 times its mean has probability 1/9, five lines 2e-5
        if _all(window, name, lambda spread: spread > 3.0):
            yield _shifted(name, window[-1][name], "near 1")


def _shifted(name: str, value: float, expected: str) -> Finding:
    return Finding(
        "shifted_band", 1, name, value, expected,
        f"Band {_band(name)} does not match its statistics in the shard set",
        "Check for swapped bands or wrong units in some of the shards (`rspretrain inspect --statistics`). It is "
        "harmless if data.filter or data.split selects a different kind of sample.",
    )  # fmt: skip


def _band(name: str) -> str:
    _, group, band, _ = name.split("/")
    return f"{band} of {group}"


def _duplicates(best: Line, window: Sequence[Line]) -> Iterable[Finding]:
    if _all(window, DUPLICATES, lambda share: share > 0.1):
        yield Finding(
            "duplicates", 1, DUPLICATES, window[-1][DUPLICATES], "under 0.1",
            "Batches contain duplicate images",
            "Check the archive for copies and for images without data. Exclude them with data.filter, or rebuild the "
            "shards.",
        )  # fmt: skip


def _identical_views(best: Line, window: Sequence[Line]) -> Iterable[Finding]:
    """Rounding leaves 1e-13 between equal rows in float32; no trained network maps different pixels that close."""
    alignment, std = "health/alignment", "health/feature_std"
    if _all(window, alignment, lambda distance: distance < 1e-8) and _all(window, std, lambda spread: spread > 1e-3):
        yield Finding(
            "identical_views", 1, alignment, window[-1][alignment], "over 1e-8",
            "The two views of a sample are the same image",
            "Restore the random crop (objective.scale, crop_px) and the colour augmentation.",
        )  # fmt: skip


def _teacher_is_student(best: Line, window: Sequence[Line]) -> Iterable[Finding]:
    drift = "health/teacher_drift"
    if _all(window, drift, lambda distance: distance == 0.0) and _all(window, "train/lr", lambda lr: lr > 0.0):
        yield Finding(
            "teacher_is_student", 1, drift, window[-1][drift], "over 0",
            "The teacher equals the student",
            "Raise objective.momentum (0.99 to 0.999), so that targets change slowly.",
        )  # fmt: skip


def _still_teacher(best: Line, window: Sequence[Line]) -> Iterable[Finding]:
    momentum = "train/momentum"
    if _all(window, momentum, lambda value: value >= 1.0):
        yield Finding(
            "still_teacher", 1, momentum, window[-1][momentum], "under 1",
            "The teacher does not move",
            "Lower objective.momentum (0.99 to 0.999): the student only imitates a random network.",
        )  # fmt: skip


def _refused(best: Line, window: Sequence[Line]) -> Iterable[Finding]:
    refused = "train/refused"
    counts = [line.get(refused, 0.0) for line in window]
    if all(before < after for before, after in pairwise(counts)):
        yield Finding(
            "refused_steps", 1, refused, counts[-1], f"to stay at {counts[0]:.0f}",
            "Steps are refused repeatedly because a loss or gradient is not finite",
            "Lower optim.lr, set optim.clip_norm, or use strategy.precision=fp32.",
        )  # fmt: skip


def _exploded(best: Line, window: Sequence[Line]) -> Iterable[Finding]:
    growth = "train/weight_growth"
    if _all(window, growth, lambda factor: factor > 10.0):
        yield Finding(
            "exploded_weights", 1, growth, window[-1][growth], "under 10",
            "The norm of the weights has grown many times over, so steps are far too large",
            f"Lower optim.lr (now {window[-1].get('train/lr', math.nan):.3g}) tenfold or more, or increase "
            "optim.warmup_epochs, and start again.",
        )  # fmt: skip


def _above_chance(best: Line, window: Sequence[Line]) -> Iterable[Finding]:
    """Not in warm-up: two random networks may start there, because each gives similar features to all samples."""
    ratio, lr = "health/chance_ratio", "train/lr"
    warming = window[-1].get(lr, 0.0) > window[0].get(lr, 0.0)
    if not warming and _all(window, ratio, lambda value: value > 2.0):
        yield Finding(
            "worse_than_chance", 1, ratio, window[-1][ratio], "1 or less",
            "The loss is far above chance level: the network is confident and wrong",
            "Raise objective.temperature (0.07 to 0.5) if the objective has one, or lower optim.lr.",
        )  # fmt: skip


def _no_gradient(best: Line, window: Sequence[Line]) -> Iterable[Finding]:
    if _all(window, "train/grad_norm", lambda norm: norm < 1e-12):
        yield Finding(
            "no_gradient", 2, "train/grad_norm", window[-1]["train/grad_norm"], "over 0",
            "No gradient reaches the weights",
            "Check for a constant loss: everything masked, a temperature near 0, all parameters frozen.",
        )  # fmt: skip


def _blind(best: Line, window: Sequence[Line]) -> Iterable[Finding]:
    for std in SPREADS:
        if _all([best, *window], std, lambda value: value < 1e-4):
            yield Finding(
                "blind", 2, std, window[-1][std], "over 0.1",
                "All samples have had the same features from the start, so no information reaches the network",
                "Check the input: is everything masked, are the pixels constant, is the scaling right "
                "(sensors.<name>.normalise)?",
            )  # fmt: skip
            return


def _equal_features(best: Line, window: Sequence[Line]) -> Iterable[Finding]:
    """0.1 means a mean cosine of 0.99 between samples: 1 % of a feature's squared length distinguishes them."""
    for std in SPREADS:
        if _fell_under(0.1, best, window, std):
            yield Finding(
                "collapsed_features", 2, std, window[-1][std], "over 0.1",
                "Features have become nearly equal for all samples", _collapse_remedy(window),
            )  # fmt: skip
            return


def _low_rank(best: Line, window: Sequence[Line]) -> Iterable[Finding]:
    """Under 1.5, at least two thirds of the variation between samples is along one direction."""
    if _fell_under(1.5, best, window, RANK):
        yield Finding(
            "one_dimension", 1, RANK, window[-1][RANK], "over 1.5",
            "Features vary along one direction only", _collapse_remedy(window),
        )  # fmt: skip


def _uninformed_targets(best: Line, window: Sequence[Line]) -> Iterable[Finding]:
    """0.01 nats is 1/70 of a bit of information about the sample."""
    if not _fell_under(0.01, best, window, INFORMATION):
        return
    one = window[-1].get("health/target_entropy", math.nan) < 0.5
    yield Finding(
        "one_target" if one else "uniform_targets", 2, INFORMATION, window[-1][INFORMATION], "over 0.01",
        "All samples share the same few target prototypes" if one else "Targets are uniform for all samples",
        "Restore the centering of the teacher (center momentum 0.9), or raise its temperature."
        if one
        else "Sharpen the teacher: lower its temperature (0.04 to 0.07) below the student's.",
    )  # fmt: skip


def _zero_loss(best: Line, window: Sequence[Line]) -> Iterable[Finding]:
    if _all(window, "train/loss", lambda loss: abs(loss) < 1e-7):
        yield Finding(
            "zero_loss", 1, "train/loss", window[-1]["train/loss"], "over 0",
            "The loss is zero, so nothing is learned",
            "Make the task harder: different views, a mask, negatives, a predictor.",
        )  # fmt: skip


def _fell_under(limit: float, best: Line, window: Sequence[Line], name: str) -> bool:
    """Whether a measure has fallen during training: under `limit`, under half of its best, and not rising.

    The second condition excludes slow starts: random networks give nearly equal features, throughout a long warm-up.
    A measure that doubles within the window is rising, unless it is under a tenth of the limit, where rounding errors
    double too.
    """
    if not _all(window, name, lambda value: value < limit):
        return False
    rises = window[-1][name] >= max(2.0 * window[0][name], 0.1 * limit)
    return window[-1][name] < 0.5 * best[name] and not rises


def _collapse_remedy(window: Sequence[Line]) -> str:
    if INFORMATION in window[-1]:
        return "Restore the centering and the sharpening of the teacher; then lower optim.lr."
    if "health/teacher_drift" in window[-1]:
        return (
            "Without negatives, three parts prevent collapse: a predictor after the student, no gradient into the "
            "teacher, and a slow teacher. Restore the missing one, else lower optim.lr."
        )
    return "Lower optim.lr, raise objective.temperature, or raise train.global_batch, whose samples are the negatives."


# Causes before symptoms: input, then teacher and optimizer, then features and loss.
RULES: tuple[Callable[[Line, Sequence[Line]], Iterable[Finding]], ...] = (
    _constant_band, _shifted_band, _duplicates, _identical_views, _blind, _teacher_is_student, _still_teacher,
    _refused, _exploded, _above_chance, _uninformed_targets, _equal_features, _no_gradient, _low_rank, _zero_loss,
)  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """Verdict after a line of metrics; each finding comes with the step of the first line that showed it."""

    findings: tuple[tuple[Finding, int], ...]

    @property
    def level(self) -> int:
        """0 healthy, 1 suspicious, 2 collapsed."""
        return max((finding.level for finding, _ in self.findings), default=0)

    @property
    def causes(self) -> list[tuple[str, int]]:
        """Causes with their levels, sorted; the run prints a message when they change."""
        return sorted({(finding.cause, finding.level) for finding, _ in self.findings})

    def text(self) -> str:
        """The message for the terminal."""
        if not self.findings:
            return "health: healthy again."
        (finding, since), *others = self.findings
        also = f" Also: {', '.join(other.cause for other, _ in others)}." if others else ""
        return f"health: {LEVELS[self.level]} since step {since}. {finding.reason}. {finding.remedy}{also}"

    def summary(self) -> dict[str, object]:
        """The entry for summary.json."""
        findings = [
            {"cause": f.cause, "since_step": since, "reason": f.reason, "remedy": f.remedy}
            for f, since in self.findings
        ]
        return {"verdict": LEVELS[self.level], "findings": findings}


@final
class HealthMonitor:
    """Keeps the window of recent lines and the best values so far; `add` returns the verdict after each line."""

    def __init__(self, settings: HealthSettings, lines: Iterable[Line] = ()) -> None:
        """`lines`: those written before a resume."""
        self._best = dict.fromkeys(GAINS, -math.inf)
        self._window: deque[Line] = deque(maxlen=settings.window)
        self._since: dict[tuple[str, str], int] = {}
        self.verdict = Verdict(())
        for line in lines:
            self.add(line)

    def add(self, line: Line) -> Verdict:
        """Add one line; return the new verdict."""
        # max() keeps `best` if the line has NaN.
        self._best |= {name: max(best, line.get(name, best)) for name, best in self._best.items()}
        self._window.append(line)
        full = len(self._window) == self._window.maxlen
        found = judge(self._best, self._window) if full else []
        start = int(self._window[0]["step"])
        self._since = {(f.cause, f.measure): self._since.get((f.cause, f.measure), start) for f in found}
        self.verdict = Verdict(tuple((f, self._since[f.cause, f.measure]) for f in found))
        return self.verdict
