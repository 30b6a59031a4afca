"""Shared by all commands: the command's name as the user typed it, the first line on screen, errors, output paths."""

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from rspretrain.output_paths import check_file


def typed(command: str) -> str:
    """A command as the user typed it: `rspretrain build`, `shards/build.py` or `python -m rspretrain.cli.build`."""
    program = Path(sys.argv[0]).absolute()
    if program.stem == command.replace("-", "_"):
        if program.parent.name in ("launchers", "shards"):
            return f"{program.parent.name}/{program.name}"
        if program.parent.name == "cli":
            return f"python -m rspretrain.cli.{program.stem}"
    return f"rspretrain {command}"


def command_parser(command: str, description: str | None) -> argparse.ArgumentParser:
    """A parser whose usage and errors name the command that the user typed."""
    style = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(prog=typed(command), description=description, formatter_class=style)


def config_parser(command: str, description: str | None) -> argparse.ArgumentParser:
    """The parser of the commands that train from a configuration."""
    parser = command_parser(command, description)
    parser.add_argument(
        "--config", type=Path, required=True, metavar="NAME", help="YAML file, or a name from `rspretrain configs`"
    )
    parser.add_argument(
        "--explain", action=Explain, command=command, metavar="KEY", help="explain a key or section, as in optim.lr"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print configuration, parameters and plan; write nothing"
    )
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher passes it
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="as in optim.lr=3e-4")
    return parser


def training_parser(command: str, description: str | None) -> argparse.ArgumentParser:
    """The parser of the commands that can resume a run."""
    parser = config_parser(command, description)
    parser.add_argument("--resume", action="store_true", help="continue the run in run.dir")
    return parser


class Explain(argparse.Action):
    """`--explain KEY`: print the meaning of a setting of `command` and exit; no other argument is needed."""

    def __init__(self, command: str, **options: Any) -> None:
        super().__init__(**options)
        self.command = command

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object, option: str | None = None
    ) -> NoReturn:
        """Print the entry of docs/configuration.md."""
        from rspretrain import config  # imports torch
        from rspretrain.config.reference import explain

        kinds: dict[str, type[config.CommonSettings]] = {
            "pretrain": config.RunSettings,
            "active-learning": config.ActiveSettings,
        }
        try:
            print(explain(str(values), kinds.get(self.command, config.FinetuneSettings)))
        except config.ConfigError as error:
            raise SystemExit(fail(self.command, error)) from None
        raise SystemExit(0)


def announce(text: str) -> None:
    """Print a first line on stderr, on the first rank, before slow imports."""
    rank = os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or "0"
    if rank == "0":
        print(text, file=sys.stderr, flush=True)


def check_files(paths: Mapping[str, Path | None]) -> None:
    """ValueError, before slow work, if one of the output files (argument -> path) cannot be written."""
    for name, path in paths.items():
        if path is not None:
            check_file(path, name)


def fail(command: str, error: Exception | str) -> int:
    """Print an error as one paragraph; exit status 2."""
    print(f"{typed(command)}: error: {error}", file=sys.stderr)
    return 2


def quiet_libraries() -> None:
    """Silence messages of libraries that no user can act on, each by its text or module. Our own are not touched."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="deepspeed")
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)  # DeepSpeed's calls
    logging.getLogger("DeepSpeed").addFilter(lambda record: "Setting accelerator to CPU" not in record.getMessage())
