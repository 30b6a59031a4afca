"""Progress display: a bar on a terminal, a plain line every few seconds in a log file."""

import sys
import time
from types import TracebackType
from typing import Self, TextIO

from tqdm import tqdm


def duration(seconds: float) -> str:
    """Format seconds: "42 s", "3 min 20 s", "5 h 12 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class Countdown:
    """Shows progress, rate and remaining time of a task; call it with (done, total).

    The first call sets the starting point, so the rate of a resumed build does not count finished work.
    """

    def __init__(self, label: str, unit: str, stream: TextIO | None = None, interval_s: float = 10.0) -> None:
        self._label, self._unit, self._interval_s = label, unit, interval_s
        self._stream = stream or sys.stderr
        self._bar: tqdm | None = None
        self._first: int | None = None

    def __call__(self, done: int, total: int) -> None:
        """`done` of `total` units are done."""
        if self._first is None:
            self._first, self._started = done, time.monotonic()
            self._next_line = self._started + self._interval_s
            if self._stream.isatty():
                self._bar = tqdm(
                    desc=self._label, unit=f" {self._unit}", initial=done, total=total, file=self._stream,
                    dynamic_ncols=True,
                )  # fmt: skip
        elif self._bar is not None:
            self._bar.update(done - self._bar.n)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + self._interval_s
            rate = (done - self._first) / (time.monotonic() - self._started)
            left = duration((total - done) / rate) if rate else "unknown time"
            values = f"{done}/{total} {self._unit}, {rate:.1f} {self._unit}/s, {left} left"
            print(f"{self._label}: {values}", file=self._stream, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()


class ProgressBar:
    """Shows step, loss, samples per second, and the fraction of time spent waiting for data."""

    def __init__(
        self,
        total_steps: int,
        first_step: int,
        enabled: bool,
        stream: TextIO | None = None,
        interval_s: float = 10.0,
    ) -> None:
        """`first_step`: steps done before a resume. `enabled`: true on the first rank only."""
        self._stream = stream or sys.stderr
        self._enabled = enabled
        self._total, self._first = total_steps, first_step
        self._started, self._interval_s = time.monotonic(), interval_s
        self._next_line = self._started  # always show the first update
        self._bar: tqdm | None = None
        if enabled and self._stream.isatty():
            self._bar = tqdm(total=total_steps, initial=first_step, unit="step", file=self._stream, dynamic_ncols=True)

    def update(self, step: int, loss: float, samples_per_s: float, wait_share: float) -> None:
        """After step number `step` (counted from 1); `wait_share` is in [0, 1]."""
        if not self._enabled:
            return
        values = f"loss {loss:.4f}, {samples_per_s:.1f} samples/s, waiting {wait_share:.0%}"
        if self._bar is not None:
            self._bar.set_postfix_str(values, refresh=False)
            self._bar.update(step - self._bar.n)
        elif time.monotonic() >= self._next_line or step == self._total:
            self._next_line = time.monotonic() + self._interval_s
            print(f"step {step}/{self._total}: {values}, {self._left(step)} left", file=self._stream, flush=True)

    def _left(self, step: int) -> str:
        step_s = (time.monotonic() - self._started) / max(step - self._first, 1)
        return duration(step_s * (self._total - step))

    def close(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()
