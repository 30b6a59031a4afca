"""Every command in the documents parses, and every configuration with its overrides is valid."""

import argparse
import importlib
import re
import shlex
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from docs.pages import DOCUMENTS, ROOT, blocks, code_lines
from rspretrain.archives import _value, parameters_of
from rspretrain.cli.main import COMMANDS
from rspretrain.config import load, load_active, load_finetune
from rspretrain.shipped_configs import find_config
from rspretrain.strategies import resolve_strategy
from rspretrain.world import World

# A command line runs the installed command, a module under a launcher, or a script of the checkout.
FORMS = re.compile(
    r"(?:rspretrain (?P<command>[a-z-]+)"
    r"|(?P<launcher>\w+ .*?)(?:rspretrain\.cli\.(?P<module>\w+)|(?:launchers|shards)/(?P<script>\w+)\.py))"
    r"(?P<rest>(?: .*)?)"
)
STARTS = ("rspretrain ", "python ", "deepspeed ", "torchrun ", "srun ")


class Typed(NamedTuple):
    """A command line of the documents."""

    page: str
    launcher: str  # deepspeed, torchrun, python or nothing
    command: str  # such as label-fractions
    arguments: tuple[str, ...]


def typed(page: str, line: str) -> Typed | None:
    """None for a line that is no command, or has placeholders for all important parts."""
    found = FORMS.fullmatch(line) if line.startswith(STARTS) else None
    if found is None or found["rest"].strip() in ("…", "ARCHIVE …"):
        return None
    command = (found["command"] or found["module"] or found["script"]).replace("_", "-")
    rest = re.sub(r"\$\{?(\w+)\}?", lambda name: {"query": "mge"}.get(name[1], "8"), found["rest"])
    return Typed(page, (found["launcher"] or "").partition(" ")[0], command, tuple(shlex.split(rest)))


COMMAND_LINES = sorted({
    found for page, text in DOCUMENTS.items() for line in code_lines(text) if (found := typed(page, line)) is not None
})  # fmt: skip

# tests/extending writes the files of that page and runs its commands.
TO_CHECK = [line for line in COMMAND_LINES if line.page != "docs/extending.md"]


def parsed(line: Typed) -> argparse.Namespace:
    return importlib.import_module(f"rspretrain.cli.{line.command.replace('-', '_')}").parse(list(line.arguments))


def is_template(line: Typed) -> bool:
    """`rspretrain build ARCHIVE --source NAME=PATH …` shows the form only."""
    return "ARCHIVE" in line.arguments or "--help" in line.arguments


@pytest.mark.parametrize("line", COMMAND_LINES, ids=lambda line: f"{line.page}: {line.command} {line.arguments}"[:90])
def test_every_command_parses(line, capsys):
    if "--help" in line.arguments:
        with pytest.raises(SystemExit, match="0"):
            parsed(line)
        assert "usage:" in capsys.readouterr().out
    else:
        parsed(line)


@pytest.mark.parametrize("line", [line for line in TO_CHECK if line.command == "build" and not is_template(line)])
def test_every_build_has_sources_and_options_of_its_archive(line):
    args = parsed(line)
    paths, choices = parameters_of(args.archive)
    assert all(given.partition("=")[0].lower() in paths for given in args.source if "=" in given)
    assert len(args.source) == 1 or all("=" in given for given in args.source)
    for given in args.option:
        name, _, text = given.partition("=")
        _value(args.archive, text, choices[name])


# Command -> its loader, the kind of configuration, and the configuration used for `--config …`.
CONFIGURED = {
    "pretrain": (load, "pretrain", "dual_simclr_bigearthnet"),
    "finetune": (load_finetune, "finetune", "linear"),
    "label-fractions": (load_finetune, "finetune", "linear"),
    "active-learning": (load_active, "active_learning", "ucmerced_small"),
}


@pytest.mark.parametrize("line", [line for line in TO_CHECK if line.command in CONFIGURED])
def test_every_run_could_start(line):
    args = parsed(line)
    read, kind, default = CONFIGURED[line.command]
    if getattr(args, "explain", None):
        return
    given = Path(default) if str(args.config) in ("…", "RUN.yaml") else args.config
    path = ROOT / given if given.parent != Path() else find_config(given, kind)
    settings = read(path, ["run.dir=unused", *args.overrides])
    world = World(0, 1 if line.launcher in ("", "python") else 8, 0, torch.device("cpu"))
    resolve_strategy(settings.strategy, world, settings.optim, line.launcher == "deepspeed")


def test_every_command_is_in_the_documents():
    assert {line.command for line in COMMAND_LINES} == set(COMMANDS)


def test_the_job_array_is_bash():
    (script,) = blocks("shards", "bash")
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, timeout=10, check=False)
    assert (done.returncode, done.stderr) == (0, "")
