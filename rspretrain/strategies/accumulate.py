"""Gradient accumulation: the gradient of a rank's whole batch with the memory of one micro-batch.

If the loss is a mean over samples, the gradients of the micro-batches are summed. If the loss compares samples, cached
gradients are used (nn/two_stage_loss.py; Gao et al. 2021): every micro-batch is embedded without a graph, the loss
compares all embeddings of all ranks, and every micro-batch is embedded again to backpropagate its part of the gradient.
Views and masks are functions of the sample and therefore equal in both passes. For dropout, the state of torch's
generator is restored before the second pass.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rspretrain.batch import Batch
from rspretrain.nn.two_stage_loss import TwoStageLoss

Metrics = dict[str, Tensor]
Forward = Callable[..., tuple[Tensor, Metrics]]  # (batch, upstream=None, embed=False), see base.ObjectiveWrapper
Backward = Callable[[Tensor], None]
LossGuard = Callable[[Tensor], Tensor]  # see base.propagate_nonfinite


def check_accumulation(objective: nn.Module, couples_samples: bool) -> None:
    """ValueError if the gradient of a batch is not the sum of the gradients of its micro-batches."""
    norms = [name for name, part in objective.named_modules() if isinstance(part, _BatchNorm)]
    if norms:
        raise ValueError(
            f"strategy.accumulate: the objective has {len(norms)} batch norms ({norms[0]}, …), expected none: their "
            "statistics would be those of a micro-batch. Use a backbone and heads without batch norm (a ViT; "
            "objective.norm=false for simclr), more ranks, or strategy.accumulate=1."
        )
    if couples_samples and not isinstance(objective, TwoStageLoss):
        raise ValueError(
            f"strategy.accumulate: the loss of {type(objective).__name__} couples the samples of a step other than "
            "through their embeddings, so the batch cannot be split. Use more ranks, or strategy.accumulate=1."
        )


def accumulate(
    objective: nn.Module,
    micro_batches: Sequence[Batch],
    forward: Forward,
    backward: Backward,
    guard: LossGuard,
) -> tuple[Tensor, Metrics]:
    """Loss and metrics of the whole batch. `backward` accumulates its gradient."""
    if isinstance(objective, TwoStageLoss):
        return _with_cached_gradients(objective, micro_batches, forward, backward, guard)
    losses, metrics_of = [], []
    for micro_batch in micro_batches:
        loss, metrics = forward(micro_batch)
        backward(guard(loss) / len(micro_batches))
        losses.append(loss.detach())
        metrics_of.append(metrics)
    means = {name: torch.stack([metrics[name] for metrics in metrics_of]).mean() for name in metrics_of[0]}
    return torch.stack(losses).mean(), means


def _with_cached_gradients(
    objective: TwoStageLoss,
    micro_batches: Sequence[Batch],
    forward: Forward,
    backward: Backward,
    guard: LossGuard,
) -> tuple[Tensor, Metrics]:
    embeddings, states = [], []
    with torch.no_grad():
        for micro_batch in micro_batches:
            states.append(_generator_states(micro_batch))
            embeddings.append(forward(micro_batch, embed=True)[0])
    whole = torch.cat(embeddings, dim=1).requires_grad_()
    outcome: Any = objective.compute_loss(whole)
    (gradient,) = torch.autograd.grad(guard(outcome.loss), whole)
    for micro_batch, state, upstream in zip(micro_batches, states, gradient.chunk(len(micro_batches), 1), strict=True):
        _restore_generators(state)
        backward(forward(micro_batch, upstream=upstream)[0])
    return outcome.loss, outcome.metrics


def _generator_states(micro_batch: Batch) -> list[Tensor]:
    states = [torch.get_rng_state()]
    if micro_batch.seeds.is_cuda:
        states.append(torch.cuda.get_rng_state(micro_batch.seeds.device))
    return states


def _restore_generators(states: Sequence[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state(states[1])
