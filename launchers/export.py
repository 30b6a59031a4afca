"""`rspretrain export` from a checkout without installing it."""

import sys

sys.path[0] = __file__.rpartition("/launchers/")[0]  # the repository

from rspretrain.cli.main import run

if __name__ == "__main__":
    sys.exit(run("export"))
