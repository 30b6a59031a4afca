"""Original layouts in, patches out: one file an archive, and the only code that knows rasterio."""

import difflib
import inspect
from collections.abc import Sequence
from pathlib import Path

from rspretrain.archives.base import Archive
from rspretrain.archives.bigearthnet import BigEarthNet
from rspretrain.archives.scenes import Aid, Folder, UcMerced

ARCHIVES: dict[str, type[Archive]] = {"bigearthnet": BigEarthNet, "ucmerced": UcMerced, "aid": Aid, "folder": Folder}


def open_archive(name: str, sources: Sequence[str]) -> Archive:
    """The archive `name` from `NAME=PATH` arguments (or one bare PATH where it takes a single root).

    ValueError where the archive or a source name is unknown, or a folder does not exist.
    """
    if name not in ARCHIVES:
        nearest = difflib.get_close_matches(name, ARCHIVES, n=1, cutoff=0.0)[0]
        raise ValueError(f"Unknown archive {name!r}; known are {sorted(ARCHIVES)}. Did you mean {nearest!r}?")
    known = list(inspect.signature(ARCHIVES[name]).parameters)
    folders: dict[str, Path] = {}
    for source in sources:
        key, separator, path = source.rpartition("=")
        key = key.lower() if separator else known[0]
        usage = " ".join(f"{each}=PATH" for each in known)
        if key not in known or (not separator and len(known) > 1):
            raise ValueError(f"{name} does not understand the source {source!r}; expected --source {usage}.")
        if key in folders:
            raise ValueError(f"{name} got the source {key!r} twice; expected --source {usage}.")
        folders[key] = Path(path)
    return ARCHIVES[name](**folders)
