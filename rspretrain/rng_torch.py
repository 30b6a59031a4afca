"""Random numbers for a whole batch on its device, as functions of each sample's seed.

See docs/methods.md, Keyed randomness. Integer arithmetic up to the last step gives the same bits on CPUs and GPUs. The
mixing function is that of `rng.py`.
"""

import math
import zlib
from collections.abc import Sequence

import torch

from rspretrain.rng import GOLDEN, MASK, MIX1, MIX2


def purpose_id(purpose: str) -> int:
    """A stable integer for the purpose of a random number, e.g. "view0/crop"."""
    return zlib.crc32(purpose.encode())


def _signed(word: int) -> int:
    word &= MASK
    return word - (1 << 64) if word >> 63 else word


def _mix_tensor(z: torch.Tensor) -> torch.Tensor:
    """splitmix64's finaliser on int64 tensors. Multiplication wraps; masks make right shifts logical."""
    z = (z ^ ((z >> 30) & ((1 << 34) - 1))) * _signed(MIX1)
    z = (z ^ ((z >> 27) & ((1 << 37) - 1))) * _signed(MIX2)
    return z ^ ((z >> 31) & ((1 << 33) - 1))


def uniform(seeds: torch.Tensor, purpose: str | int, shape: Sequence[int] = ()) -> torch.Tensor:
    """[B *shape] float32 uniform in [0, 1), a function of each sample's seed [B] int64 and of the purpose.

    `purpose`: a name, or its `purpose_id`.
    """
    count = math.prod(shape)
    word = purpose if isinstance(purpose, int) else purpose_id(purpose)
    base = _mix_tensor(seeds + _signed(GOLDEN + word))  # [B]
    counters = torch.arange(count, device=seeds.device, dtype=torch.int64) + _signed(GOLDEN)
    bits = _mix_tensor(base[:, None] + counters[None, :])  # [B count]
    # float32 represents 24 bits exactly, so the result never rounds up to 1.
    values = ((bits >> 40) & ((1 << 24) - 1)).to(torch.float32) * (1.0 / (1 << 24))
    return values.reshape(len(seeds), *shape)


def normal(seeds: torch.Tensor, purpose: str, shape: Sequence[int] = ()) -> torch.Tensor:
    """[B *shape] float32 standard normal (Box-Muller); equal on all devices up to the last bits of log and cos."""
    u = uniform(seeds, purpose, (2, *shape))
    return torch.sqrt(-2.0 * torch.log1p(-u[:, 0])) * torch.cos(2.0 * torch.pi * u[:, 1])
