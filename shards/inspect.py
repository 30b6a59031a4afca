"""`rspretrain inspect` from a checkout, where nothing need be installed."""

import sys

sys.path[0] = __file__.rpartition("/shards/")[0]  # the repository; here, inspect.py would hide the standard library's

from rspretrain.cli.main import run

if __name__ == "__main__":
    sys.exit(run("inspect"))
