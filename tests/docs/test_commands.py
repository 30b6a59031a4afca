"""Every command in the documents is one that the scripts understand, and every run one that could start."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from docs.pages import PAGES, ROOT, blocks
from rspretrain.archives import _value, parameters_of
from rspretrain.config import load, load_active, load_finetune
from rspretrain.strategies import resolve_strategy
from rspretrain.world import World


def commands() -> list[tuple[str, str]]:
    """(page, command) of every `python shards/…` in the documents, continued lines joined."""
    found = []
    for page, text in PAGES.items():
        lines = re.findall(r"^(?: {4})?(python shards/.*)$", text.replace("\\\n", " "), re.MULTILINE)
        found += [
            (page, re.sub("  +", " ", line.partition(" #")[0].strip())) for line in lines if " ARCHIVE " not in line
        ]
    return found


def parsed(command: str, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Any]:
    """The script's name and its parsed command line, None for a script that is but its own; SystemExit where it does
    not parse."""
    _, script, *arguments = shlex.split(re.sub(r"\$SLURM_\w+", "8", command))
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])  # the scripts set their first entry
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    spec = importlib.util.spec_from_file_location(f"docs_{Path(script).stem}", ROOT / script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if hasattr(module, "parse"):
        return Path(script).stem, module.parse()
    assert module.main() == 2  # it was understood, but there is no such shard set
    return Path(script).stem, None


@pytest.mark.parametrize(("page", "command"), commands(), ids=lambda text: text[:60])
def test_every_command_parses(page, command, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    if command.endswith("--help"):
        with pytest.raises(SystemExit, match="0"):
            parsed(command, monkeypatch)
        return
    script, args = parsed(command, monkeypatch)
    if script != "build":
        return
    paths, choices = parameters_of(args.archive)
    assert all(given.partition("=")[0].lower() in paths for given in args.source if "=" in given)
    assert len(args.source) == 1 or all("=" in given for given in args.source)
    for given in args.option:
        name, _, text = given.partition("=")
        _value(args.archive, text, choices[name])


def test_there_are_commands_of_every_script():
    scripts = {command.split()[1] for _, command in commands()}
    assert scripts == {f"shards/{name}.py" for name in ("build", "inspect", "merge", "upgrade", "verify")}


@pytest.mark.parametrize("command", re.findall(r"^\w+ .*launchers/pretrain\.py .*$", PAGES["strategies"], re.MULTILINE))
def test_every_run_could_start(command):
    before, _, given = command.partition(" launchers/pretrain.py ")
    launcher = before.split()[0]
    path, *overrides = shlex.split(given.removeprefix("--config ").replace(" --resume", ""))
    settings = load(ROOT / path, ["run.dir=unused", *overrides])
    resolve_strategy(settings.strategy, World(0, 8, 0, torch.device("cpu")), settings.optim, launcher == "deepspeed")


# Launcher -> how it reads a configuration, and one that stands for the … of the documents.
CONFIGURED = {
    "pretrain": (load, "pretrain/dual_simclr_bigearthnet"),
    "finetune": (load_finetune, "finetune/linear"),
    "label_fractions": (load_finetune, "finetune/linear"),
    "active_learning": (load_active, "active_learning/ucmerced_small"),
}


def launches() -> list[str]:
    """What follows `launchers/` in every command line of the documents and the README."""
    texts = [*PAGES.values(), (ROOT / "README.md").read_text()]
    lines = [line for text in texts for line in text.replace("\\\n", " ").splitlines()]
    found = [
        re.search(r"^ *(?:(?:python|deepspeed|torchrun) .*)?\blaunchers/(\w+\.py +[^|`]*)$", line) for line in lines
    ]
    return [re.sub("  +", " ", one[1].partition(" #")[0].strip()) for one in found if one]


@pytest.mark.parametrize("command", sorted(set(launches())), ids=lambda text: text[:60])
def test_every_launch_is_understood(command):
    script, *arguments = shlex.split(re.sub(r"\$\{?(\w+)\}?", lambda name: {"query": "mge"}.get(name[1], "1"), command))
    launcher = Path(script).stem
    code = "".join((ROOT / "launchers" / name).read_text() for name in (script, "common.py"))
    assert [flag for flag in arguments if flag.startswith("--") and f'"{flag}"' not in code] == []
    if launcher in CONFIGURED:
        read, default = CONFIGURED[launcher]
        path = arguments[arguments.index("--config") + 1]
        known = f"configs/{default}.yaml" if path in ("…", "RUN.yaml") else path
        given = [text for text in arguments if re.match(r"[a-z_]+(\.\w+)*=", text)]
        assert read(ROOT / known, ["run.dir=unused", *given])


def test_every_launcher_is_in_the_documents():
    scripts = {path.name for path in (ROOT / "launchers").glob("*.py")} - {"common.py"}
    assert {command.split()[0] for command in launches()} == scripts


def test_the_job_array_is_bash():
    (script,) = blocks("shards", "bash")
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, timeout=10, check=False)
    assert (done.returncode, done.stderr) == (0, "")
