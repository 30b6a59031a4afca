"""DeepSpeed's engine with ZeRO 0, 1 or 2: gradients and optimizer state split over the ranks, parameters whole.

The JSON file says how DeepSpeed communicates; what this package decides (batch, precision, optimizer, clipping) is not
read from it but set, and an error there, so that no setting is silently ignored. bf16 is DeepSpeed's `torch_autocast`:
its native bf16 mode would cast the parameters, and those of frozen teachers (design.md D6).
"""

import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, final

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rspretrain.batch import Batch
from rspretrain.strategies.base import Outcome, Strategy
from rspretrain.strategies.optim import (
    STATE_TENSORS,
    OptimSettings,
    build_optimizer,
    load_named_state_,
    named_state,
    update_count,
)

REPOSITORY = Path(__file__).resolve().parents[2]
STAGES = (0, 1, 2)
# What the run's own configuration decides, with the key that decides it.
OURS = {
    "train_batch_size": "train.global_batch",
    "train_micro_batch_size_per_gpu": "train.global_batch",
    "gradient_accumulation_steps": "train.global_batch",
    "gradient_clipping": "optim.clip_norm",
    "optimizer": "optim",
    "scheduler": "optim",
    "bf16": "strategy.precision",
    "fp16": "strategy.precision",
    "torch_autocast": "strategy.precision",
}


@final
class DeepSpeed(Strategy):
    """deepspeed.initialize over our objective and our optimizer."""

    name = "deepspeed"
    is_sharded = False

    def _setup(self) -> torch.optim.Optimizer:
        config = check(self.settings.deepspeed, self.optim)
        self.stage: int = config["zero_optimization"]["stage"]
        optimizer = build_optimizer(self.optim, self.objective)
        self._engine = _initialize(self.objective, optimizer, config | self._own_config(), self.world.local_rank)
        return optimizer

    def _own_config(self) -> dict[str, Any]:
        # Every rank computes its own mean over any number of samples; DeepSpeed only wants a number here.
        own: dict[str, Any] = {"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1}
        if self.settings.precision == "bf16":
            # No "safe modules": DeepSpeed would send their gradients in bf16, and DDP and DeepSpeed would part ways.
            own["torch_autocast"] = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
        # 0 is none; left out, DeepSpeed clips at 1. Under stage 0 we clip ourselves, after looking for NaN.
        own["gradient_clipping"] = self.optim.clip_norm or 0.0 if self.stage > 0 else 0.0
        return own

    def _forward(self, batch: Batch) -> Outcome:
        losses: Outcome = self._engine(batch)
        return losses

    def _backward(self, loss: Tensor) -> None:
        self._engine.backward(loss)

    def _update(self) -> float:
        if self.stage == 0:  # the engine would step on NaN: only its ZeRO optimizers look for it
            norm = self._clip_and_step()
            self._engine.zero_grad()
            return norm
        self._engine.step()
        zero = self._engine.optimizer
        return float("nan") if zero.overflow else float(self._engine.get_global_grad_norm())

    def _local(self, parameter: nn.Parameter) -> Tensor:
        return parameter.detach()  # whole up to stage 2, and gathered from the masters by the time of the update

    def optimizer_state(self) -> Iterator[tuple[str, Tensor]]:
        """See Strategy."""
        if self.stage == 0:
            yield from named_state(self.optimizer, self.optim, self.trainable())
        elif self.updates > 0:
            yield from self._gather_state()

    def _gather_state(self) -> Iterator[tuple[str, Tensor]]:
        from deepspeed.utils import safe_get_full_optimizer_state

        self._link_states()
        for key in STATE_TENSORS[self.optim.name]:
            for name, parameter in self.trainable():
                yield f"{key}/{name}", safe_get_full_optimizer_state(parameter, key)

    def load(self, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor], updates: int) -> None:
        """See Strategy."""
        self.objective.load_state_dict(weights)  # in place: the flat buffers that these parameters are views of
        self.updates = updates
        if self.stage == 0:
            load_named_state_(self.optimizer, self.optim, self.trainable(), optimizer, updates)
        else:
            self._load_masters_()
            self._load_partitions_(optimizer)

    def _link_states(self) -> None:
        # DeepSpeed 0.19 links all parameters to their states after the step of the first group only, when those of the
        # other groups do not exist yet ("exp_avg not found in optimizer state fragment"): link again.
        zero = self._engine.optimizer
        zero._hp_optimizer_states_linked = False
        zero._lazy_init_hp_params_optimizer_state()

    def _load_masters_(self) -> None:
        """The float32 piece that this rank's optimizer moves is a copy of the parameters, so it follows them."""
        from deepspeed.utils import safe_set_full_fp32_param

        for _, parameter in self.trainable():
            safe_set_full_fp32_param(parameter, parameter.detach())

    def _load_partitions_(self, tensors: Mapping[str, Tensor]) -> None:
        """Cut whole state tensors into this rank's flat pieces, one for every parameter group."""
        zero = self._engine.optimizer
        zero.optimizer.state.clear()
        if not tensors:
            return
        for flat in zero.single_partition_of_fp32_groups:
            state = update_count(self.optim, self.updates, flat.device)
            state |= {key: torch.zeros_like(flat) for key in STATE_TENSORS[self.optim.name]}
            zero.optimizer.state[flat] = state
        for name, parameter in self.trainable():
            mapping = parameter._hp_mapping  # type: ignore[attr-defined]
            if mapping is not None:  # None: another rank's piece
                flat = zero.single_partition_of_fp32_groups[mapping.param_group_index]
                here, there = mapping.hp_fragment_address, mapping.lp_fragment_address
                for key in STATE_TENSORS[self.optim.name]:
                    whole = tensors[f"{key}/{name}"].flatten()
                    piece = whole.narrow(0, there.start, there.numel)
                    zero.optimizer.state[flat][key].narrow(0, here.start, here.numel).copy_(piece)


def check(path: Path, optim: OptimSettings) -> dict[str, Any]:
    """The DeepSpeed JSON file. ValueError where it, or the optimizer under it, cannot be used."""
    config = read_config(path)
    stage = config["zero_optimization"]["stage"]
    _check_clipping(stage, optim)
    if stage > 0 and optim.name == "lars":
        raise ValueError(
            f"optim.name: got lars under ZeRO stage {stage}, which cuts all weights into flat pieces where the norm of "
            "one layer is not to be had; LARS scales every layer by its norm. Use "
            "strategy.deepspeed=configs/deepspeed/zero0.json, strategy.name=ddp, or optim.name=adamw."
        )
    return config


def _check_clipping(stage: int, optim: OptimSettings) -> None:
    if stage > 0 and optim.clip == "per_tensor":
        raise ValueError(
            f"optim.clip: got per_tensor under ZeRO stage {stage}, which cuts all gradients into flat pieces where the "
            "norm of one tensor is not to be had. Use strategy.deepspeed=configs/deepspeed/zero0.json, "
            "strategy.name=ddp, or optim.clip=norm."
        )


def read_config(path: Path) -> dict[str, Any]:
    """A DeepSpeed JSON file, looked for from the working folder, then from the repository.

    ValueError for a missing file, a ZeRO stage that this package does not have yet, and keys that it sets itself.
    """
    found = next((place for place in (path, REPOSITORY / path) if place.is_file()), None)
    if found is None:
        raise ValueError(
            f"strategy.deepspeed: got {str(path)!r}, expected a DeepSpeed JSON file here or in the repository. "
            "The repository has configs/deepspeed/zero0.json, zero1.json and zero2.json."
        )
    config: dict[str, Any] = json.loads(found.read_text())
    stage = config.setdefault("zero_optimization", {}).setdefault("stage", 0)
    if stage not in STAGES:
        raise ValueError(
            f"strategy.deepspeed: {path} has ZeRO stage {stage}, expected one of {STAGES}: sharded parameters are not "
            "supported yet. Use configs/deepspeed/zero2.json."
        )
    clash = [f"{key} (decided by {OURS[key]})" for key in OURS if key in config]
    if clash:
        raise ValueError(
            f"strategy.deepspeed: {path} sets {', '.join(clash)}, which the run's configuration decides. "
            "Remove them from the file."
        )
    return config


def _initialize(module: nn.Module, optimizer: torch.optim.Optimizer, config: dict[str, Any], local_rank: int) -> Any:
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    import deepspeed  # slow: seconds, and a compiler where its CPU collectives are not built yet

    if not dist.is_initialized():  # alone without a launcher: DeepSpeed wants a group even of one
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    os.environ.setdefault("LOCAL_RANK", str(local_rank))  # DeepSpeed asks for the variable
    deepspeed.init_distributed()
    config = {"steps_per_print": None, "zero_allow_untested_optimizer": True} | config
    return deepspeed.initialize(model=module, optimizer=optimizer, config=config)[0]
