"""Where tensors live and how gradients meet: one file a strategy, one row each in the table `STRATEGIES`."""

from collections.abc import Sequence
from typing import Annotated

from torch import nn

from rspretrain.nn.ema import TeacherPair
from rspretrain.registry import Registry, SettingsByName
from rspretrain.strategies.accumulate import check_pieces
from rspretrain.strategies.base import Strategy, StrategySettings
from rspretrain.strategies.blocks import check_compiler, need_blocks
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
AUTO = "auto"  # the launcher and the number of ranks choose, see `resolve`
# The section `strategy` of a configuration: the settings of the strategy that `name` chooses.
StrategySection = Annotated[StrategySettings, SettingsByName(STRATEGIES, default=AUTO, undecided=AUTO)]


def resolve(
    settings: StrategySettings, world: World, optim: OptimSettings, deepspeed_launcher: bool
) -> StrategySettings:
    """The settings with `auto` replaced by a name. ValueError if the strategy cannot do what is asked."""
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
    """ValueError where the settings ask for blocks that the objective does not have, or for pieces of what has none."""
    if settings.accumulate > 1:
        check_pieces(objective, couples_samples)
    for setting in ("compile", "checkpoint_activations"):
        if getattr(settings, setting):
            need_blocks(objective, setting)


def build_strategy(
    settings: StrategySettings,
    world: World,
    objective: nn.Module,
    optim: OptimSettings,
    teachers: Sequence[TeacherPair] = (),
) -> Strategy:
    """The strategy that `settings.name` (already resolved) names, set up and ready for its first step.

    `teachers`: the parts of `objective` that follow others, which no gradient reaches.
    """
    return STRATEGIES.find(settings.name)(settings, world, objective, optim, teachers)
