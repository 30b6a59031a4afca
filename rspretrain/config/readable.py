"""Types, defaults and units of settings in words: "number > 0", "one of student, teacher", "list of text"."""

import re
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from rspretrain.settings import Settings

UNITS = ("pixels", "steps", "epochs", "samples", "images", "shards", "batches", "GB", "minutes", "seconds")
WORDS = {bool: "true or false", int: "whole number", float: "number", str: "text", Path: "path", Any: "any"}
PLURALS = {"whole number": "whole numbers", "number": "numbers"}


def nested_model(annotation: Any) -> tuple[str, type[Settings] | None]:
    """The model of a section and its path: "" for the field itself, ".*" for entries of a list or dictionary."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin in (dict, tuple):
        _, model = nested_model(inside[1] if origin is dict else inside[0])
        return (".*", model) if model else ("", None)
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return "", annotation
    return "", None


def type_text(field: FieldInfo) -> str:
    """The type of a field and its bounds."""
    return _words(field.annotation, field.metadata)


def _words(annotation: Any, metadata: list[Any]) -> str:
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _words(inside[0], [*inside[1:], *metadata])
    if origin in (Union, UnionType):
        some = [_words(one, metadata) for one in inside if one is not NoneType]
        return " or ".join([*some, *(["null"] if NoneType in inside else [])])
    if origin is Literal:
        return f"one of {', '.join(map(str, inside))}" if len(inside) > 1 else str(inside[0])
    if origin is tuple:
        return _list(inside, metadata)
    if origin is dict:
        return (
            "section"
            if nested_model(annotation)[1] or inside[1] is Any
            else f"section: name -> {_words(inside[1], [])}"
        )
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return "section"
    return WORDS[annotation] + _bounds(metadata)


def _list(inside: tuple[Any, ...], metadata: list[Any]) -> str:
    item = _words(inside[0], [])
    word = next((word for word in PLURALS if item.startswith(word)), item)
    items = item.replace(word, PLURALS.get(word, word), 1)
    if inside[-1] is not Ellipsis:
        return f"pair of {items}" if len(inside) == 2 else f"{len(inside)} {items}"
    if nested_model(inside[0])[1]:
        return "list of sections"
    least = next((one.min_length for one in _flat(metadata) if isinstance(one, MinLen)), 0)
    return ("non-empty " if least else "") + f"list of {items.replace('pair', 'pairs', 1)}"


def _bounds(metadata: list[Any]) -> str:
    signs = {Gt: (">", "gt"), Ge: (">=", "ge"), Lt: ("<", "lt"), Le: ("<=", "le")}
    limits = {
        sign: f"{getattr(one, attribute):g}"
        for one in _flat(metadata)
        for sign, attribute in [signs.get(type(one), ("", ""))]
        if sign
    }
    if set(limits) == {">=", "<="}:
        return f" from {limits['>=']} to {limits['<=']}"
    return " " + " and ".join(f"{sign} {limit}" for sign, limit in limits.items()) if limits else ""


def _flat(metadata: list[Any]) -> list[Any]:
    return [part for one in metadata for part in (one.metadata if isinstance(one, FieldInfo) else [one])]


def default_text(field: FieldInfo) -> str:
    """The default as YAML, `required`, or nothing for a section."""
    default = field.get_default(call_default_factory=True, validated_data={})
    if default is PydanticUndefined:
        return "*required*"
    if isinstance(default, Settings):
        name = getattr(default, "name", None) if "name" in type(default).model_fields else None
        return f"`{name}`" if isinstance(name, str) else ""
    return f"`{_yaml(default)}`"


def _yaml(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_yaml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {_yaml(one)}' for name, one in value.items())}}}"
    return str(value)


def unit_text(meaning: str) -> str:
    """The unit that a description gives as "in <unit>" or "Number of <unit>"; empty if it gives none."""
    found = re.search(rf"\b(?:in|Number of) ({'|'.join(UNITS)})\b", meaning)
    return found[1] if found else ""
