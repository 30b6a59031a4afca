"""Every rank holds everything: alone (`Single`) or with gradients averaged by torch's DDP (`Ddp`)."""

import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rspretrain.batch import Batch
from rspretrain.strategies.base import Outcome, Strategy
from rspretrain.strategies.optim import build_optimizer, load_named_state_, named_state


class Replicated(Strategy):
    """What `Single` and `Ddp` share: whole parameters and torch's optimizers on every rank."""

    is_sharded = False

    def _setup(self) -> torch.optim.Optimizer:
        self._model = self._wrap()
        return build_optimizer(self.optim, self.objective)

    @abstractmethod
    def _wrap(self) -> nn.Module:
        """The module whose forward and backward average the gradient over ranks."""

    def _forward(self, batch: Batch) -> Outcome:
        with torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"):
            losses: Outcome = self._model(batch)
        return losses

    def _backward(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()

    def _update(self) -> float:
        return self._clip_and_step()

    def _local(self, parameter: nn.Parameter) -> Tensor:
        return parameter.detach()

    def optimizer_state(self) -> Iterator[tuple[str, Tensor]]:
        """See Strategy."""
        yield from named_state(self.optimizer, self.optim, self.trainable())

    def load(self, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor], updates: int) -> None:
        """See Strategy."""
        self.objective.load_state_dict(weights)
        load_named_state_(self.optimizer, self.optim, self.trainable(), optimizer, updates)
        self.updates = updates


@final
class Single(Replicated):
    """One process."""

    name = "single"

    def _wrap(self) -> nn.Module:
        return self.objective


@final
class Ddp(Replicated):
    """torch's DistributedDataParallel. Norms are synchronised, so buffers are equal on all ranks and none is sent."""

    name = "ddp"

    def _wrap(self) -> nn.Module:
        with warnings.catch_warnings():
            # torch 2.13 has another name for it, which 2.8 does not know.
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            return DistributedDataParallel(self.objective, broadcast_buffers=False, gradient_as_bucket_view=True)
