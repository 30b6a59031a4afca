"""A small contrastive objective and seeded samples, for tests of strategies."""

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
RATES = {"adam": 1e-3, "adamw": 1e-3, "sgd": 0.05, "lars": 0.05}
ALL = (("ddp", 0), ("fsdp", 0), ("deepspeed", 0), ("deepspeed", 1), ("deepspeed", 2), ("deepspeed", 3))


@dataclass(frozen=True)
class Samples:
    x: Tensor  # [B 3 16 16]

    def to(self, device: torch.device) -> "Samples":
        return replace(self, x=self.x.to(device))


@dataclass(frozen=True)
class Result:
    loss: Tensor
    metrics: dict[str, Tensor]


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear, self.gamma = nn.LayerNorm(16), nn.Linear(16, 16), nn.Parameter(torch.full((16,), 0.5))

    def lr_scales(self) -> dict[str, float]:
        return {"gamma": 0.5}

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gamma * F.gelu(self.linear(self.norm(x)))


class Body(nn.Module):
    """Blocks, a direct parameter, and a parameter with 35 elements, which is not divisible by the number of ranks."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(16 * 9, 35), nn.ReLU(), nn.Linear(35, 16))
        self.blocks = nn.ModuleList([Residual(), Residual()])
        self.token = nn.Parameter(torch.linspace(0.9, 1.1, 16))

    def lr_scales(self) -> dict[str, float]:
        """Factors that give groups of one tensor and of several."""
        return {name: 1 - 0.1 * (index % 7) for index, name in enumerate(dict(self.named_parameters()))}

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        for block in self.blocks:
            x = block(x)
        return x


class Contrast(nn.Module):
    """Contrasts an image and its flip over all ranks, with two passes through the same network, and with a teacher.

    It has convolutions, a norm with statistics, blocks, biases, frozen layers and blocks before and after trained ones,
    a parameter that is used outside of its module, a scalar parameter, and twelve parameter groups.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2)
        )
        self.body = Body()
        self.teacher = make_teacher(self.body)
        self.sharpness = nn.Parameter(torch.ones(1))
        self.frozen = nn.ModuleDict({"stem": nn.Conv2d(3, 3, 1), "blocks": nn.ModuleList([Residual()])})
        self.frozen.requires_grad_(False)

    def lr_scales(self) -> dict[str, float]:
        return {"sharpness": 3.0}

    def teachers(self) -> tuple[TeacherPair, ...]:
        return (TeacherPair(self.body, self.teacher),)

    def forward(self, batch: Samples) -> Result:
        maps = [self.conv(self.frozen["stem"](x)) for x in (batch.x, batch.x.flip(3))]
        one, two = (F.normalize(self.frozen["blocks"][0](self.body(x) * self.body.token).float()) for x in maps)
        with torch.no_grad():
            target = F.normalize((self.teacher(maps[0]) * self.teacher.token).float())
        others = world.gather_with_grad(two)
        labels = torch.arange(len(one)) + world.rank() * len(one)
        loss = F.cross_entropy(one @ others.T * self.sharpness / 0.2, labels) + (one - target).square().sum(1).mean()
        return Result(loss, {"health/std": two.detach().std()})


def samples(step: int) -> Samples:
    """This rank's part of the global batch of a step."""
    x = torch.randn(GLOBAL_BATCH, 3, 16, 16, generator=torch.Generator().manual_seed(step))
    return Samples(x.chunk(world.size())[world.rank()])


def this_world() -> world.World:
    """This process in the current process group, on the CPU."""
    return world.World(world.rank(), world.size(), world.rank(), torch.device("cpu"))


def strategy(
    name: str, stage: int = 0, seed: int = 0, optimizer: str = "adamw", only: str = "", **options: object
) -> Strategy:
    """A strategy that trains the toy, or `only` a part of it. `options`: settings of strategy or optimizer."""
    torch.manual_seed(seed)
    own = {"precision": "fp32"} | {
        key: options.pop(key) for key in StrategySettings.model_fields.keys() & options.keys()
    }
    settings = StrategySettings(name=name, deepspeed=Path(f"configs/deepspeed/zero{stage}.json"), **own)
    options = {"lr_reference_batch": None, "clip_norm": 0.5, "weight_decay": 0.05, "name": optimizer} | options
    toy = Contrast()
    for name, parameter in toy.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and name.startswith(only))
    return build_strategy(settings, this_world(), toy, OptimSettings(**options), toy.teachers())


def take(strategy: Strategy, steps: range, bad: tuple[int, int] | None = None) -> list[float]:
    """Losses with a constant rate and an increasing weight decay; `bad` = (step, rank) that gets a NaN pixel."""
    losses = []
    for step in steps:
        batch = samples(step)
        if bad == (step, world.rank()):
            batch.x[0, 0, 0, 0] = float("nan")
        report = strategy.train_step(batch, RATES[strategy.optim.name], MOMENTUM, 0.05 * (1 + step))
        losses.append(world.mean_over_ranks(report.loss).item())
    return losses


def tensors(strategy: Strategy) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    weights = {name: tensor.detach().clone() for name, tensor in strategy.weights()}
    return weights, {name: tensor.detach().clone() for name, tensor in strategy.optimizer_state()}


def difference(one: dict[str, Tensor], two: dict[str, Tensor]) -> float:
    """The largest difference between tensors of the same name, relative to the tensor's norm."""
    assert one.keys() == two.keys()
    scale = {name: max(value.double().norm().item(), 1e-12) for name, value in two.items()}
    return max((one[name].double() - two[name].double()).norm().item() / scale[name] for name in two)
