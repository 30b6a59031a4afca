"""Read a configuration: YAML, dotted overrides from the command line, checks, and the comparison on resume."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from rspretrain.config.errors import ConfigError, Tree, explain
from rspretrain.config.kinds import check_kind
from rspretrain.config.settings_tree import ActiveSettings, CommonSettings, FinetuneSettings, RunSettings
from rspretrain.settings import Settings

Kind = TypeVar("Kind", bound=Settings)

# Sections that must not change when a run resumes, because they decide the mathematics, and keys in them that may.
# The shard set itself is compared by the SHA-256 of its manifest, so its folder may have moved.
BINDING = (
    "run.seed", "data", "sensors", "backbone", "objective", "optim", "train.global_batch",
    "network", "classifier", "tune", "labels", "views", "validation", "budget", "query", "oracle", "warm_start",
)  # fmt: skip
FREE = {
    "data.shards", "data.sources.*.shards", "data.threads", "data.prefetch", "data.verify", "data.ledger",
    "data.on_corrupt", "data.quarantine_limit", "data.cache_dir", "data.cache_gb", "data.fetches",
    "data.fetch_timeout_s", "data.fetch_retries",
}  # fmt: skip


class _Loader(yaml.SafeLoader):
    """YAML 1.1 without its two traps: 3e-4 is a number though it has no dot, and `off` and `no` are words."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(true|false|True|False)$"), list("tfTF"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load(path: Path, overrides: Sequence[str] = ()) -> RunSettings:
    """The settings in a YAML file with `section.key=value` overrides. ConfigError lists all errors."""
    return parse(_read_tree(path, "pretrain"), overrides, str(path))


def load_finetune(path: Path, overrides: Sequence[str] = ()) -> FinetuneSettings:
    """As `load`, for fine-tuning."""
    return parse_as(FinetuneSettings, _read_tree(path, "finetune"), overrides, str(path))


def load_active(path: Path, overrides: Sequence[str] = ()) -> ActiveSettings:
    """As `load`, for active learning."""
    return parse_as(ActiveSettings, _read_tree(path, "active-learning"), overrides, str(path))


def parse(tree: Tree, overrides: Sequence[str] = (), source: str = "the configuration") -> RunSettings:
    """Settings from a tree of plain values; `source` is named in errors."""
    return parse_as(RunSettings, tree, overrides, source)


def parse_as(kind: type[Kind], tree: Tree, overrides: Sequence[str] = (), source: str = "the configuration") -> Kind:
    """As `parse`, for any kind of run."""
    _check_kind(kind, tree, source)
    for override in overrides:
        _override(tree, override)
    _check_kind(kind, tree, source)
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        message = " ".join(explain(item, tree, kind) for item in error.errors())
        blamed = [override for override in overrides if "." in (key := override.partition("=")[0]) and key in message]
        origin = f"{source} with {' '.join(blamed)}" if blamed else source
        raise ConfigError(f"{origin}: {message}") from None


def _check_kind(kind: type[Settings], tree: Tree, source: str) -> None:
    """ConfigError if sections are those of another kind of run: all of them, or one that this kind does not have."""
    foreign = [section for section in tree if section not in kind.model_fields]
    if not foreign or not issubclass(kind, CommonSettings):
        return
    kinds = (RunSettings, FinetuneSettings, ActiveSettings)
    other = next((one for one in kinds if all(section in one.model_fields for section in tree)), None)
    if other is not None:
        raise ConfigError(
            f"{source} is a configuration of {other.title}, expected one of {kind.title}, which has no "
            f"{', '.join(foreign)}. Run it with `rspretrain {other.command}`."
        )
    if owners := [one.title for one in kinds if foreign[0] in one.model_fields]:
        raise ConfigError(
            f"{source}: {foreign[0]!r} is a section of {' and '.join(owners)}, not of {kind.title}. Remove it, or use "
            f"a configuration of {owners[0]}."
        )


def dump(settings: Settings) -> str:
    """The resolved configuration as YAML; `load` reads it back as the same settings."""
    return str(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False))


def check_same(saved: Path, settings: CommonSettings) -> None:
    """ConfigError if `settings` would not continue the run with the saved configuration."""
    # Parsed, so that fields that are newer than the saved file have their defaults.
    written = parse_as(type(settings), _read_tree(saved))
    before, now = (dict(_flatten(each.model_dump(mode="json"))) for each in (written, settings))
    bound = [key for key in {**before, **now} if key.startswith(BINDING) and re.sub(r"\.\d+\.", ".*.", key) not in FREE]
    differing = [key for key in bound if before.get(key) != now.get(key)]
    if differing:
        changes = "; ".join(f"{key} was {before.get(key)!r}, now {now.get(key)!r}" for key in differing)
        raise ConfigError(
            f"--resume: {saved} differs where the mathematics would change: {changes}. Resume with the saved values, "
            "or start a new run with another run.dir."
        )


def saved_value(saved: Path, section: str, key: str) -> Any:
    """A value of the configuration that a run saved; None if there is no such file or key."""
    return _read_tree(saved).get(section, {}).get(key) if saved.is_file() else None


def _read_tree(path: Path, command: str | None = None) -> Tree:
    try:
        tree = yaml.load(path.read_text(), Loader=_Loader)
    except OSError as error:
        raise ConfigError(f"--config: cannot read {path} ({error.strerror}). Expected a YAML file.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"--config: {path} is not YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"--config: {path} holds {type(tree).__name__}, expected sections such as `train:`.")
    if command is not None:
        check_kind(tree, command, path)
    return tree


def _override(tree: Tree, text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"Override {text!r} is not of the form section.key=value, as in optim.lr=3e-4.")
    *parents, last = key.split(".")
    for parent in parents:
        below = tree.setdefault(parent, {})
        if not isinstance(below, dict):
            raise ConfigError(f"Override {text!r}: {parent!r} holds {below!r}, not a section.")
        tree = below
    try:
        tree[last] = yaml.load(value, Loader=_Loader)
    except yaml.YAMLError:
        tree[last] = value  # a text that contains quotes: data.filter='Pastures' in labels_19


def _flatten(tree: Tree, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            yield from _flatten({str(index): each for index, each in enumerate(value)}, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
