"""The ranks of a run and its collectives. With one process, every collective is an identity.

All collectives outside of the strategies are in this module. Objectives and norms use `gather_with_grad`,
`gather_stack`, `mean_over_ranks` and `sum_over_ranks`, evaluation `gather_rows`, label-budget loops `broadcast_text`.
"""

import os
import re
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class World:
    """Rank, world size and device of this process. `device` is its own accelerator, or the CPU."""

    rank: int
    size: int
    local_rank: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this rank writes files and messages."""
        return self.rank == 0


def start() -> World:
    """Initialise the process group from the launcher's variables (deepspeed, torchrun, srun, or none)."""
    _set_variables_from_slurm()
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    cuda = torch.cuda.is_available()
    # If SLURM binds one GPU to each task, it has index 0 for every local rank.
    device = torch.device("cuda", local_rank % torch.cuda.device_count()) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    # Also with one rank: DeepSpeed needs a process group.
    if "RANK" in os.environ and not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", rank=rank, world_size=size)
    return World(rank, size, local_rank, device)


def _set_variables_from_slurm() -> None:
    """With srun and without torchrun: set torchrun's variables from those of SLURM.

    Uses the variables of the job step, because plain `python` in a batch script with several tasks is one process.
    """
    if "RANK" in os.environ or int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) == 1:
        return
    nodes = os.environ["SLURM_STEP_NODELIST"]  # e.g. "gpu[003-006,9],cpu1": the master is gpu003
    first = re.match(r"([^,\[]+)(?:\[([0-9]+))?", nodes)
    assert first is not None, f"SLURM_STEP_NODELIST is {nodes!r}"
    port = 20000 + int(os.environ["SLURM_JOB_ID"]) % 20000  # equal in all tasks, different for jobs on one node
    variables = {
        "RANK": os.environ["SLURM_PROCID"],
        "WORLD_SIZE": os.environ["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": os.environ["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": os.environ.get("SLURM_STEP_TASKS_PER_NODE", "1").split("(")[0].split(",")[0],
        "MASTER_ADDR": "".join(part for part in first.groups() if part),
        "MASTER_PORT": str(port),
    }
    os.environ.update({name: value for name, value in variables.items() if name not in os.environ})


def local_size() -> int:
    """The number of ranks on this machine, from the launcher (torchrun, srun or deepspeed)."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or 1)


def stop() -> None:
    """Destroy the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """The rank of this process; 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """The number of ranks; 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


class _GatherWithGrad(torch.autograd.Function):
    """Concatenates in rank order; backward sums the gradients of all ranks and returns this rank's slice.

    docs/methods.md, NT-Xent.
    """

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        parts = [torch.empty_like(local) for _ in range(size())]
        dist.all_gather(parts, local.contiguous())
        ctx.rows = len(local)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total[rank() * ctx.rows : (rank() + 1) * ctx.rows]


def gather_with_grad(local: Tensor) -> Tensor:
    """[B …] of every rank as [R*B …] in rank order, differentiable: the mean of rank losses is the full-batch loss."""
    if size() == 1:
        return local
    gathered: Tensor = _GatherWithGrad.apply(local)
    return gathered


def gather_stack(local: Tensor) -> Tensor:
    """[…] of every rank as [R …], without gradient."""
    if size() == 1:
        return local.detach()[None]
    parts = [torch.empty_like(local) for _ in range(size())]
    dist.all_gather(parts, local.detach().contiguous())
    return torch.stack(parts)


def gather_rows(local: Tensor) -> Tensor:
    """[n …] of every rank as [N …] in rank order, without gradient; n may differ between ranks, and be 0."""
    if size() == 1:
        return local.detach()
    counts = gather_stack(torch.tensor(len(local), device=local.device)).tolist()
    padded = local.new_zeros(max(counts), *local.shape[1:])  # collectives need equal shapes
    padded[: len(local)] = local.detach()
    return torch.cat([rows[:count] for rows, count in zip(gather_stack(padded), counts, strict=True)])


def broadcast_text(text: str) -> str:
    """The first rank's text, on all ranks."""
    encoded = bytearray(text.encode()) if rank() == 0 else bytearray()
    data = torch.frombuffer(encoded, dtype=torch.uint8) if encoded else torch.empty(0, dtype=torch.uint8)
    return bytes(gather_rows(data).tolist()).decode()


def mean_over_ranks(local: Tensor) -> Tensor:
    """The mean of a tensor over all ranks, without gradient."""
    if size() == 1:
        return local.detach()
    total = local.detach().clone()
    dist.all_reduce(total)
    return total / size()


def sum_over_ranks(local: Tensor) -> Tensor:
    """The sum of a tensor over all ranks, without gradient."""
    if size() == 1:
        return local.detach()
    total = local.detach().clone()
    dist.all_reduce(total)
    return total


def max_over_ranks(local: Tensor) -> Tensor:
    """The elementwise maximum of a tensor over all ranks, without gradient."""
    if size() == 1:
        return local.detach()
    largest = local.detach().clone()
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return largest


def barrier() -> None:
    """Wait for every rank."""
    if size() > 1:
        dist.barrier()
