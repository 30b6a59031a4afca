"""`rspretrain merge` from a checkout without installing it."""

import sys

sys.path[0] = __file__.rpartition("/shards/")[0]  # the repository; this folder's inspect.py hides the stdlib's

from rspretrain.cli.main import run

if __name__ == "__main__":
    sys.exit(run("merge"))
