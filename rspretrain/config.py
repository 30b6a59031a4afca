"""A run's whole configuration: YAML, dotted overrides from the command line, checked, saved and compared on resume.

Each section's model lies beside the part that owns it; this module only joins them. The sections `run` and `train` are
its own: the loop that they steer lies above it.
"""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator

from rspretrain.downstream.budget import BudgetSettings
from rspretrain.downstream.finetune import NetworkSettings, ValidationSettings
from rspretrain.downstream.labels import LabelSettings
from rspretrain.downstream.oracle import OracleSettings
from rspretrain.downstream.queries import QuerySettings
from rspretrain.downstream.train_views import TrainViewSettings
from rspretrain.keyed import mix
from rspretrain.nn.backbones import BackboneSettings
from rspretrain.nn.classifiers import ClassifierSettings, LinearSettings
from rspretrain.nn.tuning import TuneSettings
from rspretrain.objectives import ObjectiveSettings
from rspretrain.objectives.views import SensorSettings
from rspretrain.observe.sinks import WatchSettings
from rspretrain.observe.verdict import HealthSettings
from rspretrain.settings import Settings
from rspretrain.strategies.base import StrategySettings
from rspretrain.strategies.optim import OptimSettings
from rspretrain.streaming.settings import DataSettings

Tree = dict[str, Any]
Kind = TypeVar("Kind", bound=Settings)


class ConfigError(ValueError):
    """A configuration that cannot be meant: the message names the key, the value and what was expected."""


class RunSection(Settings):
    """Which run this is."""

    dir: Path  # where everything that the run writes lies; never overwritten
    seed: int = Field(default=0, ge=0)  # of everything random: initial weights, order, views, drop path
    name: str | None = None  # for people and wandb; None: the folder's name


class TrainSection(Settings):
    """How long, how much at once, and what is kept."""

    global_batch: int = Field(gt=0)  # samples of all ranks together in one step
    epochs: int = Field(default=100, gt=0)
    steps: int | None = Field(default=None, gt=0)  # instead of epochs
    checkpoint_every: int | None = Field(default=None, gt=0)  # steps; None: by minutes and at the end only
    checkpoint_minutes: float | None = Field(default=10.0, gt=0)  # None: by steps and at the end only
    keep: int = Field(default=3, gt=0)  # newest checkpoints that stay
    max_refused: int = Field(default=10, gt=0)  # steps in a row with a loss or gradient not finite that end the run


class CommonSettings(Settings):
    """What every run has, whatever it trains."""

    run: RunSection
    data: DataSettings
    strategy: StrategySettings = StrategySettings()
    optim: OptimSettings = OptimSettings()
    train: TrainSection
    watch: WatchSettings = WatchSettings()
    health: HealthSettings = HealthSettings()
    sensors: dict[str, SensorSettings]  # sensor name -> what of it a network sees


class RunSettings(CommonSettings):
    """Everything that decides a pretraining run."""

    backbone: BackboneSettings = BackboneSettings()  # one of this kind for every sensor
    objective: ObjectiveSettings


class FinetuneSettings(CommonSettings):
    """Everything that decides a fine-tuning run: labels, networks that may be pretrained, and what of them trains."""

    # Of networks that start at random; exported ones know their bands.
    sensors: dict[str, SensorSettings] = Field(default_factory=dict)
    backbone: dict[str, Path] = Field(default_factory=dict)  # sensor (or "s1+s2") -> folder of an exported backbone
    network: NetworkSettings = NetworkSettings()
    classifier: ClassifierSettings = LinearSettings()
    tune: TuneSettings = TuneSettings()
    labels: LabelSettings = LabelSettings()
    views: TrainViewSettings = TrainViewSettings()
    validation: ValidationSettings = ValidationSettings()


class ActiveSettings(FinetuneSettings):
    """Everything that decides a label-budget loop: a fine-tuning run a round, and which images get labels between."""

    budget: BudgetSettings = BudgetSettings()
    query: QuerySettings = QuerySettings()
    oracle: OracleSettings = OracleSettings()
    warm_start: bool = True  # a round starts from the weights of the one before; false: from the backbones

    @field_validator("oracle", mode="before")
    @classmethod
    def _by_name(cls, given: Any) -> Any:
        return {"name": given} if isinstance(given, str) else given

    def of_round(self, number: int) -> FinetuneSettings:
        """The fine-tuning run of a round, in a folder and with random choices of its own."""
        common = {name: getattr(self, name) for name in FinetuneSettings.model_fields}
        seed = mix(self.run.seed, self.budget.seed, number) >> 33  # 31 bits, which every library takes
        name = f"{self.run.name or self.run.dir.name}, round {number}"
        run = RunSection(dir=self.run.dir / "rounds" / f"{number:02d}", seed=seed, name=name)
        return FinetuneSettings.model_construct(**{**common, "run": run})


# Where a resumed run must be what it was, because the mathematics would change; and the keys in there that may differ.
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
    """The settings in a YAML file with `section.key=value` overrides. ConfigError says what is wrong, all of it."""
    return parse(_read_tree(path), overrides, str(path))


def load_finetune(path: Path, overrides: Sequence[str] = ()) -> FinetuneSettings:
    """As `load`, of a fine-tuning run."""
    return parse_as(FinetuneSettings, _read_tree(path), overrides, str(path))


def load_active(path: Path, overrides: Sequence[str] = ()) -> ActiveSettings:
    """As `load`, of a label-budget loop."""
    return parse_as(ActiveSettings, _read_tree(path), overrides, str(path))


def parse(tree: Tree, overrides: Sequence[str] = (), source: str = "the configuration") -> RunSettings:
    """Settings from a tree of plain values; `source` is named in errors."""
    return parse_as(RunSettings, tree, overrides, source)


def parse_as(kind: type[Kind], tree: Tree, overrides: Sequence[str] = (), source: str = "the configuration") -> Kind:
    """As `parse`, of a run of any kind."""
    for override in overrides:
        _override(tree, override)
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        told = " ".join(_explain(item, tree, kind) for item in error.errors())
        raise ConfigError(f"{source}: {told}") from None


def dump(settings: Settings) -> str:
    """The resolved configuration as YAML; `load` reads it back as the same settings."""
    return str(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False))


def check_same(saved: Path, settings: CommonSettings) -> None:
    """ConfigError where going on with `settings` would not be the run whose configuration was saved."""
    # Parsed, so that what was saved before a field existed has its default.
    written = parse_as(type(settings), _read_tree(saved))
    before, now = (dict(_flatten(each.model_dump(mode="json"))) for each in (written, settings))
    bound = [key for key in {**before, **now} if key.startswith(BINDING) and re.sub(r"\.\d+\.", ".*.", key) not in FREE]
    differing = [key for key in bound if before.get(key) != now.get(key)]
    if differing:
        told = "; ".join(f"{key} was {before.get(key)!r}, now {now.get(key)!r}" for key in differing)
        raise ConfigError(
            f"--resume: {saved} differs where the mathematics would change: {told}. Resume with the saved values, or "
            "start a new run with another run.dir."
        )


def _read_tree(path: Path) -> Tree:
    try:
        tree = yaml.load(path.read_text(), Loader=_Loader)
    except OSError as error:
        raise ConfigError(f"--config: cannot read {path} ({error.strerror}). Expected a YAML file.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"--config: {path} is not YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"--config: {path} holds {type(tree).__name__}, expected sections such as `train:`.")
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
        tree[last] = value  # a text with quotes of its own: data.filter='Pastures' in labels_19


def _explain(item: Mapping[str, Any], tree: Tree, kind: type[Settings]) -> str:
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


def _flatten(tree: Tree, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            yield from _flatten({str(place): each for place, each in enumerate(value)}, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
