"""Export every backbone from any checkpoint of a run.

    rspretrain export --run runs/a                     # the newest checkpoint
    rspretrain export --run runs/a --step 2000 --out exports/a2000
    rspretrain export --run runs/a --whose teacher --out exports/a_teacher

Exit status: 0 done, 2 the run or the step does not exist, or the checkpoint is damaged.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rspretrain.cli.common import announce, command_parser, fail
from rspretrain.cli.main import run
from rspretrain.output_paths import check_folder


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = command_parser("export", __doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of the run (run.dir)")
    parser.add_argument("--step", type=int, help="step of the checkpoint; default: the newest")
    parser.add_argument("--out", type=Path, help="folder for the exports; default: <run>/export_step_<step>")
    parser.add_argument(
        "--whose", choices=("student", "teacher"), help="network to export; default: objective.export of the run"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Export, and print the folders."""
    arguments = parse(argv)
    announce(f"Loading PyTorch and the checkpoint of {arguments.run} …")
    from rspretrain.engine.checkpoint import DamagedCheckpointError
    from rspretrain.engine.export import export_checkpoint

    try:
        if arguments.out:
            check_folder(arguments.out, "--out")
        folders = export_checkpoint(arguments.run, arguments.step, arguments.out, arguments.whose)
    except (ValueError, DamagedCheckpointError) as error:
        return fail("export", error)
    for sensor, folder in folders.items():
        print(f"backbone {sensor:<4}{folder}")
    return 0


if __name__ == "__main__":
    sys.exit(run("export"))
