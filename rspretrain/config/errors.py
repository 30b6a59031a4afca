"""Errors of a configuration as sentences: the key, its value, what was expected and what to do."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from rspretrain.settings import Settings

Tree = dict[str, Any]


class ConfigError(ValueError):
    """An invalid configuration. The message names the key, its value and what was expected."""


def explain(item: Mapping[str, Any], tree: Tree, kind: type[Settings]) -> str:
    """One sentence or two about one error of pydantic: the value, the expectation, the remedy."""
    path = _path_in(tree, item["loc"], item["type"] != "value_error")
    key = ".".join(path)
    if item["type"] == "extra_forbidden":
        return f"Unknown key {key!r}. {_nearest(path, kind)}"
    if item["type"] == "missing":
        return f"{key!r} is missing and has no default. Set it in the file or as {key}=…."
    if item["type"] == "value_error":  # a sentence of our own
        told: str = item["msg"].removeprefix("Value error, ")
        return told if told.startswith((f"{key}.", f"{key}:")) else f"{key}: {told}"
    expected = item["msg"].removeprefix("Input should be ")
    return f"{key!r} is {item['input']!r}, expected {expected}."


def _path_in(tree: Tree, place: Sequence[int | str], may_lack: bool) -> list[str]:
    """pydantic's place of an error without the names of union members, which no file contains.

    `may_lack`: the last part is a key even if it is not there.
    """
    path, here = [], tree
    for index, part in enumerate(place):
        inside = isinstance(here, dict) and part in here
        if inside or (may_lack and index == len(place) - 1) or isinstance(part, int):
            path.append(str(part))
            here = here[part] if inside else {}  # type: ignore[index]
    return path


def _nearest(path: list[str], kind: type[Settings]) -> str:
    known = sorted(set(known_keys(kind)))
    parent, key = path[:-1], ".".join(path)
    siblings = sorted({name for *above, name in (k.split(".") for k in known) if _same(above, parent)})
    close = difflib.get_close_matches(path[-1], siblings, n=1, cutoff=0.6)
    if close:
        return f"Did you mean {'.'.join([*parent, close[0]])!r}?"
    similar = difflib.get_close_matches(key, known, n=1, cutoff=0.8)
    anywhere = [k for k in known if k.split(".")[-1] == path[-1]] or similar
    if anywhere:
        return f"Did you mean {anywhere[0]!r}?"
    where = f"Section {'.'.join(parent)!r}" if parent else "The top level"
    return f"{where} has {', '.join(siblings)}." if siblings else f"{where} is not a section."


def _same(pattern: list[str], path: list[str]) -> bool:
    return len(pattern) == len(path) and all(a in ("*", b) for a, b in zip(pattern, path, strict=True))


def known_keys(annotation: Any, prefix: str = "") -> Iterator[str]:
    """Every dotted key that a model knows, through unions (all members) and dictionaries (`*`)."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from known_keys(get_args(annotation)[0], prefix)
    elif origin in (Union, UnionType):
        for member in get_args(annotation):
            yield from known_keys(member, prefix)
    elif origin is dict:
        yield from known_keys(get_args(annotation)[1], f"{prefix}*.")
    elif origin is tuple:
        yield from known_keys(get_args(annotation)[0], f"{prefix}*.")
    elif origin is not Literal and isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, field in annotation.model_fields.items():
            yield prefix + name
            yield from known_keys(field.annotation, f"{prefix}{name}.")
