"""`rspretrain linear-eval` from a checkout without installing it, under python, deepspeed, torchrun or srun."""

import sys

sys.path[0] = __file__.rpartition("/launchers/")[0]  # the repository

from rspretrain.cli.main import run

if __name__ == "__main__":
    sys.exit(run("linear-eval"))
