import io
import re

import pytest

from rspretrain.observe.progress import Countdown, ProgressBar, duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_file_gets_few_plain_lines() -> None:
    log = io.StringIO()
    progress = ProgressBar(100, 0, enabled=True, stream=log, interval_s=3600)
    for step in range(1, 101):
        progress.update(step, 4.2, 69.24, 0.013)
    progress.close()
    first, last = log.getvalue().splitlines()
    assert re.fullmatch(r"step 1/100: loss 4\.2000, 69\.2 samples/s, waiting 1%, \d+ s left", first)
    assert last.startswith("step 100/100: ")
    assert last.endswith(", 0 s left")


def test_a_terminal_gets_a_bar_that_starts_at_the_resumed_step() -> None:
    screen = Terminal()
    progress = ProgressBar(10, 6, enabled=True, stream=screen)
    for step in range(7, 11):
        progress.update(step, 0.5, 10.0, 0.0)
    progress.close()
    assert "6/10" in screen.getvalue()
    assert "10/10" in screen.getvalue()
    assert "loss 0.5000" in screen.getvalue()


def test_other_ranks_are_silent() -> None:
    screen = Terminal()
    progress = ProgressBar(10, 0, enabled=False, stream=screen)
    progress.update(1, 0.5, 10.0, 0.0)
    progress.close()
    assert screen.getvalue() == ""


def test_a_countdown_in_a_log_has_rate_and_time_left() -> None:
    log = io.StringIO()
    with Countdown("building shards/ben", "samples", stream=log, interval_s=0.0) as countdown:
        countdown(40, 100)  # a resumed build
        countdown(70, 100)
    assert re.fullmatch(r"building shards/ben: 70/100 samples, \d+\.\d samples/s, 0 s left\n", log.getvalue())


def test_a_countdown_on_a_terminal_is_a_bar_that_starts_at_the_resumed_count() -> None:
    screen = Terminal()
    with Countdown("building", "samples", stream=screen) as countdown:
        countdown(40, 100)
        countdown(100, 100)
    assert "40/100" in screen.getvalue()
    assert "100/100" in screen.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.6, "1 min 0 s"), (3599, "59 min 59 s"), (18_720, "5 h 12 min")]
)
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert duration(seconds) == text
