"""Check a pretraining configuration against its shard sets: all differences at once, each with a fixing override."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from rspretrain.config import ConfigError, RunSettings
from rspretrain.objectives.simclr import SimclrSettings
from rspretrain.sensors import MEASURED
from rspretrain.streaming.sampler import EpochSampler
from rspretrain.streaming.settings import DataSettings
from rspretrain.streaming.sources import Sources
from rspretrain.transforms.crops import check_crop
from rspretrain.transforms.inputs import ALL_BANDS, SensorInput, SensorSettings, available_bands, check_bands
from rspretrain.transforms.shared_window import WindowSettings
from rspretrain.world import World


def from_shards(name: str, sensor: SensorSettings, sources: Sources) -> SensorSettings:
    """The settings of a sensor with `bands: all` resolved, and with the manifests' statistics if they are measured."""
    if sensor.bands == ALL_BANDS:
        # A sensor that the shards lack keeps `all`: check_bands reports it.
        sensor = sensor.model_copy(update={"bands": available_bands(name, list(sources.groups.values())) or ALL_BANDS})
    if sensor.normalise != MEASURED or sensor.statistics is not None:
        return sensor
    found = {
        band: statistics
        for group in sources.groups.values()
        if group.sensor == name
        for band, statistics in sources.statistics(group.name).items()
        if band in sensor.bands
    }
    return sensor.model_copy(update={"statistics": found})


@dataclass(frozen=True)
class Misfit:
    """A difference between configuration and shard sets. `override` fixes it; empty if no override does."""

    text: str
    override: str


def check_fit(settings: RunSettings, sources: Sources, world: World) -> None:
    """ConfigError that lists every misfit, and the overrides that fix them."""
    found = list(misfits(settings, sources, world))
    if not found:
        return
    overrides = " ".join(dict.fromkeys(one.override for one in found if one.override))
    remedy = f" Override: {overrides}" if overrides else ""
    if len(found) == 1:
        raise ConfigError(found[0].text + remedy)
    lines = "".join(f"\n  - {one.text}" for one in found)
    remedy = f"\nOverrides that fix {'all' if all(one.override for one in found) else 'some'} of it: {overrides}"
    has = "; ".join(f"{group.name} ({', '.join(group.bands)})" for group in sources.groups.values())
    raise ConfigError(
        f"the configuration does not fit the shard set {sources.name}, which has {len(sources):,} samples of {has}. "
        f"{len(found)} differences:{lines}" + (remedy if overrides else "")
    )


def misfits(settings: RunSettings, sources: Sources, world: World) -> Iterator[Misfit]:
    """All differences, in the order of the sections. Bands and statistics are resolved already."""
    groups = list(sources.groups.values())
    yield from _selection(settings, sources, world)
    present = {group.sensor for group in groups}
    missing = [name for name in settings.sensors if name not in present]
    for name in missing:
        override = _replace_sensor(settings, name, present) if len(missing) == 1 else ""
        yield Misfit(_error(check_bands, name, (), groups), override)
    for name, sensor in settings.sensors.items():
        if name in present:
            yield from _sensor(name, sensor, sources)
    if isinstance(settings.objective, WindowSettings):
        used = [group for group in groups if group.sensor in settings.sensors]
        if text := _error(check_crop, settings.objective.crop_px, used):
            side = max(min(group.shape) for group in used if group.shape is not None)
            yield Misfit(text, f"objective.crop_px={side}")


def _error(check: Callable[..., object], *arguments: object) -> str:
    """The text of the ValueError of a check; empty if it passes."""
    try:
        check(*arguments)
    except ValueError as error:
        return str(error)
    return ""


def _selection(settings: RunSettings, sources: Sources, world: World) -> Iterator[Misfit]:
    """Split, filter, streams and batch size of a single shard set; `Loader` checks those of a mixture."""
    if settings.data.sources:
        return
    data, (shards,) = settings.data, sources.sets.values()
    try:
        rows = shards.select(data.split, data.filter)
    except ValueError as error:
        remedy = _selectable(data, sources)
        yield Misfit(str(error), " ".join(f"data.{key}=null" for key in remedy))
        rows = shards.select(*(None if key in remedy else getattr(data, key) for key in ("split", "filter")))
    sizes = np.bincount(shards.numbers("shard")[rows]).astype(np.int64)
    if text := _error(partial(EpochSampler, sizes, seed=0, streams=data.streams, window=data.window)):
        yield Misfit(text, f"data.streams={np.count_nonzero(sizes)}")
    pieces = world.size * settings.strategy.accumulate
    if len(rows) < settings.train.global_batch:
        largest = len(rows) // pieces * pieces
        yield Misfit(
            f"{sources.name} has {len(rows)} samples in split {data.split!r} with filter {data.filter!r}, expected at "
            f"least one global batch of {settings.train.global_batch}. Lower train.global_batch.",
            f"train.global_batch={largest}" if largest else "",
        )


def _selectable(data: DataSettings, sources: Sources) -> tuple[str, ...]:
    """The fewest of split and filter that must go for some sample to be left."""
    (shards,) = sources.sets.values()
    for keys in (("split",), ("filter",)):
        kept = [None if key in keys else getattr(data, key) for key in ("split", "filter")]
        if not _error(shards.select, *kept):
            return keys
    return "split", "filter"


def _replace_sensor(settings: RunSettings, missing: str, present: set[str]) -> str:
    """Overrides that replace a missing sensor by the one unused sensor of the shard set; empty if there is not one."""
    unused = sorted(present - settings.sensors.keys() - {"map"})
    if len(unused) != 1:
        return ""
    kept = {name: one for name, one in settings.sensors.items() if name != missing}
    sections = [
        f"{name}: {{bands: [{', '.join(one.bands)}], normalise: {one.normalise}}}" for name, one in kept.items()
    ]
    section = ", ".join([*sections, f"{unused[0]}: {{bands: all, normalise: {MEASURED}}}"])
    one = settings.objective
    also = f" objective.sensor={unused[0]}" if isinstance(one, SimclrSettings) and one.sensor == missing else ""
    return f"'sensors={{{section}}}'{also}"


def _sensor(name: str, sensor: SensorSettings, sources: Sources) -> Iterator[Misfit]:
    """Missing bands of a sensor, then the normalisation of its other bands."""
    groups = list(sources.groups.values())
    if text := _error(check_bands, name, sensor.bands, groups):
        there = available_bands(name, groups)
        bands = tuple(dict.fromkeys(band for band in sensor.bands if band in there)) or there
        yield Misfit(text, f"sensors.{name}.bands=[{','.join(bands)}]")
        changed = {"bands": bands, "statistics": None} if sensor.normalise == MEASURED else {"bands": bands}
        sensor = from_shards(name, sensor.model_copy(update=changed), sources)
    if text := _error(SensorInput, name, sensor, groups):
        usable = [
            other
            for other in (MEASURED, "fixed")
            for one in [sensor.model_copy(update={"normalise": other, "statistics": None})]
            if not _error(SensorInput, name, from_shards(name, one, sources), groups)
        ]
        yield Misfit(text, f"sensors.{name}.normalise={usable[0]}" if usable else "")
