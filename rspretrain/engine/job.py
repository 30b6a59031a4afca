"""Builds the objects of a run from its configuration, and describes the run before it starts."""

from dataclasses import dataclass
from typing import TypeVar

import torch

from rspretrain import config
from rspretrain.arrays import Rows
from rspretrain.config import CommonSettings, ConfigError, RunSettings
from rspretrain.engine.evaluator import Evaluator, Pretraining
from rspretrain.engine.export import Origin
from rspretrain.engine.fit import check_fit, from_shards
from rspretrain.objectives import build_objective
from rspretrain.objectives.base import Objective, Progress
from rspretrain.rng import mix
from rspretrain.rng_torch import purpose_id
from rspretrain.schedules import cosine, warmup_cosine, warmup_steps
from rspretrain.shardset.inspection.quick_check import quick_check
from rspretrain.strategies import check_network, resolve_strategy
from rspretrain.strategies.precision import precision_text, resolve_precision
from rspretrain.streaming.loader import Loader
from rspretrain.streaming.sources import Sources, open_sources
from rspretrain.world import World, local_size

SettingsT = TypeVar("SettingsT", bound=CommonSettings)


@dataclass(frozen=True)
class Job:
    """A run that is ready to start: resolved settings, open shards, and the objective before the strategy wraps it."""

    settings: CommonSettings
    world: World
    sources: Sources
    objective: Objective
    loader: Loader
    total_steps: int
    evaluator: Evaluator

    def lr(self, step: int) -> float:
        """The learning rate of the step after `step` finished steps."""
        optim, batch, per_epoch = self.settings.optim, self.settings.train.global_batch, self.loader.steps_per_epoch
        warmup = min(round(optim.warmup_epochs * per_epoch), self.total_steps)
        if optim.schedule == "cosine":
            return warmup_cosine(step, self.total_steps, warmup, optim.peak_lr(batch), optim.end_lr(batch))
        milestones = [round(epoch * per_epoch) for epoch in optim.step_epochs]
        return warmup_steps(step, warmup, optim.peak_lr(batch), milestones, optim.step_factor)

    def weight_decay(self, step: int) -> float:
        """The weight decay of the step after `step` finished steps."""
        start, end = self.settings.optim.weight_decay, self.settings.optim.final_weight_decay
        return start if end is None else cosine(step, self.total_steps, start, end)

    def progress(self, step: int) -> Progress:
        """The progress of the run after `step` finished steps."""
        return Progress(step, self.total_steps, self.loader.steps_per_epoch)


def prepare(settings: RunSettings, world: World, deepspeed_launcher: bool) -> Job:
    """Build a pretraining job. ValueError, in one paragraph, for settings that do not fit together or the data."""
    settings, sources = resolve_settings(settings, world, deepspeed_launcher)
    check_fit(settings, sources, world)
    objective = build_objective(settings.objective, settings.sensors, settings.backbone, list(sources.groups.values()))
    origin = Origin(settings.run, settings.data, settings.objective, settings.train.global_batch, sources.sha256)
    evaluator = Pretraining(objective, settings.run.dir / "export", origin)
    return build_job(settings, world, sources, objective, evaluator)


def resolve_settings(settings: SettingsT, world: World, deepspeed_launcher: bool) -> tuple[SettingsT, Sources]:
    """Resolve strategy, precision, bands and measured statistics, open the shards and seed torch's generator.

    ValueError as in prepare.
    """
    check_batch(settings.train.global_batch, settings.strategy.accumulate, world)
    settings = with_precision(settings, world)
    settings = settings.model_copy(
        update={"strategy": resolve_strategy(settings.strategy, world, settings.optim, deepspeed_launcher)}
    )
    sources = open_sources(settings.data)
    settings = settings.model_copy(
        update={"sensors": {name: from_shards(name, sensor, sources) for name, sensor in settings.sensors.items()}}
    )
    seed_torch(settings.run.seed, purpose_id("initial weights"))
    return settings, sources


def build_job(
    settings: CommonSettings,
    world: World,
    sources: Sources,
    objective: Objective,
    evaluator: Evaluator,
    rows: Rows | None = None,
) -> Job:
    """Build the job of an objective. `rows`: the samples of an epoch, instead of the split and filter in `data`."""
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


def with_precision(settings: SettingsT, world: World) -> SettingsT:
    """Resolve precision `auto`: that of the run in run.dir if there is one (--resume), else by the device."""
    requested = settings.strategy.precision
    if requested == "auto":
        requested = config.saved_value(settings.run.dir / "config.yaml", "strategy", "precision") or requested
    precision = resolve_precision(requested, world.device)
    return settings.model_copy(update={"strategy": settings.strategy.model_copy(update={"precision": precision})})


def seed_torch(*words: int) -> None:
    """Seed torch's global generator (initial weights, dropout) with a hash of `words`."""
    torch.manual_seed(mix(*words) >> 1)  # 63 bits: CUDA generators have signed seeds


def check_batch(batch: int, accumulate: int, world: World) -> None:
    """ConfigError if the global batch is not divisible by the numbers of ranks and micro-batches."""
    parts = world.size * accumulate
    if batch % world.size == 0 and batch % parts:
        raise ConfigError(
            f"strategy.accumulate: got {accumulate} for {batch // world.size} samples per rank, "
            f"expected a divisor. Set train.global_batch to a multiple of {parts}, or change strategy.accumulate."
        )
    if batch % world.size:
        below, above = batch // world.size * world.size, -(-batch // world.size) * world.size
        raise ConfigError(
            f"train.global_batch: got {batch} for {world.size} ranks, expected a multiple of {world.size}. "
            f"Set it to {' or '.join(str(size) for size in (below, above) if size)}, or start another number of ranks."
        )


def describe(job: Job) -> str:
    """The resolved configuration, the parameter counts and the plan, as text."""
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
        f"{plan['dropped_per_epoch']:,} dropped (short last batch)",
        *_describe_sources(job),
        f"  steps                       {plan['steps_per_epoch']:,} per epoch, {job.total_steps:,} in all, "
        f"{settings.train.global_batch // job.world.size:,} samples per rank and step",
        f"  shards per node             {plan['shards'] // nodes if own else plan['shards']:,} of {plan['shards']:,}"
        + (
            "" if own else f" (data.streams={settings.data.streams} is not a multiple of {nodes} nodes: each reads all)"
        ),
        f"  bytes per epoch             {plan['bytes_per_epoch']:,}, {plan['bytes_per_epoch'] // nodes:,} per node",
        f"  learning rate               {optim.peak_lr(settings.train.global_batch):.3g} after warm-up, "
        f"then {optim.describe_schedule()}",
    ]
    return "\n".join(lines)


def _describe_sources(job: Job) -> list[str]:
    """One line per source of a mixture."""
    if len(job.sources.sets) == 1:
        return []
    counts, epochs = job.loader.samples_seen(job.total_steps), job.loader.epochs_seen(job.total_steps)
    total = job.total_steps * job.settings.train.global_batch
    return [
        f"  source {name:<21}{count / total:.1%} of all samples; {epochs[name]:.1f} epochs of it in this run"
        for name, count in counts.items()
    ]


def parameter_counts(objective: Objective) -> dict[str, int]:
    """Trainable parameters of each part of an objective, and their total."""
    counts = {}
    for name, part in objective.named_modules():
        if name and name.count(".") < 2 and not isinstance(part, torch.nn.ModuleDict):
            own = sum(p.numel() for p in part.parameters() if p.requires_grad)
            nested = name.count(".") == 1 and name.partition(".")[0] in counts
            if own and not nested:
                counts[name] = own
    return counts | {"total": sum(p.numel() for p in objective.parameters() if p.requires_grad)}
