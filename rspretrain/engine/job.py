"""From a configuration to everything that a run needs, and what a person wants to know before it starts."""

from dataclasses import dataclass
from typing import TypeVar

import torch

from rspretrain import config
from rspretrain.arrays import Rows
from rspretrain.config import CommonSettings, ConfigError, RunSettings
from rspretrain.engine.evaluator import Evaluator, Pretraining
from rspretrain.objectives import build_objective
from rspretrain.objectives.base import Objective, Progress
from rspretrain.rng import mix
from rspretrain.rng_torch import purpose_id
from rspretrain.schedules import cosine, warmup_cosine, warmup_steps
from rspretrain.sensors import MEASURED
from rspretrain.shardset.inspection.quick_check import quick_check
from rspretrain.strategies import check_network, resolve_strategy
from rspretrain.strategies.precision import precision_text, resolve_precision
from rspretrain.streaming.loader import Loader
from rspretrain.streaming.sources import Sources, open_sources
from rspretrain.transforms.inputs import SensorSettings
from rspretrain.world import World, local_size

Kind = TypeVar("Kind", bound=CommonSettings)


@dataclass(frozen=True)
class Job:
    """A run that can start: settings resolved, shards open, the objective built and not yet in a strategy's hands."""

    settings: CommonSettings
    world: World
    sources: Sources
    objective: Objective
    loader: Loader
    total_steps: int
    evaluator: Evaluator

    def lr(self, step: int) -> float:
        """The learning rate of the step after `step` finished ones."""
        optim, batch, per_epoch = self.settings.optim, self.settings.train.global_batch, self.loader.steps_per_epoch
        warmup = min(round(optim.warmup_epochs * per_epoch), self.total_steps)
        if optim.schedule == "cosine":
            return warmup_cosine(step, self.total_steps, warmup, optim.peak_lr(batch), optim.end_lr(batch))
        milestones = [round(epoch * per_epoch) for epoch in optim.step_epochs]
        return warmup_steps(step, warmup, optim.peak_lr(batch), milestones, optim.step_factor)

    def weight_decay(self, step: int) -> float:
        """The weight decay of the step after `step` finished ones."""
        start, end = self.settings.optim.weight_decay, self.settings.optim.final_weight_decay
        return start if end is None else cosine(step, self.total_steps, start, end)

    def progress(self, step: int) -> Progress:
        """Where the run stands after `step` finished steps."""
        return Progress(step, self.total_steps, self.loader.steps_per_epoch)


def prepare(settings: RunSettings, world: World, deepspeed_launcher: bool) -> Job:
    """Check everything that can be checked before training. ValueError in one paragraph where something cannot be."""
    settings, sources = resolved(settings, world, deepspeed_launcher)
    objective = build_objective(settings.objective, settings.sensors, settings.backbone, list(sources.groups.values()))
    return ready(settings, world, sources, objective, Pretraining(settings, objective, sources.sha256))


def resolved(settings: Kind, world: World, deepspeed_launcher: bool) -> tuple[Kind, Sources]:
    """Settings with nothing left open, and the shards; seeds torch for initial weights. ValueError as in prepare."""
    check_batch(settings, world)
    settings = with_precision(settings, world)
    settings = settings.model_copy(
        update={"strategy": resolve_strategy(settings.strategy, world, settings.optim, deepspeed_launcher)}
    )
    sources = open_sources(settings.data)
    settings = settings.model_copy(
        update={"sensors": {name: _measured(name, sensor, sources) for name, sensor in settings.sensors.items()}}
    )
    seed_torch(settings.run.seed, purpose_id("initial weights"))
    return settings, sources


def ready(
    settings: CommonSettings,
    world: World,
    sources: Sources,
    objective: Objective,
    evaluator: Evaluator,
    rows: Rows | None = None,
) -> Job:
    """The job of an objective. `rows`: what an epoch goes through, instead of the split and filter in `data`."""
    check_network(settings.strategy, objective, objective.couples_samples)
    train, data = settings.train, settings.data
    loader = Loader(
        sources,
        data,
        objective.groups,
        global_batch=train.global_batch,
        seed=settings.run.seed,
        world=world,
        rows=rows,
    )
    for shards, needed in zip(sources.sets.values(), loader.shards_needed, strict=True):
        quick_check(shards, needed, index_only=data.on_corrupt == "quarantine")
    total = train.steps or train.epochs * loader.steps_per_epoch
    return Job(settings, world, sources, objective, loader, total, evaluator)


def with_precision(settings: Kind, world: World) -> Kind:
    """The settings with precision `auto` resolved: as the run in run.dir began, for --resume, else by the devices."""
    asked = settings.strategy.precision
    if asked == "auto":
        asked = config.saved_value(settings.run.dir / "config.yaml", "strategy", "precision") or asked
    precision = resolve_precision(asked, world.device)
    return settings.model_copy(update={"strategy": settings.strategy.model_copy(update={"precision": precision})})


def _measured(name: str, settings: SensorSettings, sources: Sources) -> SensorSettings:
    """The statistics of the shard sets' manifests, where a sensor asks for them and the configuration has none."""
    if settings.normalise != MEASURED or settings.statistics is not None:
        return settings
    found = {
        band: statistics
        for group in sources.groups.values()
        if group.sensor == name
        for band, statistics in sources.statistics(group.name).items()
        if band in settings.bands
    }
    return settings.model_copy(update={"statistics": found})


def seed_torch(*words: int) -> None:
    """Make torch's global generator a function of `words`, for those who draw from it (initial weights, drop path)."""
    torch.manual_seed(mix(*words) >> 1)  # 63 bits: the seed of a CUDA generator is signed


def check_batch(settings: CommonSettings, world: World) -> None:
    """ConfigError where the global batch cannot be shared out evenly."""
    batch, pieces = settings.train.global_batch, world.size * settings.strategy.accumulate
    if batch % world.size == 0 and batch % pieces:
        raise ConfigError(
            f"strategy.accumulate: got {settings.strategy.accumulate} for the {batch // world.size} samples of a rank, "
            f"expected a divisor. Set train.global_batch to a multiple of {pieces}, or strategy.accumulate to another."
        )
    if batch % world.size:
        below, above = batch // world.size * world.size, -(-batch // world.size) * world.size
        raise ConfigError(
            f"train.global_batch: got {batch} in a world of {world.size} ranks, expected a multiple of {world.size}. "
            f"Set it to {' or '.join(str(size) for size in (below, above) if size)}, or start another number of ranks."
        )


def describe(job: Job) -> str:
    """The resolved configuration, the parameters of each part and the plan, as text."""
    settings, plan, optim = job.settings, job.loader.plan(), job.settings.optim
    nodes = max(1, job.world.size // local_size())
    own = settings.data.streams % nodes == 0
    lines = [
        config.dump(settings).rstrip(),
        "",
        "parameters",
        *(f"  {name:<28}{count:>14,}" for name, count in parameter_counts(job.objective).items()),
        "",
        "plan",
        f"  world                       {job.world.size} ranks on {nodes} nodes, {job.world.device.type}, "
        f"strategy {settings.strategy.name}, {settings.strategy.precision}",
        f"  {precision_text(settings.strategy.precision, job.world.device)}",
        f"  samples per epoch           {plan['samples'] - plan['dropped_per_epoch']:,} of {plan['samples']:,}; "
        f"{plan['dropped_per_epoch']:,} dropped (the last, short batch)",
        *_describe_sources(job),
        f"  steps                       {plan['steps_per_epoch']:,} per epoch, {job.total_steps:,} in all, "
        f"{settings.train.global_batch // job.world.size:,} samples per rank and step",
        f"  shards per node             {plan['shards'] // nodes if own else plan['shards']:,} of {plan['shards']:,}"
        + ("" if own else f" (data.streams {settings.data.streams} is no multiple of {nodes} nodes: each reads all)"),
        f"  bytes per epoch             {plan['bytes_per_epoch']:,}, {plan['bytes_per_epoch'] // nodes:,} per node",
        f"  learning rate               {optim.peak_lr(settings.train.global_batch):.3g} after warm-up, "
        f"then {optim.describe_schedule()}",
    ]
    return "\n".join(lines)


def _describe_sources(job: Job) -> list[str]:
    """A line for each source of a mixture."""
    if len(job.sources.sets) == 1:
        return []
    counts, epochs = job.loader.samples_seen(job.total_steps), job.loader.epochs_seen(job.total_steps)
    total = job.total_steps * job.settings.train.global_batch
    return [
        f"  source {name:<21}{count / total:.1%} of all samples; {epochs[name]:.1f} times through it in this run"
        for name, count in counts.items()
    ]


def parameter_counts(objective: Objective) -> dict[str, int]:
    """Trainable parameters of every part of an objective, and of all of it."""
    counts = {}
    for name, part in objective.named_modules():
        if name and name.count(".") < 2 and not isinstance(part, torch.nn.ModuleDict):
            own = sum(p.numel() for p in part.parameters() if p.requires_grad)
            nested = name.count(".") == 1 and name.partition(".")[0] in counts
            if own and not nested:
                counts[name] = own
    return counts | {"total": sum(p.numel() for p in objective.parameters() if p.requires_grad)}
