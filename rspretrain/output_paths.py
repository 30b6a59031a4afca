"""Checks of output paths before slow work. They create nothing, and name the argument, the path and the reason."""

import tempfile
from pathlib import Path


def check_folder(path: Path, name: str) -> None:
    """ValueError where `path` is not a folder that can be written to, and cannot become one. `name`: the argument."""
    try:
        existing = path
        while not existing.exists() and existing != existing.parent:
            existing = existing.parent
        if existing.is_dir():
            with tempfile.TemporaryFile(dir=existing):
                return
    except OSError as error:
        reason = error.strerror or str(error)
    else:
        reason = f"{existing} is a file"
    raise ValueError(f"{name}: {path} cannot be used as a folder ({reason}). Choose another {name}.")


def check_file(path: Path, name: str) -> None:
    """ValueError where a file `path` cannot be written, in a folder that is made if need be. `name`: the argument."""
    try:
        if not path.is_dir():
            check_folder(path.absolute().parent, name)
            return
        reason = "it is a folder"
    except OSError as error:
        reason = error.strerror or str(error)
    except ValueError as error:
        reason = str(error).partition("(")[2].rpartition(")")[0]
    raise ValueError(f"{name}: {path} cannot be written ({reason}). Choose another {name}.")
