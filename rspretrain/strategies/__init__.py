"""Where tensors live and how gradients meet: one file a strategy, one row each in the table `STRATEGIES`."""

from collections.abc import Sequence

from torch import nn

from rspretrain.nn.ema import TeacherPair
from rspretrain.strategies.accumulate import check_pieces
from rspretrain.strategies.base import Strategy, StrategySettings
from rspretrain.strategies.blocks import check_compiler, need_blocks
from rspretrain.strategies.ddp import Ddp, Single
from rspretrain.strategies.deepspeed import DeepSpeed, check
from rspretrain.strategies.fsdp import Fsdp
from rspretrain.strategies.optim import OptimSettings
from rspretrain.world import World

STRATEGIES: dict[str, type[Strategy]] = {"single": Single, "ddp": Ddp, "fsdp": Fsdp, "deepspeed": DeepSpeed}


def resolve(
    settings: StrategySettings, world: World, optim: OptimSettings, deepspeed_launcher: bool
) -> StrategySettings:
    """The settings with `auto` replaced by a name. ValueError where the strategy cannot do what is asked."""
    name: str = settings.name
    if name == "auto":
        name = "deepspeed" if deepspeed_launcher else "ddp" if world.size > 1 else "single"
    if name == "single" and world.size > 1:
        raise ValueError(
            f"strategy.name: got single in a world of {world.size} ranks, each of which would train its own model. "
            "Use strategy.name=ddp, fsdp or deepspeed, or start one process."
        )
    if name == "deepspeed":
        check(settings.deepspeed, optim, settings.compile)
    if name == "deepspeed" and settings.accumulate > 1:
        raise ValueError(
            f"strategy.accumulate: got {settings.accumulate} under deepspeed, which averages gradients at every "
            "backward by a count of its own. Use strategy.name=fsdp or ddp, or strategy.accumulate=1."
        )
    if settings.compile:
        check_compiler(world.device)
    if name in ("ddp", "fsdp") and world.size == 1:
        name = "single"  # DDP of one process is that process
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
    return STRATEGIES[settings.name](settings, world, objective, optim, teachers)
