"""Micro-batches give the losses and weights of the whole batch; contrastive losses use cached gradients."""

import numpy as np
import pytest
import torch
from fakes.memory import memory_shards
from gloo import run_ranks

from rspretrain import config, world
from rspretrain.engine.job import prepare
from rspretrain.strategies import build_strategy, check_network
from strategies.jobs import CASES, GROUPS, settings

STEPS = 5
PAIR = {"name": "dual_simclr", "crop_px": 18}
MEAN = CASES["mae"].objective  # its loss is a mean over samples
ONE = {"name": "simclr", "sensor": "s2", "px": 24, "norm": False, "temperature": 1.0, "colour": {"jitter": 0.5}}


def tree(shards, objective, accumulate, **strategy):
    made = settings(shards, CASES["dual_simclr"]).model_dump(mode="json")
    made["objective"] = objective
    made["strategy"] |= {"name": "auto", "accumulate": accumulate, **strategy}
    if objective["name"] == "simclr":
        del made["sensors"]["s1"]
    return config.parse(made)


def train(shards, objective, accumulate, dtype=torch.float64, **strategy):
    this_world = world.World(world.rank(), world.size(), world.rank(), torch.device("cpu"))
    job = prepare(tree(shards, objective, accumulate, **strategy), this_world, deepspeed_launcher=False)
    made = build_strategy(job.settings.strategy, this_world, job.objective.to(dtype), job.settings.optim)
    losses, norms = [], []
    batches = job.loader.batches()
    for step in range(STEPS if dtype == torch.float64 else 1):  # Adam turns rounding errors of zero into full steps
        torch.manual_seed(step)
        report = made.train_step(next(batches), 1e-3)
        losses.append(world.mean_over_ranks(report.loss).item())
        norms.append(report.grad_norm)
    batches.close()
    return losses, norms, {name: value.clone() for name, value in made.weights()}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("accumulate")
    memory_shards(folder, samples=64, samples_per_shard=16, groups=GROUPS)
    return folder


def same(one, other, tolerance=1e-12):
    assert one[0] == pytest.approx(other[0], rel=tolerance)
    assert one[1] == pytest.approx(other[1], rel=100 * tolerance, abs=100 * tolerance * max(other[1]))
    for name, value in one[2].items():
        norm = other[2][name].norm().clamp(min=1e-5)
        # The bound is wide because Adam turns rounding errors of zero into full steps.
        assert (value - other[2][name]).norm() / norm < max(1e-6, 1000 * tolerance), name


@pytest.mark.parametrize("objective", [PAIR, ONE, MEAN], ids=lambda objective: objective["name"])
def test_micro_batches_equal_the_whole_batch(shards, objective):
    dtype, tolerance = (torch.float64, 1e-12) if objective is not ONE else (torch.float32, 1e-5)  # jitter is float32
    whole = train(shards, objective, 1, dtype)
    for accumulate in (2, 8):
        same(train(shards, objective, accumulate, dtype), whole, tolerance)


def on_ranks(shards):
    return {
        (objective["name"], name): train(shards, objective, 4, name=name)
        for objective in (PAIR, MEAN)
        for name in ("ddp", "fsdp")
    }


@pytest.mark.slow
def test_on_two_ranks(shards):
    whole = {objective["name"]: train(shards, objective, 1) for objective in (PAIR, MEAN)}
    for rank in run_ranks(2, on_ranks, shards):
        for (objective, name), found in rank.items():
            same(found, whole[objective], 1e-10 if name == "ddp" else 1e-7)  # FSDP2 sums over ranks in float32


def test_a_nonfinite_loss_updates_nothing(shards):
    job = prepare(tree(shards, PAIR, 4), world.World(0, 1, 0, torch.device("cpu")), False)
    made = build_strategy(job.settings.strategy, job.world, job.objective, job.settings.optim)
    batch = next(job.loader.batches())
    batch.images["s1_10m"][9] = float("nan")
    before = {name: value.clone() for name, value in made.weights()}
    report = made.train_step(batch, 1e-3)
    assert report.refused
    assert not np.isfinite(report.grad_norm)
    assert all(torch.equal(value, before[name]) for name, value in made.weights())
    assert not made.train_step(next(job.loader.batches()), 1e-3).refused


def test_drop_path_is_the_same_in_both_passes(shards):
    """The cached gradient is correct for the second pass only if both passes drop the same paths."""
    made = tree(shards, PAIR, 4)
    made = made.model_copy(update={"backbone": made.backbone.model_copy(update={"drop_path": 0.5})})
    job = prepare(made, world.World(0, 1, 0, torch.device("cpu")), False)
    strategy = build_strategy(job.settings.strategy, job.world, job.objective, job.settings.optim)
    seen = []
    embed = job.objective.embed
    job.objective.embed = lambda batch: seen.append(embed(batch)) or seen[-1]
    strategy.train_step(next(job.loader.batches()), 1e-3)
    assert len(seen) == 8
    for first, second in zip(seen[:4], seen[4:], strict=True):
        assert torch.equal(first, second.detach())


def test_unsupported_accumulation_is_refused(shards):
    with pytest.raises(ValueError, match=r"has 1 batch norms \(head.1, …\), expected none: their statistics"):
        prepare(tree(shards, {**ONE, "norm": True}, 2), world.World(0, 1, 0, torch.device("cpu")), False)
    with pytest.raises(ValueError, match=r"got 3 for 16 samples per rank, expected a divisor. Set train.global"):
        prepare(tree(shards, PAIR, 3), world.World(0, 1, 0, torch.device("cpu")), False)
    with pytest.raises(ValueError, match=r"got 2 with strategy.name=deepspeed, expected 1: DeepSpeed scales"):
        prepare(tree(shards, PAIR, 2, name="deepspeed"), world.World(0, 1, 0, torch.device("cpu")), False)
    with pytest.raises(ValueError, match=r"the loss of Linear couples the samples of a step other than through their"):
        check_network(tree(shards, PAIR, 2).strategy, torch.nn.Linear(1, 1), couples_samples=True)


def test_a_mean_over_samples_needs_one_pass(shards):
    made = tree(shards, PAIR, 4).strategy
    optim = tree(shards, PAIR, 4).optim
    job = prepare(tree(shards, PAIR, 1), world.World(0, 1, 0, torch.device("cpu")), False)
    batch = next(job.loader.batches())
    found = []
    for accumulate in (1, 4):
        torch.manual_seed(0)
        module = MeanSquare()
        own = made.model_copy(update={"name": "single", "accumulate": accumulate})
        strategy = build_strategy(own, job.world, module, optim)
        found.append((strategy.train_step(batch, 0.1), module.weight.clone()))
    assert found[0][0].loss == pytest.approx(found[1][0].loss.item())
    assert found[0][0].metrics["health/x"] == pytest.approx(found[1][0].metrics["health/x"].item())
    torch.testing.assert_close(found[0][1], found[1][1])


class MeanSquare(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([0.5]))

    def forward(self, batch):
        loss = (batch.images["s1_10m"].mean(dim=(1, 2, 3)) * self.weight).square().mean()
        return Result(loss, {"health/x": loss.detach()})


class Result:
    def __init__(self, loss, metrics):
        self.loss, self.metrics = loss, metrics
