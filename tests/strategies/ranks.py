"""What real ranks find out about the strategies, each for itself; everything in one start of the processes."""

import math
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.utils import counters

from rspretrain import world
from rspretrain.strategies import Strategy
from strategies.toys import ALL, MOMENTUM, here, samples, strategy, take, tensors

HALF, REST, NEXT = range(10), range(10, 20), range(20, 23)
BAD = (5, 1)  # step and rank that see a NaN; with one rank it is that one

PARTS = ("body.blocks.1", "sharpness")  # a block between frozen ones; a head of one number, after all blocks

Found = dict[str, Any]


def on_two_ranks() -> dict[str, Found]:
    """Label of a strategy -> what was found; and "fsdp", what only FSDP2 can show."""
    found = {label(*which): law_5(*which) for which in ALL}
    for which in ALL:
        found[label(*which)] |= moves(*which, found["ddp0"]["half"], found[label(*which)]["half"])
        found[label(*which)] |= {"adam": with_adam(*which), **{only: frozen_but(only, *which) for only in PARTS}}
    return found | {"options": with_options()}


def label(name: str, stage: int) -> str:
    return f"{name}{stage}"


def law_5(name: str, stage: int) -> Found:
    """Twenty steps, of which one is refused, and what can be done after them."""
    trained = strategy(name, stage)
    losses = take(trained, HALF, bad=BAD)
    half = (*tensors(trained), trained.updates)
    losses += take(trained, REST)
    whole = (*tensors(trained), trained.updates)
    return {
        "losses": losses,
        "half": half,
        "whole": whole,
        "held": held(trained),
        "goes on": goes_on(trained, strategy(name, stage, seed=9), whole),
        "goes back": goes_back(trained, half, losses[10:]),
        "refused": refused(trained),
        "sgd": with_sgd(name, stage),
        "drift": trained.teacher_drift(),
    }


def with_sgd(name: str, stage: int = 0) -> tuple[list[float], list[float], dict[str, Tensor]]:
    """Losses, gradient norms and weights; AdamW would hide another scale of gradients, or of their clipping."""
    trained = strategy(name, stage, optimizer="sgd", clip_norm=2.0)
    reports = [trained.train_step(samples(step), 0.05, MOMENTUM) for step in HALF]
    losses = [world.mean_over_ranks(report.loss).item() for report in reports]
    return losses, [report.grad_norm for report in reports], tensors(trained)[0]


def with_adam(name: str, stage: int) -> tuple[list[float], dict[str, Tensor], dict[str, Tensor]]:
    """Five steps under the strategy before this one, five more under this one; losses, weights and state."""
    first = strategy(*ALL[ALL.index((name, stage)) - 1], optimizer="adam")
    second = strategy(name, stage, seed=9, optimizer="adam")
    losses = take(first, HALF[:5])
    second.load(*tensors(first), first.updates)
    return losses + take(second, HALF[5:]), *tensors(second)


def frozen_but(only: str, name: str, stage: int = 0) -> Found:
    """Five steps of one part, everything before and after it frozen."""
    trained, other = (strategy(name, stage, seed, only=only) for seed in (0, 9))
    before = tensors(trained)[0]
    losses = take(trained, HALF[:5])
    whole = (*tensors(trained), trained.updates)
    return {"losses": losses, "before": before, "whole": whole, "goes on": goes_on(trained, other, whole)}


def goes_on(trained: Strategy, other: Strategy, whole: tuple[Any, ...]) -> bool:
    """Whether the next steps after loading into another object are those of going on, bit for bit."""
    other.load(*whole)
    return take(trained, NEXT) == take(other, NEXT) and all(map(torch.equal, flat(trained), flat(other)))


def goes_back(trained: Strategy, half: tuple[Any, ...], losses: list[float]) -> bool:
    """Whether an object that has gone on may be set back: nothing of later steps is left in it."""
    trained.load(*half)
    return take(trained, REST) == losses


def refused(trained: Strategy) -> bool:
    """Whether a refused step leaves every weight, teacher, buffer and optimizer tensor as it was."""
    before, updates = flat(trained), trained.updates
    batch = samples(3)
    if here().rank == here().size - 1:
        batch.x[:] = float("inf")
    report = trained.train_step(batch, 1e-3, MOMENTUM)
    untouched = all(map(torch.equal, before, flat(trained)))
    return report.refused and not math.isfinite(report.grad_norm) and untouched and trained.updates == updates


def flat(trained: Strategy) -> list[Tensor]:
    weights, state = tensors(trained)
    return [*weights.values(), *state.values()]


def held(trained: Strategy) -> dict[str, int]:
    """How many numbers this rank holds after a step: of parameters, gathered ones, and the optimizer's state."""
    parameters = list(trained.objective.parameters())
    storages = [trained._local(parameter).untyped_storage() for parameter in parameters]
    states = [value for state in trained.optimizer.state.values() for value in state.values() if value.ndim > 0]
    return {
        "parameters": sum(trained._local(parameter).numel() for parameter in parameters),
        "stored": sum({storage.data_ptr(): storage.nbytes() // 4 for storage in storages}.values()),
        "gathered": sum(parameter.untyped_storage().nbytes() // 4 for parameter in parameters),
        "state": sum(getattr(value, "_local_tensor", value).numel() for value in states),
    }


def moves(name: str, stage: int, ddp: tuple[Any, ...], own: tuple[Any, ...]) -> Found:
    """The second ten steps of DDP under this strategy, and the other way around."""
    onto, back = strategy(name, stage, seed=9), strategy("ddp", seed=9)
    onto.load(*ddp)
    back.load(*own)
    return {"from ddp": (take(onto, REST), *tensors(onto)), "to ddp": (take(back, REST), *tensors(back))}


def with_options() -> Found:
    """The first losses under every option that changes how but not what is computed."""
    found: Found = {}
    for name, stage in ALL:
        found[f"{name}{stage} bf16"] = take(strategy(name, stage, precision="bf16"), range(4))
        found[f"{name}{stage} checkpoint"] = take(strategy(name, stage, checkpoint_activations=True), range(4))
    for name, stage in (("fsdp", 0), ("deepspeed", 3)):
        bf16 = strategy(name, stage, precision="bf16")
        take(bf16, range(2))
        dtypes = {bf16._local(one).dtype for one in bf16.objective.parameters()}
        found[f"{name}{stage} bf16 held"] = held(bf16) | {"dtypes": dtypes, "drift": bf16.teacher_drift()}
    compiled = take(strategy("fsdp", compile=True, checkpoint_activations=True), range(3))
    found["compiled"] = compiled, counters["stats"]["unique_graphs"], dict(counters["graph_break"])
    lars = {name: strategy(name, optimizer="lars") for name in ("ddp", "fsdp")}
    return found | {f"{name} lars": (take(one, HALF), *tensors(one)) for name, one in lars.items()}


def on_any_rank() -> dict[str, Found]:
    """The short form, for other numbers of ranks."""
    found = {}
    for which in ALL[1:]:
        trained = strategy(*which)
        losses = take(trained, range(20), bad=(BAD[0], here().size - 1))
        found[label(*which)] = {"losses": losses, "whole": tensors(trained), "held": held(trained)}
    return found
