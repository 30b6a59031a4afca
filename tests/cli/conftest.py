"""Commands in this process: exit status, standard output and errors."""

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from rspretrain.cli.main import Command


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str  # without the first line, which announces the work


def without_announcement(stderr: str) -> str:
    return "".join(line for line in stderr.splitlines(keepends=True) if not line.endswith("…\n"))


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """`command("build", …)` runs `rspretrain build …`."""
    monkeypatch.setattr(sys, "argv", ["rspretrain"])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def run(name: str, *arguments: object) -> Done:
        try:
            status = importlib.import_module(Command.module(name)).main([str(argument) for argument in arguments])
        except SystemExit as stopped:
            status = stopped.code
        out, err = capsys.readouterr()
        return Done(status, out, without_announcement(err))

    return run
