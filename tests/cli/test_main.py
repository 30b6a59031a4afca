"""The table of commands, and the first line of each before its slow imports."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from rspretrain import __version__
from rspretrain.cli.main import COMMANDS, Command, main

ROOT = Path(__file__).parents[2]
ARGUMENTS = {
    "build": ("ucmerced", "--source", "x", "--out", "y"),
    "verify": ("x",),
    "inspect": ("x",),
    "merge": ("x", "--out", "y"),
    "upgrade": ("x",),
    "demo": (),
    "pretrain": ("--config", "x"),
    "finetune": ("--config", "x"),
    "probe": ("--backbone", "x", "--shards", "y"),
    "predict": ("--classifier", "x", "--shards", "y", "--out", "z.csv"),
    "export": ("--run", "x"),
    "active-learning": ("--config", "x"),
    "curves": ("x",),
    "label-fractions": ("--config", "x"),
    "linear-eval": ("--backbone", "x", "--shards", "y"),
}


def test_help_has_a_line_for_every_command(capsys):
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if re.match("  [a-z]", line)] == list(COMMANDS)
    assert main([]) == 2
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"rspretrain {__version__}\n"


def test_there_is_a_command_for_every_module_and_shim():
    modules = {path.stem for path in (ROOT / "rspretrain/cli").glob("*.py")} - {
        "__init__",
        "common",
        "main",
        "training",
    }
    assert {name.replace("-", "_") for name in COMMANDS} == modules
    shims = {path.stem for folder in ("launchers", "shards") for path in (ROOT / folder).glob("*.py")}
    assert shims == modules - {"configs"}


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ("pretrian", "Did you mean 'pretrain'?"),
        ("linear_eval", "Did you mean 'linear-eval'?"),
        ("x", "Commands: build, "),
    ],
)
def test_an_unknown_command_names_the_nearest(capsys, given, remedy):
    assert main([given]) == 2
    assert f"rspretrain: error: unknown command {given!r}. {remedy}" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_the_command_that_was_typed(monkeypatch, capsys, name):
    for program, typed in (("rspretrain", f"rspretrain {name}"), (f"shards/{name}.py", f"shards/{name}.py")):
        monkeypatch.setattr(sys, "argv", [program.replace("-", "_")])
        with pytest.raises(SystemExit, match="0"):
            main([name, "--help"])
        assert capsys.readouterr().out.startswith(f"usage: {typed.replace('-', '_') if '/' in typed else typed} ")


def test_commands_print_before_slow_imports():
    """Without numpy and torch, each command prints a line before its import fails."""
    code = f"""
import importlib, sys
sys.modules["numpy"] = sys.modules["torch"] = None
for name, arguments in {ARGUMENTS!r}.items():
    module = importlib.import_module("rspretrain.cli." + name.replace("-", "_"))
    try:
        module.main(arguments)
    except ImportError:
        print(name, file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT, check=True
    )
    lines = done.stderr.splitlines()
    assert lines[1::2] == list(ARGUMENTS)
    assert all(line.endswith(" …") for line in lines[::2])


@pytest.mark.slow
def test_shims_and_modules_are_the_command(tmp_path):
    for command in (["shards/verify.py"], ["launchers/curves.py"], ["-m", "rspretrain.cli.verify"]):
        typed = command[-1] if "/" in command[-1] else f"python -m {command[-1]}"
        done = subprocess.run(
            [sys.executable, *command, str(tmp_path)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith(f"{typed}: error: {tmp_path} ")
    assert Command.module("linear-eval") == "rspretrain.cli.linear_eval"
