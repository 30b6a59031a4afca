"""DeepSpeed's engine with ZeRO stages 0 to 3: shards optimizer state (1), gradients (2) and parameters (3).

The JSON file configures DeepSpeed's communication. Batch size, precision, optimizer and clipping come from the run's
configuration; setting them in the JSON file is an error, so that no setting is silently ignored. bf16 uses DeepSpeed's
`torch_autocast`: the native bf16 mode would cast the parameters, including those of frozen teachers.
"""

import contextlib
import io
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
from rspretrain.strategies.base import ObjectiveWrapper, Strategy, StrategySettings
from rspretrain.strategies.blocks import blocks_of
from rspretrain.strategies.optim import OptimSettings, build_optimizer
from rspretrain.strategies.zero import LAYOUTS
from rspretrain.world import World

# Keys that the JSON file must not set, and the key of the run's configuration that sets them.
RESERVED_KEYS = {
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
# Not supported in stage 3: they keep further copies of a parameter, which teachers and checkpoints do not update.
UNSUPPORTED_STAGE_3 = (
    "offload_param",
    "offload_optimizer",
    "zero_hpz_partition_size",
    "zero_quantized_weights",
    "zero_quantized_nontrainable_weights",
    "zero_quantized_gradients",
)


@final
class DeepSpeed(Strategy):
    """The engine of `deepspeed.initialize`, with this package's optimizer."""

    @classmethod
    def check_settings(cls, settings: StrategySettings, world: World, optim: OptimSettings) -> None:
        """ValueError for an invalid JSON file, an unsupported optimizer or gradient accumulation."""
        checked_config(settings.deepspeed, optim, settings.compile)
        if settings.accumulate > 1:
            raise ValueError(
                f"strategy.accumulate: got {settings.accumulate} with strategy.name=deepspeed, expected 1: DeepSpeed "
                "scales the gradient of every backward itself. Use strategy.name=fsdp or ddp, or strategy.accumulate=1."
            )

    def _setup(self) -> torch.optim.Optimizer:
        config = checked_config(self.settings.deepspeed, self.optim)
        self.stage: int = config["zero_optimization"]["stage"]
        wrapper, optimizer = ObjectiveWrapper(self.objective), build_optimizer(self.optim, self.objective)
        if self.stage == 3:
            # As with FSDP2: parameters outside of blocks may be used anywhere in a step, so they stay gathered.
            in_blocks = {parameter for block in blocks_of(wrapper) for parameter in block.parameters()}
            wrapper.register_direct(one for one in list(wrapper.parameters()) if one not in in_blocks)
        self._engine = _initialize(wrapper, optimizer, config | self._own_config(), self.world.local_rank)
        zero = optimizer if self.stage == 0 else self._engine.optimizer
        self._layout = LAYOUTS[self.stage](zero, self.optim, self.trainable())
        self.is_sharded = self._layout.is_sharded
        return optimizer

    def _own_config(self) -> dict[str, Any]:
        # DeepSpeed requires a number here but does not use it: the objective's loss is already a mean over samples.
        own: dict[str, Any] = {"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1}
        if self.settings.precision == "bf16":
            # No "safe modules": DeepSpeed would reduce their gradients in bf16, unlike DDP.
            own["torch_autocast"] = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
        # 0 disables clipping; the default is 1. In stage 0, `_clip_and_step` clips after checking for NaN.
        own["gradient_clipping"] = self.optim.clip_norm or 0.0 if self.stage > 0 else 0.0
        return own

    def _forward(
        self, batch: Batch, upstream: Tensor | None = None, embed: bool = False
    ) -> tuple[Tensor, dict[str, Tensor]]:
        # Keyword arguments: DeepSpeed's hooks search positional arguments for tensors.
        loss, metrics = self._engine(batch=batch, upstream=upstream, embed=embed)
        return loss, metrics

    def _backward(self, loss: Tensor) -> None:
        self._engine.backward(loss)

    def _update(self) -> float:
        if self.stage == 0:  # the engine would step with NaN gradients; only its ZeRO optimizers check for them
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


def checked_config(path: Path, optim: OptimSettings, compiled: bool = False) -> dict[str, Any]:
    """The content of a DeepSpeed JSON file. ValueError if it is invalid or does not support the settings."""
    config = read_config(path)
    stage = config["zero_optimization"]["stage"]
    _check_clipping(stage, optim)
    if stage > 0 and optim.name == "lars":
        raise ValueError(
            f"optim.name: got lars with ZeRO stage {stage}, expected adam, adamw or sgd: LARS needs the norm of every "
            "layer, and this stage flattens and splits the weights. Use strategy.deepspeed=zero0, strategy.name=fsdp "
            "or ddp, or optim.name=adamw."
        )
    if stage == 3 and compiled:
        raise ValueError(
            "strategy.compile: got true with ZeRO stage 3, expected false: its hooks gather parameters within blocks, "
            "which breaks the compiled graph. Use strategy.name=fsdp, which gathers whole blocks, or "
            "strategy.compile=false."
        )
    return config


def _check_clipping(stage: int, optim: OptimSettings) -> None:
    if stage > 0 and optim.clip == "per_tensor":
        raise ValueError(
            f"optim.clip: got per_tensor with ZeRO stage {stage}, expected norm: this stage flattens and splits the "
            "gradients, so the norm of one tensor is not available. Use strategy.deepspeed=zero0, strategy.name=fsdp "
            "or ddp, or optim.clip=norm."
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
    unsupported = [key for key in UNSUPPORTED_STAGE_3 if stage == 3 and key in config["zero_optimization"]]
    if unsupported:
        raise ValueError(
            f"strategy.deepspeed: {path} sets {', '.join(unsupported)} with ZeRO stage 3, expected none of these: "
            "teachers and checkpoints do not support them. Remove them from the file."
        )
    reserved = [f"{key} (use {RESERVED_KEYS[key]})" for key in RESERVED_KEYS if key in config]
    if reserved:
        raise ValueError(
            f"strategy.deepspeed: {path} sets {', '.join(reserved)}, expected none of these: they are set by the run's "
            "configuration. Remove them from the file."
        )
    return config


def _initialize(module: nn.Module, optimizer: torch.optim.Optimizer, config: dict[str, Any], local_rank: int) -> Any:
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    import deepspeed  # slow: takes seconds, and compiles its CPU collectives at the first import

    if not dist.is_initialized():  # one process without a launcher: DeepSpeed needs a process group
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    os.environ.setdefault("LOCAL_RANK", str(local_rank))  # DeepSpeed reads the variable
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        deepspeed.init_distributed()
    other = [line for line in printed.getvalue().splitlines() if not line.endswith("_op built successfully")]
    print("".join(f"{line}\n" for line in other), end="", flush=True)
    config = {"steps_per_print": None, "zero_allow_untested_optimizer": True} | config
    return deepspeed.initialize(model=module, optimizer=optimizer, config=config)[0]
