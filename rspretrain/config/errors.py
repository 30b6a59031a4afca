"""Errors of a configuration as sentences: the key, its value, what was expected and what to do."""

import contextlib
import difflib
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from rspretrain.registry import SettingsByName
from rspretrain.settings import Settings

Tree = dict[str, Any]


class ConfigError(ValueError):
    """An invalid configuration. The message names the key, its value and what was expected."""


def explain(item: Mapping[str, Any], tree: Tree, kind: type[Settings]) -> str:
    """One or two sentences for an error of pydantic: the value, the expectation, the remedy."""
    path = _path_in(tree, item["loc"], item["type"] != "value_error")
    key = ".".join(path)
    if item["type"] == "extra_forbidden":
        return _unknown_key(path, tree, kind)
    if item["type"] == "missing":
        return f"{key!r} is missing and has no default. Set it in the file or as {key}=…."
    if item["type"] == "value_error":  # our own message
        message: str = item["msg"].removeprefix("Value error, ")
        return message if message.startswith((f"{key}.", f"{key}:")) else f"{key}: {message}"
    expected = item["msg"].removeprefix("Input should be ")
    return f"{key!r} is {item['input']!r}, expected {expected}."


def _path_in(tree: Tree, location: Sequence[int | str], may_lack: bool) -> list[str]:
    """The location of an error from pydantic, without the names of union members, which no file contains.

    `may_lack`: the last part is a key even if it is not there.
    """
    path, node = [], tree
    for index, part in enumerate(location):
        inside = isinstance(node, dict) and part in node
        if inside or (may_lack and index == len(location) - 1) or isinstance(part, int):
            path.append(str(part))
            node = node[part] if inside else {}  # type: ignore[index]
    return path


def _unknown_key(path: list[str], tree: Tree, kind: type[Settings]) -> str:
    """The error for a key that the settings do not have, with the nearest key or the parts that have it."""
    section, key = path[0], ".".join(path)
    by_name = settings_by_name(kind.model_fields[section]) if section in kind.model_fields else None
    if by_name and (owners := _owners(by_name, path[1:])):
        verb, example = ("has" if len(owners) == 1 else "have"), next(iter(owners))
        meaning = f" ({owners[example].rstrip('.')})" if owners[example] else ""
        return (
            f"{key!r} is not a setting of the {by_name.kind} {_chosen_name(by_name, tree[section])}; "
            f"{', '.join(owners)} {verb} it{meaning}. Leave it out, or set {section}.name={example}."
        )
    return f"Unknown key {key!r}. {_nearest(path, tree, kind)}"


def _owners(by_name: SettingsByName, path: list[str]) -> dict[str, str]:
    """The parts whose settings have the key -> its description, of a key that has one."""
    owners = {}
    for name in by_name.names:
        model = by_name.model(name)
        if ".".join(path) in set(known_keys(model)):
            owners[name] = (model.model_fields[path[0]].description or "") if len(path) == 1 else ""
    return owners


def _chosen_name(by_name: SettingsByName, section: Any) -> str:
    return str(section.get("name", by_name.default)) if isinstance(section, Mapping) else str(by_name.default)


def _chosen(tree: Tree, kind: type[Settings]) -> dict[str, type[Settings]]:
    """Section -> the settings of the part that its `name` chooses, if that part is known."""
    models: dict[str, type[Settings]] = {}
    for section, field in kind.model_fields.items():
        if by_name := settings_by_name(field):
            with contextlib.suppress(ValueError):
                models[section] = by_name.model(_chosen_name(by_name, tree.get(section)))
    return models


def _nearest(path: list[str], tree: Tree, kind: type[Settings]) -> str:
    parent, key = path[:-1], ".".join(path)
    known = sorted(set(known_keys(kind, chosen=_chosen(tree, kind))))
    siblings = sorted({name for *above, name in (k.split(".") for k in known) if _same(above, parent)})
    close = difflib.get_close_matches(path[-1], siblings, n=1, cutoff=0.6)
    if close:
        return f"Did you mean {'.'.join([*parent, close[0]])!r}?"
    others = [k for k in known if not key.startswith(k)]
    similar = difflib.get_close_matches(key, others, n=1, cutoff=0.8)
    anywhere = [k for k in others if k.split(".")[-1] == path[-1]] or similar
    if anywhere:
        return f"Did you mean {anywhere[0]!r}?"
    where = f"Section {'.'.join(parent)!r}" if parent else "The top level"
    return f"{where} has {', '.join(siblings)}." if siblings else f"{where} is not a section."


def _same(pattern: list[str], path: list[str]) -> bool:
    return len(pattern) == len(path) and all(a in ("*", b) for a, b in zip(pattern, path, strict=True))


def settings_by_name(field: FieldInfo) -> SettingsByName | None:
    """The rule by which the model of a section depends on its `name`; None for a section with one model."""
    return next((one for one in field.metadata if isinstance(one, SettingsByName)), None)


def known_keys(
    annotation: Any, prefix: str = "", chosen: Mapping[str, type[Settings]] = MappingProxyType({})
) -> Iterator[str]:
    """Every dotted key that a model knows, through unions (all members) and dictionaries (`*`).

    A section whose model depends on its `name` has the keys of all parts in the list; only those of `chosen`, if that
    has the section.
    """
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
            by_name = settings_by_name(field)
            if by_name and not prefix and name in chosen:
                yield from known_keys(chosen[name], f"{name}.")
            elif by_name:
                for model in map(by_name.model, by_name.names):
                    yield from known_keys(model, f"{prefix}{name}.")
            else:
                yield from known_keys(field.annotation, f"{prefix}{name}.")
