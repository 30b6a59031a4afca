"""Readers of raw archives: one module per archive turns the original layout into patches.

Only this package uses rasterio.
"""

import difflib
import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

from rspretrain.archives.base import Archive
from rspretrain.registry import Registry

ARCHIVES = Registry(
    "archive",
    Archive,  # type: ignore[type-abstract]
    {
        "bigearthnet": "rspretrain.archives.bigearthnet:BigEarthNet",
        "bigearthnet-v2": "rspretrain.archives.bigearthnet_v2:BigEarthNetV2",
        "sen12ms": "rspretrain.archives.sen12ms:Sen12Ms",
        "dfc2020": "rspretrain.archives.dfc2020:Dfc2020",
        "geotiff": "rspretrain.archives.geotiff:GeoTiff",
        "ucmerced": "rspretrain.archives.scenes:UcMerced",
        "aid": "rspretrain.archives.scenes:Aid",
        "resisc45": "rspretrain.archives.scenes:Resisc45",
        "rsscn7": "rspretrain.archives.scenes:Rsscn7",
        "eurosat": "rspretrain.archives.eurosat:EuroSat",
        "folder": "rspretrain.archives.scenes:Folder",
    },
)


Parameters = Mapping[str, inspect.Parameter]
_NONE = "…"  # shown for an option without a default
GUIDE = "docs/archives.md"  # layouts, sources and options of every archive


def open_archive(name: str, sources: Sequence[str], options: Sequence[str] = ()) -> Archive:
    """Open the archive `name` from `NAME=PATH` sources (a bare PATH if it needs only one) and `NAME=VALUE` options.

    `name` may be an import path. Sources and options are parameters of the archive's constructor: paths are sources,
    all others are options. ValueError if the archive, a source, an option or a value is unknown, or a folder does not
    exist.
    """
    paths, choices = parameters_of(name)
    needed = [each for each, parameter in paths.items() if parameter.default is inspect.Parameter.empty]
    only_source = needed[0] if len(needed or paths) == 1 else None
    folders = _split(name, "source", sources, paths, only_source)
    if missing := [each for each in needed if each not in folders]:
        usage = _usage("source", paths)
        raise ValueError(f"{name} got no source {missing[0]!r}, expected {usage}. Add {missing[0]}=PATH; see {GUIDE}.")
    values = _split(name, "option", options, choices, None)
    make: Callable[..., Archive] = ARCHIVES.find(name)
    archive = make(
        **{key: Path(path) for key, path in folders.items()},
        **{key: _value(name, text, choices[key]) for key, text in values.items()},
    )
    archive.options = dict(sorted(values.items()))
    return archive


def parameters_of(name: str) -> tuple[Parameters, Parameters]:
    """The sources and the options of an archive, by name."""
    parameters = inspect.signature(ARCHIVES.find(name), eval_str=True).parameters
    paths = {key: parameter for key, parameter in parameters.items() if "Path" in str(parameter.annotation)}
    return paths, {key: parameter for key, parameter in parameters.items() if key not in paths}


def usages() -> str:
    """Sources and options of every archive, for the help of the command line."""
    lines = []
    for name in ARCHIVES:
        paths, choices = parameters_of(name)
        usage_lines = [_usage("source", paths), _usage("option", choices) if choices else ""]
        for head, text in zip((name, ""), filter(None, usage_lines), strict=False):
            start = f"  {head:<15} "
            lines.append(
                textwrap.fill(text, 112, initial_indent=start, subsequent_indent=" " * 27, break_on_hyphens=False)
            )
    return "\n".join(lines)


def _usage(kind: str, known: Parameters) -> str:
    """`--source metadata=PATH [s2=PATH]`, or options with their defaults."""
    if not known:
        return f"no --{kind}"
    return f"--{kind} " + " ".join(_example(kind, parameter) for parameter in known.values())


def _example(kind: str, parameter: inspect.Parameter) -> str:
    if kind == "source":
        needed = parameter.default is inspect.Parameter.empty
        return f"{parameter.name}=PATH" if needed else f"[{parameter.name}=PATH]"
    return f"{parameter.name}={_text(parameter.default)}"


def _text(default: Any) -> str:
    """A default value as typed on the command line; … if there is none."""
    if default is None or default == ():
        return _NONE
    text = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
    return text.lower() if isinstance(default, bool) else text


def _split(name: str, kind: str, arguments: Sequence[str], known: Parameters, default: str | None) -> dict[str, str]:
    """Parse `KEY=TEXT` arguments; a bare TEXT belongs to the key `default`."""
    found: dict[str, str] = {}
    for argument in arguments:
        head, separator, text = argument.partition("=")
        key = head.lower()
        if key not in known:
            if default is None or (separator and "/" not in head):
                near = difflib.get_close_matches(key, known, n=1) if separator else []
                remedy = f"Did you mean {near[0]!r}?" if near else f"See {GUIDE}."
                raise ValueError(f"{name} has no {kind} {argument!r}; expected {_usage(kind, known)}. {remedy}")
            key, text = default, argument
        if key in found:
            raise ValueError(f"{name} got the {kind} {key!r} twice, expected it once: {_usage(kind, known)}. Drop one.")
        if not text and (kind == "source" or not separator):
            raise ValueError(f"{name} got the {kind} {argument!r} without a value, expected {key}=<value>. Add it.")
        found[key] = text
    return found


def _value(name: str, text: str, parameter: inspect.Parameter) -> Any:
    """Convert the text of an option to the type of its parameter; tuples are comma-separated."""
    several = "tuple" in str(parameter.annotation)
    try:
        return TypeAdapter(parameter.annotation).validate_python(
            tuple(filter(None, text.split(","))) if several else text
        )
    except ValidationError:
        default = _text(parameter.default).replace(_NONE, "none")
        raise ValueError(
            f"{name} got the option {parameter.name}={text!r}, expected {_kind(parameter.annotation)} (default "
            f"{default}). Correct it; see {GUIDE}."
        ) from None


_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _kind(annotation: Any) -> str:
    """The allowed values of an option, in words."""
    inner = [each for each in get_args(annotation) if each not in (type(None), Ellipsis)]
    if get_origin(annotation) is Literal:
        return " or ".join(map(str, inner))
    if get_origin(annotation) is tuple:
        return f"{_kind(inner[0])} (several separated by commas)"
    return _kind(inner[0]) if inner else _KINDS[annotation]
