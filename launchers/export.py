"""Export every backbone from any checkpoint of a run.

    python launchers/export.py --run runs/a                          # the newest checkpoint
    python launchers/export.py --run runs/a --step 2000 --out exports/a2000
    python launchers/export.py --run runs/a --whose teacher --out exports/a_teacher

Exit status: 0 done, 2 the run or the step does not exist, or the checkpoint is damaged.
"""

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository, so that nothing need be installed

from rspretrain.engine.checkpoint import DamagedCheckpointError
from rspretrain.engine.export import export_checkpoint


def main() -> int:
    """Parse the command line, export, and say where everything lies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of the run (run.dir)")
    parser.add_argument("--step", type=int, help="finished steps of the checkpoint; default: the newest")
    parser.add_argument("--out", type=Path, help="folder for the exports; default: <run>/export_step_<step>")
    parser.add_argument("--whose", choices=("student", "teacher"), help="default: as the run's objective.export says")
    arguments = parser.parse_args()
    try:
        folders = export_checkpoint(arguments.run, arguments.step, arguments.out, arguments.whose)
    except (ValueError, DamagedCheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for sensor, folder in folders.items():
        print(f"backbone {sensor:<4}{folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
