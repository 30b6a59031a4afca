"""What a strategy is: where tensors live, in which precision they compute, how gradients meet and how weights move.

The loop calls `train_step` and knows no more. A new strategy is one file with the abstract methods and one row in
`strategies/__init__.py`; FSDP2 and ZeRO-3 hold shards, so weights and optimizer state leave and enter a strategy only
as whole tensors by parameter name, one at a time, and teachers follow their students on what `_local` gives.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from rspretrain import world as ranks
from rspretrain.batch import Batch
from rspretrain.nn.drop_path import key_drops_, keyed_drops
from rspretrain.nn.ema import TeacherPair, drift_squares, follow_, matched_parameters
from rspretrain.nn.norm import synchronise_norms
from rspretrain.nn.two_stage_loss import TwoStageLoss
from rspretrain.registry import NamedSettings
from rspretrain.strategies.accumulate import accumulate
from rspretrain.strategies.blocks import compile_, need_blocks, recompute_
from rspretrain.strategies.optim import Named, OptimSettings, clip_each_
from rspretrain.world import World

Precision = Literal["fp32", "bf16"]


class Outcome(Protocol):
    """What a forward gives: an objective's `Losses`, or anything like it; strategies know nothing of objectives."""

    @property
    def loss(self) -> Tensor: ...  # noqa: D102 (scalar float32, the mean over this rank's samples)

    @property
    def metrics(self) -> dict[str, Tensor]: ...  # noqa: D102 (detached)


class StrategySettings(NamedSettings):
    """How the ranks share the work. May change between a run and its continuation."""

    name: str = Field(
        default="auto",
        description="auto: deepspeed under the deepspeed launcher, else ddp with several ranks, else single.",
    )
    precision: Precision = Field(
        default="fp32",
        description="Precision of forward and backward. Parameters and optimizer state are float32 always.",
    )
    deepspeed: Path = Field(
        default=Path("zero1"),
        description="DeepSpeed JSON file with the ZeRO stage and its buckets, for name: deepspeed. A path, or one of "
        "the shipped zero0 to zero3.",
    )
    checkpoint_activations: bool = Field(
        default=False,
        description="Recompute the activations of each block in the backward pass: less memory, more time.",
    )
    accumulate: int = Field(
        default=1,
        ge=1,
        description="Number of pieces that the batch of a rank is cut into: less memory, the same gradient.",
    )
    compile: bool = Field(
        default=False,
        description="Compile each block with torch.compile: minutes at the start, faster steps afterwards.",
    )


class Entry(nn.Module):
    """How strategies enter an objective: hooks of FSDP2 and DeepSpeed look for tensors in tuples and dictionaries."""

    def __init__(self, objective: nn.Module) -> None:
        super().__init__()
        self.objective = objective
        self._drops = tuple(keyed_drops(objective))

    def adopt(self, parameters: Iterable[nn.Parameter]) -> None:
        """Own these, too: FSDP2 and ZeRO-3 gather what a module owns when it is entered, and this one is for a step."""
        for parameter in parameters:
            self.register_parameter(f"own{len(self._parameters)}", parameter)

    def forward(
        self, batch: Batch, upstream: Tensor | None = None, embed: bool = False
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and metrics. By `forward`, because DeepSpeed's hooks around the objective would not know its result.

        For pieces of a batch (accumulate.py): the embeddings alone, or what has the gradient `upstream` gives them.
        """
        for drop in self._drops:
            drop.begin(batch.seeds)
        if embed or upstream is not None:
            assert isinstance(self.objective, TwoStageLoss)
            embeddings = self.objective.embed(batch)
            return embeddings if upstream is None else (embeddings * upstream).sum(), {}
        outcome: Outcome = self.objective.forward(batch)
        return outcome.loss, outcome.metrics


@dataclass(frozen=True)
class StepReport:
    """One step as this rank saw it; nothing is averaged over ranks yet."""

    loss: Tensor  # scalar, detached
    metrics: dict[str, Tensor]
    grad_norm: float  # of the gradient averaged over ranks, before clipping; the same on all; not finite if refused
    refused: bool  # the same on all ranks: something was not finite, so nothing moved


class Strategy(ABC):
    """One way to train an objective. `objective` is the module itself, whatever wraps it for training."""

    Settings: ClassVar[type[StrategySettings]] = StrategySettings
    # One rank computes what `single` computes, so `single` takes its place there.
    is_single_alone: ClassVar[bool] = False
    is_sharded: bool  # `_local` is a part of the parameter, and the ranks' parts together are the whole

    def __init__(
        self,
        settings: StrategySettings,
        world: World,
        objective: nn.Module,
        optim: OptimSettings,
        teachers: Sequence[TeacherPair] = (),
    ) -> None:
        self.settings, self.world, self.optim, self.teachers = settings, world, optim, teachers
        self.updates = 0  # steps that moved the weights: all but the refused ones
        if world.size > 1:
            synchronise_norms(objective)
        key_drops_(objective)
        self.objective = objective.to(world.device).train()
        self._shapes = {name: tensor.shape for name, tensor in objective.state_dict().items()}  # before they are cut up
        if settings.compile:
            compile_(need_blocks(objective, "compile"))
        if settings.checkpoint_activations:
            for block in need_blocks(objective, "checkpoint_activations"):
                recompute_(block)
        self.optimizer = self._setup()
        self._followed = matched_parameters(teachers)  # after the set-up, which may put other parameters in place
        # Norm statistics move in the forward, before anybody knows that a step must be refused.
        self._kept_buffers = [buffer.clone() for buffer in self.objective.buffers()]

    @classmethod  # noqa: B027
    def check_settings(cls, settings: StrategySettings, world: World, optim: OptimSettings) -> None:
        """ValueError if the strategy cannot do what the settings ask, before anything is built."""

    def train_step(
        self, batch: Batch, lr: float, momentum: float | None = None, weight_decay: float | None = None
    ) -> StepReport:
        """Forward, backward, the mean gradient over ranks, clipping, the optimizer's step at rate `lr`, the teachers'.

        `lr` is that of parameters whose scale is 1 (optim.lr_scales). Teachers follow with `momentum`, which is None
        where there are none; weights decay as before where `weight_decay` is None. A loss or gradient that is not
        finite on any rank is refused by all: weights, buffers, optimizer state and teachers stay as they were.
        """
        assert (momentum is None) == (not self.teachers), f"{momentum=} with {len(self.teachers)} teachers"
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
            if weight_decay is not None and group["decays"]:
                group["weight_decay"] = weight_decay
        self._copy_buffers(list(self.objective.buffers()), self._kept_buffers)
        loss, metrics = self._accumulate(batch.to(self.world.device))
        grad_norm = self._update()
        refused = not math.isfinite(grad_norm)
        if refused:
            self._copy_buffers(self._kept_buffers, list(self.objective.buffers()))
        else:
            self.updates += 1
            if momentum is not None:
                follow_(*self._local_pairs(), momentum)
        return StepReport(loss.detach(), metrics, grad_norm, refused)

    def _accumulate(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and metrics of this rank's batch, whose gradient is then where `_update` finds it."""
        if self.settings.accumulate == 1:
            loss, metrics = self._forward(batch)
            self._backward(poison(loss))
            return loss, metrics
        pieces = batch.split(self.settings.accumulate)
        return accumulate(self.objective, pieces, self._forward, self._backward, poison)

    def teacher_drift(self) -> float | None:
        """|teacher - student| / |student| over all parameters that follow; None without teachers. All ranks call it."""
        if not self._followed:
            return None
        squares = drift_squares(*self._local_pairs())
        apart, length = (ranks.sum_over_ranks(squares) if self.is_sharded else squares).tolist()
        return math.sqrt(apart / length) if length else math.nan

    def weight_norm(self) -> float:
        """The length of all trainable parameters as one vector. All ranks call it; one pass over the weights."""
        parts = [self._local(parameter) for _, parameter in self.trainable()]
        square = nn.utils.get_total_norm(parts).double().square()
        return math.sqrt(ranks.sum_over_ranks(square) if self.is_sharded else square)

    def _local_pairs(self) -> tuple[list[Tensor], list[Tensor]]:
        """Teachers' and students' parameters, as far as this rank holds them."""
        teachers = [self._local(teacher) for _, teacher in self._followed]
        return teachers, [self._local(student) for student, _ in self._followed]

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter and persistent buffer of the objective, whole, by name. All ranks iterate together."""
        for name, tensor in self.objective.state_dict(keep_vars=True).items():
            yield name, self._whole(tensor)

    @abstractmethod
    def optimizer_state(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the optimizer's state, whole, as "exp_avg/<parameter>". All ranks iterate together."""

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor], updates: int) -> None:
        """Take up what `weights`, `optimizer_state` and `updates` of any strategy gave.

        Mappings may read a tensor when it is asked for: none is asked for twice. ValueError for other names or shapes.
        """
        missing, unknown = sorted(self._shapes.keys() - set(weights)), sorted(set(weights) - self._shapes.keys())
        if missing or unknown:
            raise ValueError(
                f"Weights of another objective: {len(missing)} tensors are missing {missing[:3]}, {len(unknown)} are "
                f"unknown {unknown[:3]}. Load what this objective wrote."
            )
        for name, target in self.objective.state_dict(keep_vars=True).items():
            whole = weights[name]
            if whole.shape != self._shapes[name]:
                raise ValueError(
                    f"Weights of another objective: {name} has shape {list(whole.shape)}, expected "
                    f"{list(self._shapes[name])}. Load what this objective wrote."
                )
            self._fill_(target, whole)
        self.updates = updates
        self._load_optimizer_(optimizer)

    @abstractmethod
    def _load_optimizer_(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what `optimizer_state` gave after `self.updates` updates: nothing, before the first."""

    @abstractmethod
    def _whole(self, tensor: Tensor) -> Tensor:
        """All of a parameter or buffer, detached. All ranks call it together."""

    @abstractmethod
    def _fill_(self, target: Tensor, whole: Tensor) -> None:
        """Write this rank's part of `whole` into a parameter or buffer."""

    @abstractmethod
    def _setup(self) -> torch.optim.Optimizer:
        """Wrap the objective and build the optimizer whose groups hold the learning rate."""

    @abstractmethod
    def _forward(
        self, batch: Batch, upstream: Tensor | None = None, embed: bool = False
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and metrics on some of this rank's samples, in the strategy's precision; see Entry."""

    @abstractmethod
    def _backward(self, loss: Tensor) -> None:
        """Add the gradient, averaged over ranks, where `_update` finds it; it starts from none in every step."""

    @abstractmethod
    def _update(self) -> float:
        """Clip and move the weights; the norm before clipping. If that is not finite nothing has moved."""

    @abstractmethod
    def _local(self, parameter: nn.Parameter) -> Tensor:
        """This rank's part of a parameter in float32, to be changed in place: no padding, and no copy."""

    def trainable(self) -> Named:
        """The parameters that the optimizer moves, with their names, in the objective's order."""
        return [(name, p) for name, p in self.objective.named_parameters() if p.requires_grad]

    def _clip_and_step(self) -> float:
        """`_update` where gradients are in `.grad`: equal on all ranks, or their shards. All ranks decide alike."""
        parameters = [parameter for _, parameter in self.trainable() if parameter.grad is not None]
        norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters])  # type: ignore[misc]
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        value = norm.item()
        if math.isfinite(value):
            if self.optim.clip_norm is not None and self.optim.clip == "per_tensor":
                clip_each_([parameter.grad for parameter in parameters], self.optim.clip_norm)  # type: ignore[misc]
            elif self.optim.clip_norm is not None:
                nn.utils.clip_grads_with_norm_(parameters, self.optim.clip_norm, norm)
            self.optimizer.step()
        return value

    @staticmethod
    @torch.no_grad()
    def _copy_buffers(source: list[Tensor], target: list[Tensor]) -> None:
        for kept, buffer in zip(target, source, strict=True):
            kept.copy_(buffer)


def poison(loss: Tensor) -> Tensor:
    """The loss itself, but where it is not finite its whole gradient is NaN.

    An infinite loss may have finite gradients. This way the averaged gradient tells every rank that one of them failed,
    without a collective or a wait of its own.
    """
    return loss * torch.where(torch.isfinite(loss.detach()), 1.0, torch.nan)
