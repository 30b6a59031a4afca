"""Optimizers, their settings and parameter groups.

They belong to the strategies, because a strategy performs the optimizer step. LARS is implemented here
(docs/methods.md, LARS); Adam, AdamW and SGD are torch's.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from rspretrain.settings import Decay, Settings

Groups = list[dict[str, Any]]


class OptimSettings(Settings):
    """Optimizer, learning rate, weight decay and their schedules."""

    name: Literal["adam", "adamw", "lars", "sgd"] = Field(
        default="adamw", description="Optimizer. adam adds the weight decay to the gradient; adamw decouples it."
    )
    lr: float = Field(
        default=5e-4,
        gt=0,
        description="Peak learning rate at a global batch of lr_reference_batch samples; scaled linearly to "
        "other batch sizes.",
    )
    lr_reference_batch: int | None = Field(
        default=256, gt=0, description="Global batch that lr refers to, in samples. null: lr holds for any batch size."
    )
    warmup_epochs: float = Field(default=10.0, ge=0, description="Length of the linear warm-up from 0, in epochs.")
    schedule: Literal["cosine", "constant", "step"] = Field(
        default="cosine", description="Schedule of the learning rate after the warm-up."
    )
    final_lr: float = Field(
        default=0.0, ge=0, description="Learning rate at the end of schedule: cosine; scaled like lr."
    )
    step_epochs: tuple[float, ...] = Field(
        default=(), description="Times of the steps of schedule: step, in epochs, as in [80]."
    )
    step_factor: float = Field(
        default=0.1, gt=0, description="Factor on the learning rate at each step of schedule: step."
    )
    weight_decay: float = Field(
        default=1e-4,
        ge=0,
        description="Weight decay of parameters with two or more dimensions; biases and norms have none.",
    )
    final_weight_decay: float | None = Field(
        default=None, ge=0, description="Weight decay at the end of a cosine over all steps. null: constant."
    )
    betas: tuple[Decay, Decay] = Field(
        default=(0.9, 0.999), description="Decay rates of the first and second moments; adam and adamw."
    )
    eps: float = Field(
        default=1e-8, gt=0, description="Term added to the denominator for numerical stability; adam and adamw."
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Momentum; lars and sgd.")
    trust: float = Field(default=1e-3, gt=0, description="Trust coefficient (eta); lars.")
    clip_norm: float | None = Field(
        default=None, gt=0, description="Maximum norm of the gradient of the global batch. null: no clipping."
    )
    clip: Literal["norm", "per_tensor"] = Field(
        default="norm",
        description="norm: clip the norm over all parameters; per_tensor: clip the norm of each parameter, as"
        " iBOT does.",
    )

    @model_validator(mode="after")
    def _clip_has_a_norm(self) -> Self:
        if self.clip == "per_tensor" and self.clip_norm is None:
            raise ValueError(
                "optim.clip: got per_tensor without optim.clip_norm, expected the maximum norm of a tensor. Set "
                "optim.clip_norm (iBOT: 3.0), or remove optim.clip."
            )
        return self

    @model_validator(mode="after")
    def _schedule_is_consistent(self) -> Self:
        if self.schedule != "cosine" and self.final_lr > 0:
            raise ValueError(
                f"optim.final_lr: got {self.final_lr:g} with optim.schedule={self.schedule}, expected 0: only the "
                "cosine schedule has a final value. Set optim.schedule=cosine, or remove optim.final_lr."
            )
        if self.schedule != "step" and (self.step_epochs or self.step_factor != 0.1):
            raise ValueError(
                f"optim.step_epochs: got {list(self.step_epochs)}, optim.step_factor {self.step_factor:g}, with "
                f"optim.schedule={self.schedule}, which has no steps. Set optim.schedule=step, or remove both."
            )
        if self.schedule == "step" and not self.step_epochs:
            raise ValueError(
                "optim.step_epochs: got none with optim.schedule=step, expected the epochs at which the learning rate "
                "is multiplied by optim.step_factor. Set them (optim.step_epochs=[80]), or optim.schedule=constant."
            )
        if not all(one < next_one for one, next_one in pairwise((self.warmup_epochs, *self.step_epochs))):
            raise ValueError(
                f"optim.step_epochs: got {list(self.step_epochs)} after a warm-up of {self.warmup_epochs:g} epochs, "
                "expected ascending epochs after the warm-up. Sort them, or shorten optim.warmup_epochs."
            )
        return self

    def peak_lr(self, global_batch: int) -> float:
        """The learning rate after the warm-up: `lr` times global_batch / lr_reference_batch (linear scaling)."""
        return self.lr * self._scale(global_batch)

    def end_lr(self, global_batch: int) -> float:
        """The final learning rate of the cosine schedule, scaled like `peak_lr`."""
        return self.final_lr * self._scale(global_batch)

    def describe_schedule(self) -> str:
        """The schedule after the warm-up, for display."""
        steps = ", ".join(f"{epoch:g}" for epoch in self.step_epochs)
        return f"times {self.step_factor:g} at epoch {steps}" if self.schedule == "step" else self.schedule

    def _scale(self, global_batch: int) -> float:
        return 1.0 if self.lr_reference_batch is None else global_batch / self.lr_reference_batch


class Lars(torch.optim.Optimizer):
    """LARS (You et al. 2017) as in BYOL: weight decay, trust ratio, heavy-ball momentum, learning rate.

    Group options: lr, weight_decay, momentum, trust (eta), adapt (False: the trust ratio is 1).
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 1e-3,
        adapt: bool = True,
    ) -> None:
        super().__init__(
            params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust, "adapt": adapt}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None, "Lars evaluates no closure."
        for group in self.param_groups:
            self._move_([weight for weight in group["params"] if weight.grad is not None], group)

    def _move_(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        """Foreach kernels over all weights instead of six kernel launches per weight."""
        if not weights:
            return
        gradients = [weight.grad for weight in weights]
        updates = list(torch._foreach_add(gradients, weights, alpha=group["weight_decay"]))  # type: ignore[arg-type]
        if group["adapt"]:
            torch._foreach_mul_(updates, list(_trust_ratios(weights, updates, group["trust"])))
        for weight in weights:
            if "momentum_buffer" not in self.state[weight]:
                self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        velocities = [self.state[weight]["momentum_buffer"] for weight in weights]
        torch._foreach_mul_(velocities, group["momentum"])
        torch._foreach_add_(velocities, updates)
        torch._foreach_add_(weights, velocities, alpha=-group["lr"])


def _trust_ratios(weights: list[Tensor], updates: list[Tensor], trust: float) -> Tensor:
    """[layers] trust * |w| / |g|, or 1 if either norm is 0. Uses the norms of whole layers, also of shards."""
    norms = torch.stack(torch._foreach_norm([*weights, *updates]))
    if isinstance(norms, DTensor):
        norms = norms.full_tensor()  # one collective for all layers
    weight_norms, update_norms = norms.chunk(2)
    usable = (weight_norms > 0) & (update_norms > 0)
    return torch.where(usable, trust * weight_norms / update_norms.clamp_min(1e-38), 1.0)


def parameter_groups(module: nn.Module, weight_decay: float) -> Groups:
    """The trainable parameters, one group for every (weight decay or none, learning-rate scale).

    Parameters without weight decay have no LARS adaptation either: biases, norms and others with fewer than two
    dimensions, and those in `no_weight_decay()` of a timm model (position embeddings, class tokens). The group option
    `decays` is for a schedule of the weight decay; `lr_scale` (see `lr_scales`) for the strategy, which sets `lr`.
    """
    exempt, scales = set(_names_without_decay(module)), lr_scales(module)
    found: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            key = (parameter.ndim > 1 and name not in exempt, scales.get(parameter, 1.0))
            found.setdefault(key, []).append(parameter)
    return [
        {
            "params": found[decays, scale],
            "weight_decay": weight_decay if decays else 0.0,
            "decays": decays,
            "adapt": decays,
            "lr_scale": scale,
        }
        for decays, scale in sorted(found, reverse=True)
    ]


def lr_scales(module: nn.Module) -> dict[nn.Parameter, float]:
    """Factors on the learning rate; parameters that are not listed have factor 1.

    Any submodule may have a method `lr_scales() -> dict[str, float]` from its parameter names, as in its
    `named_parameters()`, to factors. Factors of nested modules multiply. ValueError if a factor is not positive.
    """
    scales: dict[nn.Parameter, float] = {}
    for prefix, part in module.named_modules():
        own = getattr(part, "lr_scales", None)  # optional method, as no_weight_decay below
        if not callable(own):
            continue
        parameters = dict(part.named_parameters(remove_duplicate=False))
        factors = own()
        assert factors.keys() <= parameters.keys(), f"{prefix}: no parameters {sorted(factors.keys() - parameters)}"
        for name, factor in factors.items():
            if not factor > 0:
                raise ValueError(
                    f"The learning rate of {prefix + '.' if prefix else ''}{name} is scaled by {factor:g}, expected a "
                    "factor above 0. Freeze the parameter (requires_grad_(False)), which also saves memory."
                )
            scales[parameters[name]] = scales.get(parameters[name], 1.0) * factor
    return scales


def _names_without_decay(module: nn.Module) -> Iterator[str]:
    for prefix, part in module.named_modules():
        # timm's optional method of a model.
        names = getattr(part, "no_weight_decay", None)
        if callable(names):
            yield from (f"{prefix}.{name}" if prefix else name for name in names())


def build_optimizer(settings: OptimSettings, module: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of the trainable parameters of `module`. The strategy sets the learning rate in every step."""
    groups = parameter_groups(module, settings.weight_decay)
    if settings.name == "lars":
        return Lars(groups, settings.lr, settings.momentum, trust=settings.trust)
    for group in groups:
        del group["adapt"]
    if settings.name == "sgd":
        return torch.optim.SGD(groups, settings.lr, settings.momentum)
    kind = torch.optim.Adam if settings.name == "adam" else torch.optim.AdamW
    # fused: one pass over memory instead of ten; 22 M parameters take 40 ms instead of 110 on two cores.
    return kind(groups, settings.lr, settings.betas, settings.eps, fused=True)


def clip_each_(gradients: list[Tensor], limit: float) -> None:
    """Clip the norm of every gradient to `limit` separately, as iBOT's clip_gradients; also for DTensor shards.

    All norms must be finite.
    """
    norms = torch.stack(torch._foreach_norm(gradients))
    if isinstance(norms, DTensor):
        norms, gradients = norms.full_tensor(), [gradient.to_local() for gradient in gradients]  # type: ignore[attr-defined]
    torch._foreach_mul_(gradients, (limit / (norms + 1e-6)).clamp(max=1.0).unbind())


# State tensors of the optimizers with the shape of their parameter; checkpoints store them by parameter name.
STATE_TENSORS: dict[str, tuple[str, ...]] = {
    "adam": ("exp_avg", "exp_avg_sq"),
    "adamw": ("exp_avg", "exp_avg_sq"),
    "lars": ("momentum_buffer",),
    "sgd": ("momentum_buffer",),
}

NamedParameters = list[tuple[str, nn.Parameter]]


def update_count(settings: OptimSettings, updates: int, device: torch.device) -> dict[str, Tensor]:
    """The state besides `STATE_TENSORS`: the update count of Adam and AdamW, for their bias correction."""
    return {"step": torch.tensor(float(updates), device=device)} if settings.name in ("adam", "adamw") else {}


def named_state(
    optimizer: torch.optim.Optimizer, settings: OptimSettings, named: NamedParameters
) -> Iterator[tuple[str, Tensor]]:
    """The state as ("exp_avg/<parameter>", tensor), sharded as the parameters; empty before the first update."""
    for key in STATE_TENSORS[settings.name]:
        for name, parameter in named:
            if parameter in optimizer.state:
                yield f"{key}/{name}", optimizer.state[parameter][key]


def load_named_state_(
    optimizer: torch.optim.Optimizer,
    settings: OptimSettings,
    named: NamedParameters,
    tensors: Mapping[str, Tensor],
    updates: int,
    fill_: Callable[[Tensor, Tensor], object] = Tensor.copy_,
) -> None:
    """The inverse of `named_state`. An empty mapping is the state before the first update.

    `fill_(target, whole)` writes this rank's part of a whole tensor into a target that is sharded as its parameter.
    """
    optimizer.state.clear()
    if not tensors:
        return
    for name, parameter in named:
        state = update_count(settings, updates, parameter.device)
        for key in STATE_TENSORS[settings.name]:
            state[key] = torch.zeros_like(parameter, dtype=torch.float32)
            fill_(state[key], tensors[f"{key}/{name}"])
        optimizer.state[parameter] = state
