"""Base class of strategies: tensor placement, precision, gradient averaging and the optimizer step.

The training loop uses `train_step`. A new strategy is one module that implements the abstract methods, and one entry in
`strategies/__init__.py`. FSDP2 and ZeRO-3 shard tensors, so weights and optimizer state are exchanged with a strategy
only as whole tensors by parameter name, one at a time, and EMA teachers are updated on the local parts (`_local`).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from rspretrain import world as distributed
from rspretrain.batch import Batch
from rspretrain.nn.drop_path import key_drop_path_, keyed_drop_paths
from rspretrain.nn.ema import TeacherPair, drift_squares, ema_update_, paired_parameters
from rspretrain.nn.norm import synchronise_norms
from rspretrain.nn.two_stage_loss import TwoStageLoss
from rspretrain.registry import NamedSettings
from rspretrain.strategies.accumulate import accumulate
from rspretrain.strategies.blocks import checkpoint_activations_, compile_blocks_, require_blocks
from rspretrain.strategies.optim import NamedParameters, OptimSettings, clip_each_
from rspretrain.strategies.precision import Precision
from rspretrain.world import World


class ForwardOutput(Protocol):
    """The output of an objective's forward: `Losses`, or any object with these properties."""

    @property
    def loss(self) -> Tensor: ...  # noqa: D102 (scalar float32, the mean over this rank's samples)

    @property
    def metrics(self) -> dict[str, Tensor]: ...  # noqa: D102 (detached)


class StrategySettings(NamedSettings):
    """Distributed training, precision and memory. May be changed when a run is resumed."""

    name: str = Field(
        default="auto",
        description="auto: deepspeed under the deepspeed launcher, else ddp with several ranks, else single.",
    )
    precision: Precision = Field(
        default="auto",
        description="Precision of forward and backward; parameters and optimizer state are float32 always. auto: bf16 "
        "on GPUs with bf16 and on CPUs with AMX or AVX512-BF16, else fp32.",
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
        description="Number of micro-batches per rank and step: less memory, the same gradient.",
    )
    compile: bool = Field(
        default=False,
        description="Compile each block with torch.compile: minutes at the start, faster steps afterwards.",
    )


class ObjectiveWrapper(nn.Module):
    """The module that strategies call. FSDP2 and DeepSpeed find tensors only in its tuples and dictionaries."""

    def __init__(self, objective: nn.Module) -> None:
        super().__init__()
        self.objective = objective
        self._drops = tuple(keyed_drop_paths(objective))

    def register_direct(self, parameters: Iterable[nn.Parameter]) -> None:
        """Register parameters directly, so that FSDP2 and ZeRO-3 gather them once per step, for the whole step."""
        for parameter in parameters:
            self.register_parameter(f"own{len(self._parameters)}", parameter)

    def forward(
        self, batch: Batch, upstream: Tensor | None = None, embed: bool = False
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and metrics. Calls `forward` directly, because DeepSpeed's hooks do not support the type of its result.

        For micro-batches (accumulate.py): only the embeddings, or a scalar whose gradient backpropagates `upstream`.
        """
        for drop in self._drops:
            drop.set_seeds(batch.seeds)
        if embed or upstream is not None:
            assert isinstance(self.objective, TwoStageLoss)
            embeddings = self.objective.embed(batch)
            return embeddings if upstream is None else (embeddings * upstream).sum(), {}
        output: ForwardOutput = self.objective.forward(batch)
        return output.loss, output.metrics


@dataclass(frozen=True)
class StepReport:
    """The results of one step on this rank, not averaged over ranks."""

    loss: Tensor  # scalar, detached
    metrics: dict[str, Tensor]
    grad_norm: float  # of the gradient averaged over ranks, before clipping; equal on all ranks; not finite if refused
    refused: bool  # equal on all ranks; a loss or gradient was not finite, so nothing was updated


class Strategy(ABC):
    """A way to train an objective over all ranks. `objective` is the unwrapped module."""

    Settings: ClassVar[type[StrategySettings]] = StrategySettings
    # Whether one rank computes the same as `single`, which then replaces this strategy.
    is_single_alone: ClassVar[bool] = False
    is_sharded: bool  # `_local` is this rank's part of a parameter; the parts of all ranks form the whole

    def __init__(
        self,
        settings: StrategySettings,
        world: World,
        objective: nn.Module,
        optim: OptimSettings,
        teachers: Sequence[TeacherPair] = (),
    ) -> None:
        self.settings, self.world, self.optim, self.teachers = settings, world, optim, teachers
        self.updates = 0  # steps that updated the weights: all except refused ones
        if world.size > 1:
            synchronise_norms(objective)
        key_drop_path_(objective)
        self.objective = objective.to(world.device).train()
        self._shapes = {name: tensor.shape for name, tensor in objective.state_dict().items()}  # before sharding
        if settings.compile:
            compile_blocks_(require_blocks(objective, "compile"))
        if settings.checkpoint_activations:
            for block in require_blocks(objective, "checkpoint_activations"):
                checkpoint_activations_(block)
        self.optimizer = self._setup()
        self._student_teacher = paired_parameters(teachers)  # after the set-up, which may replace parameters
        # The forward pass updates norm statistics before it is known whether the step is refused.
        self._kept_buffers = [buffer.clone() for buffer in self.objective.buffers()]

    @classmethod  # noqa: B027
    def check_settings(cls, settings: StrategySettings, world: World, optim: OptimSettings) -> None:
        """ValueError if the strategy does not support the settings. Called before anything is built."""

    def train_step(
        self, batch: Batch, lr: float, momentum: float | None = None, weight_decay: float | None = None
    ) -> StepReport:
        """Forward, backward, gradient averaging, clipping, optimizer step, update of the teachers.

        `lr` is the learning rate of parameters with scale 1 (optim.lr_scales). `momentum` is the EMA momentum of the
        teachers, None without teachers. `weight_decay` None leaves the weight decay unchanged. If a loss or gradient is
        not finite on any rank, all ranks refuse the step: weights, buffers, optimizer state and teachers do not change.
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
                ema_update_(*self._local_pairs(), momentum)
        return StepReport(loss.detach(), metrics, grad_norm, refused)

    def _accumulate(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and metrics of this rank's batch; its gradient is left for `_update`."""
        if self.settings.accumulate == 1:
            loss, metrics = self._forward(batch)
            self._backward(propagate_nonfinite(loss))
            return loss, metrics
        micro_batches = batch.split(self.settings.accumulate)
        return accumulate(self.objective, micro_batches, self._forward, self._backward, propagate_nonfinite)

    def teacher_drift(self) -> float | None:
        """|teacher - student| / |student| over all teacher parameters; None without teachers. Collective."""
        if not self._student_teacher:
            return None
        squares = drift_squares(*self._local_pairs())
        apart, length = (distributed.sum_over_ranks(squares) if self.is_sharded else squares).tolist()
        return math.sqrt(apart / length) if length else math.nan

    def weight_norm(self) -> float:
        """L2 norm of all trainable parameters. Collective; one pass over the weights."""
        parts = [self._local(parameter) for _, parameter in self.trainable()]
        square = nn.utils.get_total_norm(parts).double().square()
        return math.sqrt(distributed.sum_over_ranks(square) if self.is_sharded else square)

    def _local_pairs(self) -> tuple[list[Tensor], list[Tensor]]:
        """This rank's parts of the teachers' and students' parameters."""
        teachers = [self._local(teacher) for _, teacher in self._student_teacher]
        return teachers, [self._local(student) for student, _ in self._student_teacher]

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter and persistent buffer of the objective as a whole tensor, by name. Collective iteration."""
        for name, tensor in self.objective.state_dict(keep_vars=True).items():
            yield name, self._whole(tensor)

    @abstractmethod
    def optimizer_state(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the optimizer state as a whole tensor, as "exp_avg/<parameter>". Collective iteration."""

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor], updates: int) -> None:
        """Load the `weights`, `optimizer_state` and `updates` of any strategy.

        Every tensor is read once, so mappings may read from a file. ValueError if names or shapes differ.
        """
        missing, unknown = sorted(self._shapes.keys() - set(weights)), sorted(set(weights) - self._shapes.keys())
        if missing or unknown:
            raise ValueError(
                f"The weights are of another objective: {len(missing)} tensors are missing {missing[:3]}, "
                f"{len(unknown)} are unknown {unknown[:3]}. Load weights that this objective wrote."
            )
        for name, target in self.objective.state_dict(keep_vars=True).items():
            whole = weights[name]
            if whole.shape != self._shapes[name]:
                raise ValueError(
                    f"The weights are of another objective: {name} has shape {list(whole.shape)}, expected "
                    f"{list(self._shapes[name])}. Load weights that this objective wrote."
                )
            self._fill_(target, whole)
        self.updates = updates
        self._load_optimizer_(optimizer)

    @abstractmethod
    def _load_optimizer_(self, tensors: Mapping[str, Tensor]) -> None:
        """Load an `optimizer_state` after `self.updates` updates; it is empty before the first update."""

    @abstractmethod
    def _whole(self, tensor: Tensor) -> Tensor:
        """The whole parameter or buffer, detached. Collective."""

    @abstractmethod
    def _fill_(self, target: Tensor, whole: Tensor) -> None:
        """Write this rank's part of `whole` into a parameter or buffer."""

    @abstractmethod
    def _setup(self) -> torch.optim.Optimizer:
        """Wrap the objective and build the optimizer, whose parameter groups have the learning rate."""

    @abstractmethod
    def _forward(
        self, batch: Batch, upstream: Tensor | None = None, embed: bool = False
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and metrics of some of this rank's samples, in the configured precision; see ObjectiveWrapper."""

    @abstractmethod
    def _backward(self, loss: Tensor) -> None:
        """Accumulate the gradient, averaged over ranks, for `_update`. Every step starts without gradients."""

    @abstractmethod
    def _update(self) -> float:
        """Clip the gradient and update the weights; returns the norm before clipping. No update if it is not finite."""

    @abstractmethod
    def _local(self, parameter: nn.Parameter) -> Tensor:
        """This rank's part of a parameter in float32, without padding; a view, for in-place updates."""

    def trainable(self) -> NamedParameters:
        """The trainable parameters and their names, in the objective's order."""
        return [(name, p) for name, p in self.objective.named_parameters() if p.requires_grad]

    def _clip_and_step(self) -> float:
        """`_update` for gradients in `.grad`, equal on all ranks or sharded. All ranks take the same decision."""
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


def propagate_nonfinite(loss: Tensor) -> Tensor:
    """The loss; if it is not finite, its whole gradient becomes NaN.

    An infinite loss may have finite gradients. With NaN, every rank sees the failure in the averaged gradient, without
    an additional collective or synchronisation.
    """
    return loss * torch.where(torch.isfinite(loss.detach()), 1.0, torch.nan)
