"""Optimizers, their settings and the parameter groups: how one gradient moves the weights.

Beside the strategies because a strategy owns the optimizer's step. LARS is written here (methods.md B.4); Adam, AdamW
and SGD are torch's.
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
    """Which optimizer, how fast, and when."""

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
                "optim.clip: got per_tensor without optim.clip_norm, expected the norm that each tensor is clipped to. "
                "Set optim.clip_norm (iBOT has 3.0), or leave optim.clip out."
            )
        return self

    @model_validator(mode="after")
    def _schedule_has_what_it_needs(self) -> Self:
        if self.schedule != "cosine" and self.final_lr > 0:
            raise ValueError(
                f"optim.final_lr: got {self.final_lr:g} with optim.schedule={self.schedule}, which goes to no end of "
                "its own; only cosine does. Set optim.schedule=cosine, or leave optim.final_lr out."
            )
        if self.schedule != "step" and (self.step_epochs or self.step_factor != 0.1):
            raise ValueError(
                f"optim.step_epochs: got {list(self.step_epochs)}, optim.step_factor {self.step_factor:g}, with "
                f"optim.schedule={self.schedule}, which has no steps. Set optim.schedule=step, or leave both out."
            )
        if self.schedule == "step" and not self.step_epochs:
            raise ValueError(
                "optim.step_epochs: got none with optim.schedule=step, expected the epochs where the rate is "
                "multiplied by optim.step_factor. Set them (optim.step_epochs=[80]), or optim.schedule=constant."
            )
        if not all(one < next_one for one, next_one in pairwise((self.warmup_epochs, *self.step_epochs))):
            raise ValueError(
                f"optim.step_epochs: got {list(self.step_epochs)} after a warm-up of {self.warmup_epochs:g} epochs, "
                "expected epochs that ascend, all after the warm-up. Sort them, or shorten optim.warmup_epochs."
            )
        return self

    def peak_lr(self, global_batch: int) -> float:
        """The learning rate at the end of warm-up: `lr` times global_batch / lr_reference_batch (linear scaling)."""
        return self.lr * self._scale(global_batch)

    def end_lr(self, global_batch: int) -> float:
        """The learning rate that the cosine goes to, scaled as `peak_lr` is."""
        return self.final_lr * self._scale(global_batch)

    def course(self) -> str:
        """How the learning rate goes on after the warm-up, in words."""
        steps = ", ".join(f"{epoch:g}" for epoch in self.step_epochs)
        return f"times {self.step_factor:g} at epoch {steps}" if self.schedule == "step" else self.schedule

    def _scale(self, global_batch: int) -> float:
        return 1.0 if self.lr_reference_batch is None else global_batch / self.lr_reference_batch


class Lars(torch.optim.Optimizer):
    """You et al. 2017 as BYOL uses it: weight decay, then the trust ratio, then heavy-ball momentum, then the rate.

    Group options: lr, weight_decay, momentum, trust (eta), adapt (False leaves the trust ratio at 1).
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
        """Move every parameter that has a gradient."""
        assert closure is None, "Lars evaluates no closure."
        for group in self.param_groups:
            self._move_([weight for weight in group["params"] if weight.grad is not None], group)

    def _move_(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        """A few kernels for all weights together, where a GPU would wait for six starts of each weight."""
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
    """[layers] trust * |w| / |g|, and 1 where either norm is 0; of whole layers, also where they are shards."""
    norms = torch.stack(torch._foreach_norm([*weights, *updates]))
    if isinstance(norms, DTensor):
        norms = norms.full_tensor()  # one collective for all layers
    weight_norms, update_norms = norms.chunk(2)
    usable = (weight_norms > 0) & (update_norms > 0)
    return torch.where(usable, trust * weight_norms / update_norms.clamp_min(1e-38), 1.0)


def parameter_groups(module: nn.Module, weight_decay: float) -> Groups:
    """The trainable parameters, one group for every (decay or not, scale of the rate); decay goes with LARS adaptation.

    Without: biases, norms and everything of one dimension or none, and what a timm model names in `no_weight_decay()`
    (position embeddings and class tokens, which have more dimensions but are no weights). `decays` is for a schedule
    of the decay, `lr_scale` (see `lr_scales`) for the strategy, which sets `lr` for every step.
    """
    exempt, scales = set(_named_exempt(module)), lr_scales(module)
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
    """Factors on the learning rate; a parameter that is absent has 1.

    Any part of `module` may have a method `lr_scales() -> dict[str, float]`: names of its parameters, as its own
    `named_parameters()` has them, and their factors. Where parts lie in one another their factors multiply. ValueError
    for a factor that is not positive.
    """
    scales: dict[nn.Parameter, float] = {}
    for prefix, part in module.named_modules():
        own = getattr(part, "lr_scales", None)  # our protocol, as timm's below: most modules have none
        if not callable(own):
            continue
        parameters = dict(part.named_parameters(remove_duplicate=False))
        factors = own()
        assert factors.keys() <= parameters.keys(), f"{prefix}: no parameters {sorted(factors.keys() - parameters)}"
        for name, factor in factors.items():
            if not factor > 0:
                raise ValueError(
                    f"The learning rate of {prefix + '.' if prefix else ''}{name} is scaled by {factor:g}, expected a "
                    "factor above 0. Freeze what shall not move (requires_grad_(False)): it costs no memory then."
                )
            scales[parameters[name]] = scales.get(parameters[name], 1.0) * factor
    return scales


def _named_exempt(module: nn.Module) -> Iterator[str]:
    for prefix, part in module.named_modules():
        # timm's protocol: a method of the model, absent from the models that have nothing to exempt.
        names = getattr(part, "no_weight_decay", None)
        if callable(names):
            yield from (f"{prefix}.{name}" if prefix else name for name in names())


def build_optimizer(settings: OptimSettings, module: nn.Module) -> torch.optim.Optimizer:
    """The optimizer over the trainable parameters of `module`; the learning rate is set anew for every step."""
    groups = parameter_groups(module, settings.weight_decay)
    if settings.name == "lars":
        return Lars(groups, settings.lr, settings.momentum, trust=settings.trust)
    for group in groups:
        del group["adapt"]
    if settings.name == "sgd":
        return torch.optim.SGD(groups, settings.lr, settings.momentum)
    kind = torch.optim.Adam if settings.name == "adam" else torch.optim.AdamW
    # fused: one pass over the memory instead of ten; 22 M parameters in 40 ms instead of 110 on two cores.
    return kind(groups, settings.lr, settings.betas, settings.eps, fused=True)


def clip_each_(gradients: list[Tensor], limit: float) -> None:
    """Scale every gradient whose own norm is above `limit` to it (iBOT's clip_gradients): whole, or shards of DTensors.

    A norm that is not finite must have been refused before.
    """
    norms = torch.stack(torch._foreach_norm(gradients))
    if isinstance(norms, DTensor):
        norms, gradients = norms.full_tensor(), [gradient.to_local() for gradient in gradients]  # type: ignore[attr-defined]
    torch._foreach_mul_(gradients, (limit / (norms + 1e-6)).clamp(max=1.0).unbind())


# The tensors of an optimizer's state that have the shape of their parameter, and so go into a checkpoint by its name.
STATE_TENSORS: dict[str, tuple[str, ...]] = {
    "adam": ("exp_avg", "exp_avg_sq"),
    "adamw": ("exp_avg", "exp_avg_sq"),
    "lars": ("momentum_buffer",),
    "sgd": ("momentum_buffer",),
}

Named = list[tuple[str, nn.Parameter]]


def update_count(settings: OptimSettings, updates: int, device: torch.device) -> dict[str, Tensor]:
    """What an optimizer's state holds beside `STATE_TENSORS`: Adam and AdamW count their updates, to correct a bias."""
    return {"step": torch.tensor(float(updates), device=device)} if settings.name in ("adam", "adamw") else {}


def named_state(
    optimizer: torch.optim.Optimizer, settings: OptimSettings, named: Named
) -> Iterator[tuple[str, Tensor]]:
    """The state as ("exp_avg/<parameter>", tensor), laid out as parameters are; nothing before the first update."""
    for key in STATE_TENSORS[settings.name]:
        for name, parameter in named:
            if parameter in optimizer.state:
                yield f"{key}/{name}", optimizer.state[parameter][key]


def load_named_state_(
    optimizer: torch.optim.Optimizer,
    settings: OptimSettings,
    named: Named,
    tensors: Mapping[str, Tensor],
    updates: int,
    fill_: Callable[[Tensor, Tensor], object] = Tensor.copy_,
) -> None:
    """The reverse of `named_state`. No tensors at all is the state of an optimizer that never moved.

    `fill_(target, whole)` writes a rank's part of a whole tensor into one that is laid out as its parameter.
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
