"""Everything that the strategy tests run on real ranks, in one start of the processes."""

import math
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.utils import counters

from rspretrain import world
from rspretrain.strategies import Strategy
from strategies.toys import ALL, MOMENTUM, samples, strategy, take, tensors, this_world

HALF, REST, NEXT = range(10), range(10, 20), range(20, 23)
BAD = (5, 1)  # step and rank with a NaN in a sample; with one rank, on that rank

PARTS = ("body.blocks.1", "sharpness")  # a block between frozen blocks; a head with one parameter, after all blocks

Found = dict[str, Any]


def on_two_ranks() -> dict[str, Found]:
    """Label of a strategy -> its results; "options": results with other settings."""
    found = {label(*which): twenty_steps(*which) for which in ALL}
    for which in ALL:
        found[label(*which)] |= handover(*which, found["ddp0"]["half"], found[label(*which)]["half"])
        found[label(*which)] |= {"adam": with_adam(*which), **{only: frozen_but(only, *which) for only in PARTS}}
    return found | {"options": with_options()}


def label(name: str, stage: int) -> str:
    return f"{name}{stage}"


def twenty_steps(name: str, stage: int) -> Found:
    """Results of twenty steps, of which one is refused, and of loading their states."""
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
        "resumed": resumes(trained, strategy(name, stage, seed=9), whole),
        "reset": resets(trained, half, losses[10:]),
        "refused": refused(trained),
        "sgd": with_sgd(name, stage),
        "drift": trained.teacher_drift(),
    }


def with_sgd(name: str, stage: int = 0) -> tuple[list[float], list[float], dict[str, Tensor]]:
    """Losses, gradient norms and weights. AdamW would hide a wrong scale of gradients or of their clipping."""
    trained = strategy(name, stage, optimizer="sgd", clip_norm=2.0)
    reports = [trained.train_step(samples(step), 0.05, MOMENTUM) for step in HALF]
    losses = [world.mean_over_ranks(report.loss).item() for report in reports]
    return losses, [report.grad_norm for report in reports], tensors(trained)[0]


def with_adam(name: str, stage: int) -> tuple[list[float], dict[str, Tensor], dict[str, Tensor]]:
    """Five steps with the previous strategy in ALL, five more with this one; losses, weights and state."""
    first = strategy(*ALL[ALL.index((name, stage)) - 1], optimizer="adam")
    second = strategy(name, stage, seed=9, optimizer="adam")
    losses = take(first, HALF[:5])
    second.load(*tensors(first), first.updates)
    return losses + take(second, HALF[5:]), *tensors(second)


def frozen_but(only: str, name: str, stage: int = 0) -> Found:
    """Five steps in which only one part is trained."""
    trained, other = (strategy(name, stage, seed, only=only) for seed in (0, 9))
    before = tensors(trained)[0]
    losses = take(trained, HALF[:5])
    whole = (*tensors(trained), trained.updates)
    return {"losses": losses, "before": before, "whole": whole, "resumed": resumes(trained, other, whole)}


def resumes(trained: Strategy, other: Strategy, whole: tuple[Any, ...]) -> bool:
    """Whether another object, after loading, continues bit for bit like the first one."""
    other.load(*whole)
    return take(trained, NEXT) == take(other, NEXT) and all(map(torch.equal, flat(trained), flat(other)))


def resets(trained: Strategy, half: tuple[Any, ...], losses: list[float]) -> bool:
    """Whether loading an earlier state removes every effect of later steps."""
    trained.load(*half)
    return take(trained, REST) == losses


def refused(trained: Strategy) -> bool:
    """Whether a refused step leaves weights, teachers, buffers and optimizer state unchanged."""
    before, updates = flat(trained), trained.updates
    batch = samples(3)
    if this_world().rank == this_world().size - 1:
        batch.x[:] = float("inf")
    report = trained.train_step(batch, 1e-3, MOMENTUM)
    untouched = all(map(torch.equal, before, flat(trained)))
    return report.refused and not math.isfinite(report.grad_norm) and untouched and trained.updates == updates


def flat(trained: Strategy) -> list[Tensor]:
    weights, state = tensors(trained)
    return [*weights.values(), *state.values()]


def held(trained: Strategy) -> dict[str, int]:
    """Numbers of elements that this rank holds after a step: parameters, gathered parameters, optimizer state."""
    parameters = list(trained.objective.parameters())
    storages = [trained._local(parameter).untyped_storage() for parameter in parameters]
    states = [value for state in trained.optimizer.state.values() for value in state.values() if value.ndim > 0]
    return {
        "parameters": sum(trained._local(parameter).numel() for parameter in parameters),
        "stored": sum({storage.data_ptr(): storage.nbytes() // 4 for storage in storages}.values()),
        "gathered": sum(parameter.untyped_storage().nbytes() // 4 for parameter in parameters),
        "state": sum(getattr(value, "_local_tensor", value).numel() for value in states),
    }


def handover(name: str, stage: int, ddp: tuple[Any, ...], own: tuple[Any, ...]) -> Found:
    """The second ten steps with this strategy after DDP, and with DDP after this strategy."""
    onto, back = strategy(name, stage, seed=9), strategy("ddp", seed=9)
    onto.load(*ddp)
    back.load(*own)
    return {"from ddp": (take(onto, REST), *tensors(onto)), "to ddp": (take(back, REST), *tensors(back))}


def with_options() -> Found:
    """The first losses with options that change only how results are computed."""
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
    """A subset for other numbers of ranks."""
    found = {}
    for which in ALL[1:]:
        trained = strategy(*which)
        losses = take(trained, range(20), bad=(BAD[0], this_world().size - 1))
        found[label(*which)] = {"losses": losses, "whole": tensors(trained), "held": held(trained)}
    return found
