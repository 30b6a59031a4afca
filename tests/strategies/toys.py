"""A small contrastive module and keyed samples: what strategies are tried on."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rspretrain import world
from rspretrain.nn.ema import TeacherPair, make_teacher
from rspretrain.strategies import Strategy, build_strategy
from rspretrain.strategies.base import StrategySettings
from rspretrain.strategies.optim import OptimSettings

GLOBAL_BATCH = 16
MOMENTUM = 0.9
RATES = {"adamw": 1e-3, "sgd": 0.05, "lars": 0.05}
ALL = (("ddp", 0), ("deepspeed", 0), ("deepspeed", 1), ("deepspeed", 2))


@dataclass(frozen=True)
class Samples:
    x: Tensor  # [B 3 16 16]

    def to(self, device: torch.device) -> "Samples":
        return replace(self, x=self.x.to(device))


@dataclass(frozen=True)
class Result:
    loss: Tensor
    metrics: dict[str, Tensor]


class Contrast(nn.Module):
    """Two flips of an image against those of all ranks, and what a teacher sees; a norm with statistics, a frozen part.

    GELU: a ReLU whose input is within rounding of 0 has either gradient.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, bias=False), nn.BatchNorm2d(8), nn.GELU(), nn.Conv2d(8, 16, 3, 2)
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(16 * 9, 32), nn.GELU(), nn.Linear(32, 16))
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.teacher = nn.Sequential(make_teacher(self.conv), make_teacher(self.head))

    def teachers(self) -> tuple[TeacherPair, ...]:
        return TeacherPair(self.conv, self.teacher[0]), TeacherPair(self.head, self.teacher[1])

    def forward(self, batch: Samples) -> Result:
        one, two = (F.normalize(self.head(self.conv(x)).float()) for x in (batch.x, batch.x.flip(3)))
        others = world.gather_with_grad(two)
        labels = torch.arange(len(one)) + world.rank() * len(one)
        with torch.no_grad():
            target = F.normalize(self.teacher(batch.x.flip(2)).float())
        loss = F.cross_entropy(one @ others.T / 0.2, labels) + (two - target).square().sum(1).mean()
        return Result(loss, {"health/std": two.detach().std()})


def samples(step: int) -> Samples:
    """This rank's part of the global batch of a step."""
    x = torch.randn(GLOBAL_BATCH, 3, 16, 16, generator=torch.Generator().manual_seed(step))
    return Samples(x.chunk(world.size())[world.rank()])


def here() -> world.World:
    return world.World(world.rank(), world.size(), world.rank(), torch.device("cpu"))


def strategy(
    name: str, stage: int = 0, precision: str = "fp32", seed: int = 0, optimizer: str = "adamw", **optim: object
) -> Strategy:
    torch.manual_seed(seed)
    settings = StrategySettings(name=name, precision=precision, deepspeed=Path(f"configs/deepspeed/zero{stage}.json"))
    options = {"lr_reference_batch": None, "clip_norm": 0.5, "weight_decay": 0.05, "name": optimizer} | optim
    return build(settings, OptimSettings(**options))


def build(settings: StrategySettings, optim: OptimSettings) -> Strategy:
    objective = Contrast()
    return build_strategy(settings, here(), objective, optim, objective.teachers())


def take(
    strategy: Strategy, steps: range, bad: tuple[int, int] | None = None, momentum: float = MOMENTUM
) -> list[float]:
    """Losses of the global batches at a fixed rate; `bad` = (step, rank) sees a NaN in one pixel."""
    losses = []
    for step in steps:
        batch = samples(step)
        if bad == (step, world.rank()):
            batch.x[0, 0, 0, 0] = float("nan")
        report = strategy.train_step(batch, RATES[strategy.optim.name], momentum)
        losses.append(world.mean_over_ranks(report.loss).item())
    return losses


def tensors(strategy: Strategy) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    weights = {name: tensor.detach().clone() for name, tensor in strategy.weights()}
    return weights, {name: tensor.detach().clone() for name, tensor in strategy.optimizer_state()}


def difference(one: dict[str, Tensor], two: dict[str, Tensor]) -> float:
    """The largest difference of any two tensors of one name, relative to the largest number of that tensor."""
    assert one.keys() == two.keys()
    scale = {name: max(value.abs().max().item(), 1e-12) for name, value in two.items()}
    return max((one[name].double() - two[name].double()).abs().max().item() / scale[name] for name in two)
