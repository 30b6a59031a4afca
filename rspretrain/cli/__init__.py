"""The `rspretrain` command: one module per subcommand, each with `main(argv) -> int`.

At the top, these modules import only what is quick. They read the command line and print a first line, and import torch
(ten seconds on a slow disk) after it. `training` is the exception: it is imported by `main` functions only.
"""
