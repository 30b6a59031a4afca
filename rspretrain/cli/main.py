"""The entry point of `rspretrain`: finds the command, imports its module only, and runs it."""

import difflib
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rspretrain import __version__
from rspretrain.allocator import keep_large_tensors
from rspretrain.cli.common import quiet_libraries


@dataclass(frozen=True)
class Command:
    """A subcommand, with its line in `rspretrain --help`."""

    summary: str
    trains: bool = False  # keeps the memory of large tensors (allocator.py)

    @staticmethod
    def module(name: str) -> str:
        """The module of a command: `rspretrain.cli.active_learning` for active-learning."""
        return f"rspretrain.cli.{name.replace('-', '_')}"


COMMANDS = {
    "build": Command("convert an archive into a shard set"),
    "verify": Command("check every byte of a shard set against its checksums"),
    "inspect": Command("show the contents of a shard set: statistics, samples, pictures"),
    "merge": Command("join the parts of a build"),
    "upgrade": Command("bring shard sets of an older format version up to date"),
    "demo": Command("generate a small archive in the layout of BigEarthNet-MM"),
    "pretrain": Command("pretrain backbones on a shard set", trains=True),
    "finetune": Command("fine-tune backbones on the labels of a shard set", trains=True),
    "probe": Command("measure frozen features: linear probe and nearest neighbours"),
    "predict": Command("label a shard set or images with an exported classifier"),
    "export": Command("export backbones from any checkpoint of a run"),
    "active-learning": Command("choose images to label, and fine-tune on them, in rounds", trains=True),
    "curves": Command("plot several active-learning runs as learning curves"),
    "label-fractions": Command("fine-tune with several fractions of the labels", trains=True),
    "linear-eval": Command("evaluate a ViT linearly on a few labels per class"),
    "configs": Command("list the configurations that come with rspretrain, or copy one"),
}
USAGE = "usage: rspretrain COMMAND …"


def main(argv: Sequence[str] | None = None) -> int:
    """Run `rspretrain COMMAND …`; `argv` is the command line without the program's name. Returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments:
        print(overview(), file=sys.stderr)
        return 2
    command, *rest = arguments
    if command in ("-h", "--help"):
        print(overview())
        return 0
    if command == "--version":
        print(f"rspretrain {__version__}")
        return 0
    if command not in COMMANDS:
        close = difflib.get_close_matches(command.replace("_", "-"), COMMANDS, n=1)
        remedy = f"Did you mean {close[0]!r}?" if close else f"Commands: {', '.join(COMMANDS)}."
        print(f"{USAGE}\nrspretrain: error: unknown command {command!r}. {remedy}", file=sys.stderr)
        return 2
    return run(command, rest, own_process=argv is None)


def overview() -> str:
    """The text of `rspretrain --help`."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{command.summary}" for name, command in COMMANDS.items()]
    return "\n".join([
        USAGE,
        "",
        "Self-supervised pretraining for remote sensing: archives to shards to backbones that know their bands.",
        "",
        *lines,
        "",
        "`rspretrain COMMAND --help` explains a command, `rspretrain --version` prints the version. On several ranks:",
        "`deepspeed --module rspretrain.cli.pretrain …`, `torchrun -m rspretrain.cli.pretrain …`.",
    ])  # fmt: skip


def run(command: str, argv: Sequence[str] | None = None, own_process: bool = True) -> int:
    """Import a command's module and call its `main`. `own_process`: this process may start again (allocator.py)."""
    if own_process and COMMANDS[command].trains:
        keep_large_tensors()
    quiet_libraries()
    module = importlib.import_module(Command.module(command))
    status: int = module.main(argv)
    return status


if __name__ == "__main__":
    sys.exit(main())
