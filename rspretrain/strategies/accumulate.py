"""A rank's batch in pieces: the gradient of the whole batch in the memory of one piece.

A loss that is a mean over samples is summed up piece by piece. One that compares samples is done by cached gradients
(nn/comparing.py): every piece is embedded without a graph, all embeddings are compared, over all ranks, and each piece
is embedded once more to carry its gradient down. Views and masks belong to the sample, so they come out the same; what
draws from torch's own generator (dropout) starts the second time where it started the first.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rspretrain.batch import Batch
from rspretrain.nn.two_stage_loss import TwoStageLoss

Metrics = dict[str, Tensor]
Forward = Callable[..., tuple[Tensor, Metrics]]  # (batch, upstream=None, embed=False), see base.Entry
Backward = Callable[[Tensor], None]
Poison = Callable[[Tensor], Tensor]


def check_pieces(objective: nn.Module, couples_samples: bool) -> None:
    """ValueError where the objective's gradient is not the sum of its pieces'."""
    norms = [name for name, part in objective.named_modules() if isinstance(part, _BatchNorm)]
    if norms:
        raise ValueError(
            f"strategy.accumulate: the objective has {len(norms)} batch norms ({norms[0]}, …), whose statistics are of "
            "the whole batch and not of its pieces. Use a backbone and heads without them (a ViT; objective.norm=false "
            "for simclr), more ranks, or strategy.accumulate=1."
        )
    if couples_samples and not isinstance(objective, TwoStageLoss):
        raise ValueError(
            f"strategy.accumulate: the loss of {type(objective).__name__} depends on all samples of a step together, "
            "not through embeddings alone, so it cannot be cut. Use more ranks, or strategy.accumulate=1."
        )


def accumulate(
    objective: nn.Module,
    pieces: Sequence[Batch],
    forward: Forward,
    backward: Backward,
    poison: Poison,
) -> tuple[Tensor, Metrics]:
    """Loss and metrics of the whole batch; its gradient is where `backward` leaves it."""
    if isinstance(objective, TwoStageLoss):
        return _by_cached_gradients(objective, pieces, forward, backward, poison)
    losses, told = [], []
    for piece in pieces:
        loss, metrics = forward(piece)
        backward(poison(loss) / len(pieces))
        losses.append(loss.detach())
        told.append(metrics)
    return torch.stack(losses).mean(), {name: torch.stack([each[name] for each in told]).mean() for name in told[0]}


def _by_cached_gradients(
    objective: TwoStageLoss,
    pieces: Sequence[Batch],
    forward: Forward,
    backward: Backward,
    poison: Poison,
) -> tuple[Tensor, Metrics]:
    embeddings, states = [], []
    with torch.no_grad():
        for piece in pieces:
            states.append(_generators(piece))
            embeddings.append(forward(piece, embed=True)[0])
    whole = torch.cat(embeddings, dim=1).requires_grad_()
    outcome: Any = objective.compare(whole)
    (gradient,) = torch.autograd.grad(poison(outcome.loss), whole)
    for piece, state, upstream in zip(pieces, states, gradient.chunk(len(pieces), 1), strict=True):
        _restore(state)
        backward(forward(piece, upstream=upstream)[0])
    return outcome.loss, outcome.metrics


def _generators(piece: Batch) -> list[Tensor]:
    states = [torch.get_rng_state()]
    if piece.seeds.is_cuda:
        states.append(torch.cuda.get_rng_state(piece.seeds.device))
    return states


def _restore(states: Sequence[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state(states[1])
