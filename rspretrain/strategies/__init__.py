"""Distributed training strategies: one module per strategy, one entry each in `STRATEGIES`."""

from collections.abc import Sequence
from typing import Annotated

from torch import nn

from rspretrain.nn.ema import TeacherPair
from rspretrain.registry import Registry, SettingsByName
from rspretrain.strategies.accumulate import check_accumulation
from rspretrain.strategies.base import Strategy, StrategySettings
from rspretrain.strategies.blocks import check_compiler, require_blocks
from rspretrain.strategies.optim import OptimSettings
from rspretrain.world import World

STRATEGIES = Registry(
    "strategy",
    Strategy,  # type: ignore[type-abstract]
    {
        "single": "rspretrain.strategies.ddp:Single",
        "ddp": "rspretrain.strategies.ddp:Ddp",
        "fsdp": "rspretrain.strategies.fsdp:Fsdp",
        "deepspeed": "rspretrain.strategies.deepspeed:DeepSpeed",
    },
)
AUTO = "auto"  # selected by the launcher and the number of ranks, see `resolve_strategy`
# The section `strategy` of a configuration: the settings of the strategy `name`.
StrategySection = Annotated[StrategySettings, SettingsByName(STRATEGIES, default=AUTO, undecided=AUTO)]


def resolve_strategy(
    settings: StrategySettings, world: World, optim: OptimSettings, deepspeed_launcher: bool
) -> StrategySettings:
    """The settings with `auto` replaced by a strategy. ValueError if the strategy does not support the settings."""
    name = settings.name
    if name == AUTO:
        name = "deepspeed" if deepspeed_launcher else "ddp" if world.size > 1 else "single"
    strategy = STRATEGIES.find(name)
    strategy.check_settings(settings, world, optim)
    if settings.compile:
        check_compiler(world.device)
    if strategy.is_single_alone and world.size == 1:
        name = "single"
    return settings.model_copy(update={"name": name})


def check_network(settings: StrategySettings, objective: nn.Module, couples_samples: bool = False) -> None:
    """ValueError if the objective has no repeated blocks or a batch that cannot be split, but the settings need it."""
    if settings.accumulate > 1:
        check_accumulation(objective, couples_samples)
    for setting in ("compile", "checkpoint_activations"):
        if getattr(settings, setting):
            require_blocks(objective, setting)


def build_strategy(
    settings: StrategySettings,
    world: World,
    objective: nn.Module,
    optim: OptimSettings,
    teachers: Sequence[TeacherPair] = (),
) -> Strategy:
    """Build the strategy `settings.name` (after `resolve_strategy`), ready for its first step.

    `teachers`: the EMA teachers in `objective` and their students.
    """
    assert settings.precision != "auto", "resolve_precision comes first"
    return STRATEGIES.find(settings.name)(settings, world, objective, optim, teachers)
