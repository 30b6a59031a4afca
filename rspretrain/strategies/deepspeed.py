"""DeepSpeed's engine with ZeRO 0 to 3: optimizer state, then gradients, then parameters split over the ranks.

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
from rspretrain.shipped_configs import find_deepspeed
from rspretrain.strategies.base import Entry, Strategy, StrategySettings
from rspretrain.strategies.blocks import blocks_of
from rspretrain.strategies.optim import OptimSettings, build_optimizer
from rspretrain.strategies.zero import LAYOUTS
from rspretrain.world import World

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
# Of stage 3: they keep copies or roundings of a parameter beside the piece by which teachers move and checkpoints go.
UNPROVEN = (
    "offload_param",
    "offload_optimizer",
    "zero_hpz_partition_size",
    "zero_quantized_weights",
    "zero_quantized_nontrainable_weights",
    "zero_quantized_gradients",
)


@final
class DeepSpeed(Strategy):
    """deepspeed.initialize over our objective and our optimizer."""

    @classmethod
    def check_settings(cls, settings: StrategySettings, world: World, optim: OptimSettings) -> None:
        """ValueError for a JSON file, an optimizer or pieces of a batch that DeepSpeed cannot have."""
        check(settings.deepspeed, optim, settings.compile)
        if settings.accumulate > 1:
            raise ValueError(
                f"strategy.accumulate: got {settings.accumulate} under deepspeed, which averages gradients at every "
                "backward by a count of its own. Use strategy.name=fsdp or ddp, or strategy.accumulate=1."
            )

    def _setup(self) -> torch.optim.Optimizer:
        config = check(self.settings.deepspeed, self.optim)
        self.stage: int = config["zero_optimization"]["stage"]
        entry, optimizer = Entry(self.objective), build_optimizer(self.optim, self.objective)
        if (
            self.stage == 3
        ):  # as under FSDP2: what is in no block may be used anywhere in a step, so it stays for all of it
            in_blocks = {parameter for block in blocks_of(entry) for parameter in block.parameters()}
            entry.adopt(parameter for parameter in list(entry.parameters()) if parameter not in in_blocks)
        self._engine = _initialize(entry, optimizer, config | self._own_config(), self.world.local_rank)
        zero = optimizer if self.stage == 0 else self._engine.optimizer
        self._layout = LAYOUTS[self.stage](zero, self.optim, self.trainable())
        self.is_sharded = self._layout.is_sharded
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

    def _forward(
        self, batch: Batch, upstream: Tensor | None = None, embed: bool = False
    ) -> tuple[Tensor, dict[str, Tensor]]:
        # By name: DeepSpeed's hooks look for tensors in what has none.
        loss, metrics = self._engine(batch=batch, upstream=upstream, embed=embed)
        return loss, metrics

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
        return self._layout.local(parameter)

    def optimizer_state(self) -> Iterator[tuple[str, Tensor]]:
        """See Strategy."""
        if self.updates > 0:
            yield from self._layout.state()

    def _load_optimizer_(self, tensors: Mapping[str, Tensor]) -> None:
        self._layout.load_state_(tensors, self.updates)

    def _whole(self, tensor: Tensor) -> Tensor:
        return self._layout.whole(tensor)

    def _fill_(self, target: Tensor, whole: Tensor) -> None:
        self._layout.fill_(target, whole)


def check(path: Path, optim: OptimSettings, compiled: bool = False) -> dict[str, Any]:
    """The DeepSpeed JSON file. ValueError where it, or what is asked of it, cannot be used."""
    config = read_config(path)
    stage = config["zero_optimization"]["stage"]
    _check_clipping(stage, optim)
    if stage > 0 and optim.name == "lars":
        raise ValueError(
            f"optim.name: got lars under ZeRO stage {stage}, which cuts all weights into flat pieces where the norm of "
            "one layer is not to be had; LARS scales every layer by its norm. Use "
            "strategy.deepspeed=zero0, strategy.name=fsdp or ddp, or optim.name=adamw."
        )
    if stage == 3 and compiled:
        raise ValueError(
            "strategy.compile: got true under ZeRO stage 3, whose hooks gather parameters inside of blocks, layer by "
            "layer, where torch.compile would have to stop. Use strategy.name=fsdp, which gathers around blocks, or "
            "strategy.compile=false."
        )
    return config


def _check_clipping(stage: int, optim: OptimSettings) -> None:
    if stage > 0 and optim.clip == "per_tensor":
        raise ValueError(
            f"optim.clip: got per_tensor under ZeRO stage {stage}, which cuts all gradients into flat pieces where the "
            "norm of one tensor is not to be had. Use strategy.deepspeed=zero0, "
            "strategy.name=ddp, or optim.clip=norm."
        )


def read_config(path: Path) -> dict[str, Any]:
    """The content of a DeepSpeed JSON file: a path, or the name of a shipped one (`zero1`).

    ValueError for a missing file, a ZeRO stage that does not exist, and keys that this package sets itself.
    """
    config: dict[str, Any] = json.loads(find_deepspeed(path).read_text())
    stage = config.setdefault("zero_optimization", {}).setdefault("stage", 0)
    if stage not in LAYOUTS:
        raise ValueError(
            f"strategy.deepspeed: {path} has ZeRO stage {stage}, expected one of {tuple(LAYOUTS)}. Use zero1."
        )
    unproven = [key for key in UNPROVEN if stage == 3 and key in config["zero_optimization"]]
    if unproven:
        raise ValueError(
            f"strategy.deepspeed: {path} sets {', '.join(unproven)} with ZeRO stage 3, under which teachers and "
            "checkpoints are not proven to be right. Remove them from the file."
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
