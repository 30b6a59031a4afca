"""Signals that ask a run to save and leave: SIGTERM, and SIGUSR1, which SLURM sends ahead of the end of a job."""

import signal
from types import FrameType, TracebackType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class StopRequest:
    """Notes a signal while it is entered; the loop asks `received` between steps. A second signal is noted likewise.

    Whoever starts several runs enters one and passes it to all of them: each handler takes the place of an outer one.
    """

    def __init__(self) -> None:
        self.received: str | None = None  # name of the signal

    def __enter__(self) -> "StopRequest":
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received = signal.Signals(number).name
