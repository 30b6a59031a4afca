"""The `rspretrain` command: one module per subcommand, each with `main(argv) -> int`.

At the top, these modules import only fast modules. They parse the command line and print a first line before they
import torch, which takes ten seconds on a slow disk. `training` is the exception: only `main` functions import it.
"""
