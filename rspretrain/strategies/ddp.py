"""Strategies with torch optimizers, and the two that replicate everything on every rank: `Single` and `Ddp`."""

import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import final

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from rspretrain.batch import Batch
from rspretrain.strategies.base import ObjectiveWrapper, Strategy, StrategySettings
from rspretrain.strategies.optim import OptimSettings, build_optimizer, load_named_state_, named_state
from rspretrain.world import World


class TorchStrategy(Strategy):
    """Base of strategies with gradients in `.grad` and torch optimizers; parameters are whole, or DTensors of FSDP2."""

    def _setup(self) -> torch.optim.Optimizer:
        self._model = self._wrap(ObjectiveWrapper(self.objective))  # first: it may replace parameters
        return build_optimizer(self.optim, self.objective)

    @abstractmethod
    def _wrap(self, wrapper: ObjectiveWrapper) -> nn.Module:
        """The module that averages gradients over ranks."""

    def _forward(
        self, batch: Batch, upstream: Tensor | None = None, embed: bool = False
    ) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"):
            loss, metrics = self._model(batch, upstream, embed)
        return loss, metrics

    def _backward(self, loss: Tensor) -> None:
        # DDP and FSDP2 average the gradient of every micro-batch, so FSDP2 never holds a whole gradient on one rank.
        loss.backward()

    def _update(self) -> float:
        norm = self._clip_and_step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def _local(self, parameter: nn.Parameter) -> Tensor:
        local = parameter.detach()
        return local.to_local() if isinstance(local, DTensor) else local

    def optimizer_state(self) -> Iterator[tuple[str, Tensor]]:
        """See Strategy."""
        for name, tensor in named_state(self.optimizer, self.optim, self.trainable()):
            yield name, self._whole(tensor)

    def _load_optimizer_(self, tensors: Mapping[str, Tensor]) -> None:
        load_named_state_(self.optimizer, self.optim, self.trainable(), tensors, self.updates, self._fill_)

    def _whole(self, tensor: Tensor) -> Tensor:
        whole = tensor.detach()
        return whole.full_tensor() if isinstance(whole, DTensor) else whole

    def _fill_(self, target: Tensor, whole: Tensor) -> None:
        if isinstance(target, DTensor):
            whole = whole.to(target.device)
            # Every rank has the whole tensor and takes its own part; nothing is sent.
            whole = distribute_tensor(whole, target.device_mesh, target.placements, src_data_rank=None)
        target.copy_(whole)


@final
class Single(TorchStrategy):
    """One process."""

    is_sharded = False

    @classmethod
    def check_settings(cls, settings: StrategySettings, world: World, optim: OptimSettings) -> None:
        """ValueError with several ranks."""
        if world.size > 1:
            raise ValueError(
                f"strategy.name: got single with {world.size} ranks, expected ddp, fsdp or deepspeed: each rank would "
                "train its own model. Set one of these, or start one process."
            )

    def _wrap(self, wrapper: ObjectiveWrapper) -> nn.Module:
        return wrapper


@final
class Ddp(TorchStrategy):
    """torch's DistributedDataParallel. Norms are synchronised, so buffers are equal on all ranks and not broadcast."""

    is_single_alone = True
    is_sharded = False

    def _wrap(self, wrapper: ObjectiveWrapper) -> nn.Module:
        with warnings.catch_warnings():
            # torch 2.13 renamed the argument; 2.8 does not have the new name.
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            return DistributedDataParallel(wrapper, broadcast_buffers=False, gradient_as_bucket_view=True)
