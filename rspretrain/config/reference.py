"""Reference of all settings: `docs/configuration.md`, and the text of `--explain KEY`.

python -m rspretrain.config.reference > docs/configuration.md
"""

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from rspretrain.config.errors import ConfigError, settings_by_name
from rspretrain.config.readable import default_text, nested_model, type_text, unit_text
from rspretrain.config.settings_tree import ActiveSettings, CommonSettings, FinetuneSettings, RunSettings
from rspretrain.settings import Settings

INTRODUCTION = """\
<!-- Generated: python -m rspretrain.config.reference > docs/configuration.md -->

# Configuration

All settings of pretraining, fine-tuning and active learning. A run reads a YAML file (`--config`). Arguments of the
form `section.key=value` override it, as in `optim.lr=3e-4`. Unknown keys are errors. The resolved configuration is
saved as `config.yaml` in the run folder.

`--explain KEY` prints the entry of a key or section, as in `rspretrain pretrain --explain optim.lr`.

A key marked *required* has no default. `null` is the empty value of YAML. `*` in a key stands for a name that you
choose, such as `s2` in `sensors.s2.bands`.
"""
PARTS: tuple[tuple[str, type[Settings], type[Settings] | None], ...] = (
    ("All runs", CommonSettings, None),
    ("Pretraining", RunSettings, CommonSettings),
    ("Fine-tuning", FinetuneSettings, CommonSettings),
    ("Active learning", ActiveSettings, FinetuneSettings),
)
HEADER = "| key | type | default | unit | meaning |\n|---|---|---|---|---|"


@dataclass(frozen=True)
class Entry:
    """One key. `variant`: the name of the objective, classifier, … that has it; "" for keys of all."""

    key: str
    type: str
    default: str
    unit: str
    meaning: str
    variant: str = ""

    def row(self) -> str:
        """A row of a Markdown table."""
        cells = (f"`{self.key}`", self.type, self.default, self.unit, self.meaning)
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def variants(field: FieldInfo) -> dict[str, type[Settings]]:
    """Name -> model, for a section whose `name` chooses its model; empty for other fields."""
    if by_name := settings_by_name(field):
        return {name: by_name.model(name) for name in by_name.names}
    if field.discriminator is None:
        return {}
    return {model.model_fields["name"].default: model for model in get_args(field.annotation)}


def entries(model: type[Settings], prefix: str = "", variant: str = "") -> Iterator[Entry]:
    """All keys of a model, sections before their keys."""
    for name, field in model.model_fields.items():
        key = prefix + name
        if variant and name == "name":
            continue  # one entry for all variants, below
        yield entry(key, field, variant)
        if names := variants(field):
            yield Entry(f"{key}.name", f"one of {', '.join(names)}", default_text(field), "", field.description or "")
        below, inside = nested_model(field.annotation)
        if inside is not None:
            yield from entries(inside, f"{key}{below}.", variant)
        for chosen, section in variants(field).items():
            yield from entries(section, f"{key}.", chosen)


def entry(key: str, field: FieldInfo, variant: str = "") -> Entry:
    """The entry of one field."""
    names = variants(field)
    meaning = field.description or ""
    if names:
        return Entry(key, f"section; name: one of {', '.join(names)}", "", "", meaning, variant)
    return Entry(key, type_text(field), default_text(field), unit_text(meaning), meaning, variant)


def explain(key: str, kind: type[Settings]) -> str:
    """The entry of a key, or of all keys of a section. ConfigError with the nearest key if it is unknown."""
    known = list(entries(kind))
    found = [one for one in known if _matches(one.key, key)] + [one for one in known if _is_next(one.key, key)]
    if not found:
        raise ConfigError(f"--explain: unknown key {key!r}. {_nearest(key, known)}")
    return "\n\n".join(_paragraph(one, key, chosen) for one, chosen in _together(found))


def _matches(pattern: str, key: str) -> bool:
    """Whether `key` is the key `pattern`."""
    one, other = pattern.split("."), key.split(".")
    return len(one) == len(other) and all(a in ("*", b) for a, b in zip(one, other, strict=True))


def _is_next(pattern: str, section: str) -> bool:
    """Whether the key `pattern` is one level below `section`; a name that users choose is no level."""
    parts, depth = pattern.split("."), len(section.split("."))
    return _matches(".".join(parts[:depth]), section) and sum(part != "*" for part in parts[depth:]) == 1


def _together(found: list[Entry]) -> Iterator[tuple[Entry, list[str]]]:
    """Equal entries of several variants as one, with the names of these."""
    names: dict[Entry, list[str]] = {}
    for one in found:
        same = Entry(one.key, one.type, one.default, one.unit, one.meaning)
        names.setdefault(same, []).append(one.variant)
    for one, chosen in names.items():
        yield one, [name for name in chosen if name]


def _paragraph(one: Entry, asked: str, chosen: list[str]) -> str:
    key = ".".join([*asked.split("."), *one.key.split(".")[len(asked.split(".")) :]])
    only = f"  ({', '.join(chosen)})" if chosen else ""
    default = one.default.strip("`*")
    facts = [one.type, *([default if default == "required" else f"default {default}"] if default else [])]
    return f"{key}{only}\n    {'; '.join(facts)}\n    {one.meaning}"


def _nearest(key: str, known: list[Entry]) -> str:
    keys = list(dict.fromkeys(one.key for one in known))
    last = [one for one in keys if one.split(".")[-1] == key.split(".")[-1]]
    near = difflib.get_close_matches(key, keys, n=1, cutoff=0.6) or last
    if near:
        return f"Did you mean {near[0]!r}?"
    return f"The sections are {', '.join(one for one in keys if '.' not in one)}."


def page() -> str:
    """docs/configuration.md."""
    blocks, shared = [INTRODUCTION], dict[type[Settings], None]()
    for title, model, base in PARTS:
        blocks.append(f"## {title}")
        fields = {
            name: field
            for name, field in model.model_fields.items()
            if base is None or repr(field) != repr(base.model_fields.get(name))
        }
        plain = [entry(name, field) for name, field in fields.items() if not _has_table(field)]
        if plain:
            blocks.append(_table(plain))
        for name, field in fields.items():
            if _has_table(field):
                blocks += _section(name, field, shared)
    blocks.append("## Shared sections")
    for model in shared:
        blocks.append(f"### {model.__name__}\n\n{_summary(model)}\n\n" + _table(_rows("*.", model)))
    return "\n\n".join(block.strip() for block in blocks) + "\n"


def _has_table(field: FieldInfo) -> bool:
    return bool(variants(field)) or nested_model(field.annotation)[1] is not None


def _section(key: str, field: FieldInfo, shared: dict[type[Settings], None]) -> list[str]:
    """Heading and table of one section, of each of its variants, and of the sections in it."""
    blocks = [f"### {key}", field.description or ""]
    if names := variants(field):
        blocks += _variants(key, default_text(field), names, shared)
        return blocks
    below, inside = nested_model(field.annotation)
    if inside is not None:
        blocks.append(_table(_rows(f"{key}{below}.", inside)))
        for name, deeper in inside.model_fields.items():
            if _has_table(deeper):
                blocks += _section(f"{key}{below}.{name}", deeper, shared)
    return blocks


def _variants(
    key: str, default: str, names: dict[str, type[Settings]], shared: dict[type[Settings], None]
) -> list[str]:
    """The names, the keys that all variants have, and a table of the other keys of each."""
    same = {model: [name for name, one in names.items() if one is model] for model in names.values()}
    summaries = [f"- {', '.join(f'`{name}`' for name in some)}{_name_text(model)}" for model, some in same.items()]
    blocks = [f"`{key}.name` (default: {default}) is one of these, or an import path:", "\n".join(summaries)]
    rows = {name: _rows(f"{key}.", model, shared, skip=("name",)) for name, model in names.items()}
    first, *others = rows.values()
    common = [one for one in first if all(one in each for each in others)]
    if common:
        blocks.append(_table(common))
    for name, each in rows.items():
        if own := [one for one in each if one not in common]:
            blocks += [f"#### {key}: {name}", _table(own)]
    return blocks


def _name_text(model: type[Settings]) -> str:
    """The description of a variant, from its field `name`; empty where that is the base class's."""
    field = model.model_fields["name"]
    return f": {field.description}" if field.default is not PydanticUndefined else ""


def _rows(
    prefix: str,
    model: type[Settings],
    shared: dict[type[Settings], None] | None = None,
    skip: tuple[str, ...] = (),
) -> list[Entry]:
    """The entries of a model's own fields. Sections in it are links to `shared`, where it is given."""
    rows = []
    for name, field in model.model_fields.items():
        _, inside = nested_model(field.annotation)
        one = entry(prefix + name, field)
        if inside is not None and shared is not None:
            shared.setdefault(inside)
            link = f"[{inside.__name__}](#{inside.__name__.lower()})"
            one = Entry(one.key, f"section {link}", one.default, one.unit, one.meaning)
        if name not in skip:
            rows.append(one)
    return rows


def _table(rows: list[Entry]) -> str:
    return "\n".join([HEADER, *(one.row() for one in rows)])


def _summary(model: type[Settings]) -> str:
    return re.split(r"\n\s*\n", (model.__doc__ or "").strip())[0].replace("\n", " ")


if __name__ == "__main__":
    print(page(), end="")
