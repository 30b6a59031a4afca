"""BatchNorm over the global batch, on CPUs and GPUs, so that 2 ranks x B/2 equal 1 rank x B.

torch.nn.SyncBatchNorm refuses CPU tensors. On one rank, this is nn.BatchNorm's own path. On several ranks there is one
gather of 2C + 1 numbers in the forward and one sum of 2C numbers in the backward; the heavy passes are ATen's kernels
(docs/methods.md, Synchronised BatchNorm):

    forward   per-rank mean and M2 combined by Chan et al. 1983; y = batch_norm with given statistics
    backward  dx = w/s (g - mean(g) - x^ mean(g x^)), x^ = (x - m)/s, means over the global batch
"""

from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rspretrain import world

_aten = torch.ops.aten


def _global_statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean [C], biased variance [C] and count (0-d) of x [B C …] over all ranks, float64 if x is, else float32."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    scratch = torch.zeros(
        2, x.shape[1], dtype=dtype, device=x.device
    )  # sets the dtype of the statistics for bf16 input
    mean, var = _aten.batch_norm_update_stats(x, scratch[0], scratch[1], 0.0)
    count = torch.tensor([x.numel() / x.shape[1]], dtype=dtype, device=x.device)
    ranks = world.gather_stack(torch.cat([mean, var, count])).double()  # [R 2C+1]
    means, variances = ranks[:, :-1].unflatten(1, (2, -1)).unbind(1)
    counts = ranks[:, -1:]
    total = counts.sum()
    mean = (means * counts).sum(0) / total
    var = ((variances + (means - mean).square()) * counts).sum(0) / total
    return mean.to(dtype), var.to(dtype), total.to(dtype)


class _GlobalBatchNorm(torch.autograd.Function):
    """Returns y, and mean, variance and count for the running averages, without gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, var, count = _global_statistics(x)
        y = _aten.native_batch_norm(x, weight, bias, mean, var, False, 0.0, eps)[0]
        ctx.save_for_backward(x, weight, mean, var, count)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, var, count)
        return y, mean, var, count

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, var, count = ctx.saved_tensors
        # With constant statistics: dx = g w/s, and the two sums for the gradient through the statistics.
        empty = mean.new_empty(0)
        dx, dweight, dbias = _aten.native_batch_norm_backward(
            grads[0], x, weight, mean, var, empty, empty, False, ctx.eps, [True, True, True]
        )
        sums = world.sum_over_ranks(torch.stack([dweight, dbias])).to(mean.dtype) / count
        inverse = torch.rsqrt(var + ctx.eps)
        # dx -= w/s (sums[1] + x^ sums[0]) is affine in x, so it is one more batch_norm with given statistics.
        slope, offset = -weight * inverse * sums[0], -weight * inverse * sums[1]
        dx += _aten.native_batch_norm(x, slope, offset, mean, var, False, 0.0, ctx.eps)[0]
        return dx, dweight, dbias, None


@final
class SyncBatchNorm(_BatchNorm):
    """nn.BatchNorm1d/2d/3d over all ranks: same parameters, buffers and state dict."""

    def __init__(self, like: _BatchNorm) -> None:
        """Shares the parameters and buffers of `like`, so that optimizers and tied parameters stay valid."""
        super().__init__(
            like.num_features, like.eps, like.momentum, like.affine, like.track_running_stats, device="meta"
        )
        self._parameters.update(like._parameters)
        self._buffers.update(like._buffers)
        # timm's BatchNormAct2d has dropout and activation inside the norm.
        self.drop = getattr(like, "drop", nn.Identity())
        self.act = getattr(like, "act", nn.Identity())
        self.train(like.training)

    def _check_input_dim(self, input: Tensor) -> None:  # abstract in torch; any input rank is valid here
        assert input.dim() >= 2, input.shape

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [B C …] over B and … of all ranks."""
        if world.size() == 1 or not (self.training or self.running_mean is None):
            y = super().forward(x)
        else:
            y = self._forward_global(x)
        out: Tensor = self.act(self.drop(y))
        return out

    def _forward_global(self, x: Tensor) -> Tensor:
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        ones = torch.ones(self.num_features, dtype=dtype, device=x.device)
        weight, bias = (self.weight, self.bias) if self.affine else (ones, torch.zeros_like(ones))
        y, mean, var, count = _GlobalBatchNorm.apply(x, weight, bias, self.eps)
        if self.training and self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                assert self.num_batches_tracked is not None
                self.num_batches_tracked.add_(1)
                momentum = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
                unbiased = var * (count / (count - 1).clamp(min=1.0))
                self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)
        return y  # type: ignore[no-any-return]


def synchronise_norms(module: nn.Module) -> nn.Module:
    """Replace every BatchNorm in `module` by a SyncBatchNorm, in place; returns the module, or its replacement."""
    if isinstance(module, _BatchNorm) and not isinstance(module, SyncBatchNorm):
        return SyncBatchNorm(module)
    for name, child in module.named_children():
        setattr(module, name, synchronise_norms(child))
    return module
