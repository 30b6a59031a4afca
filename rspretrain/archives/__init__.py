"""Original layouts in, patches out: one file an archive, and the only code that knows rasterio."""

import difflib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from rspretrain.archives.base import Archive
from rspretrain.archives.bigearthnet import BigEarthNet
from rspretrain.archives.bigearthnet_v2 import BigEarthNetV2
from rspretrain.archives.dfc2020 import Dfc2020
from rspretrain.archives.eurosat import EuroSat
from rspretrain.archives.geotiff import GeoTiff
from rspretrain.archives.scenes import Aid, Folder, Resisc45, Rsscn7, UcMerced
from rspretrain.archives.sen12ms import Sen12Ms

ARCHIVES: dict[str, type[Archive]] = {
    "bigearthnet": BigEarthNet,
    "bigearthnet-v2": BigEarthNetV2,
    "sen12ms": Sen12Ms,
    "dfc2020": Dfc2020,
    "geotiff": GeoTiff,
    "ucmerced": UcMerced,
    "aid": Aid,
    "resisc45": Resisc45,
    "rsscn7": Rsscn7,
    "eurosat": EuroSat,
    "folder": Folder,
}


def open_archive(name: str, sources: Sequence[str], options: Sequence[str] = ()) -> Archive:
    """The archive `name` from `NAME=PATH` sources (or one bare PATH where it needs only one) and `NAME=VALUE` options.

    Both are parameters of the archive's constructor: paths are sources, everything else is an option. ValueError where
    the archive, a source, an option or its value is not understood, or a folder does not exist.
    """
    if name not in ARCHIVES:
        nearest = difflib.get_close_matches(name, ARCHIVES, n=1, cutoff=0.0)[0]
        raise ValueError(f"Unknown archive {name!r}; known are {sorted(ARCHIVES)}. Did you mean {nearest!r}?")
    parameters = inspect.signature(ARCHIVES[name], eval_str=True).parameters
    paths = [each for each, parameter in parameters.items() if "Path" in str(parameter.annotation)]
    needed = [each for each in paths if parameters[each].default is inspect.Parameter.empty]
    folders = _split(name, "source", "PATH", sources, paths, needed[0] if len(needed or paths) == 1 else None)
    if missing := [each for each in needed if each not in folders]:
        raise ValueError(f"{name} got no source {missing[0]!r}, expected --source {missing[0]}=PATH. Add it.")
    values = _split(name, "option", "VALUE", options, [each for each in parameters if each not in paths], None)
    archive = ARCHIVES[name](
        **{key: Path(path) for key, path in folders.items()},
        **{key: _value(name, key, text, parameters[key].annotation) for key, text in values.items()},
    )
    archive.options = dict(sorted(values.items()))
    return archive


def _split(
    name: str, kind: str, what: str, arguments: Sequence[str], known: list[str], default: str | None
) -> dict[str, str]:
    """`KEY=TEXT` arguments as a dictionary; a bare TEXT is that of the key `default`."""
    usage = " ".join(f"{each}={what}" for each in known) or f"no --{kind} at all"
    found: dict[str, str] = {}
    for argument in arguments:
        head, separator, text = argument.partition("=")
        key = head.lower()
        if key not in known:
            if default is None or (separator and "/" not in head):
                raise ValueError(f"{name} does not understand the {kind} {argument!r}; expected --{kind} {usage}.")
            key, text = default, argument
        if key in found:
            raise ValueError(f"{name} got the {kind} {key!r} twice; expected --{kind} {usage}.")
        found[key] = text
    return found


def _value(name: str, key: str, text: str, annotation: Any) -> Any:
    """The option's text as the type of its parameter; tuples are comma-separated."""
    given: Any = tuple(filter(None, text.split(","))) if "tuple" in str(annotation) else text
    try:
        return TypeAdapter(annotation).validate_python(given)
    except ValidationError as error:
        raise ValueError(
            f"{name} got the option {key}={text!r}: {error.errors()[0]['msg']}, expected {annotation}. Correct it."
        ) from None
