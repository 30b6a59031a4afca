"""Schedules as pure functions of the step: no object, no state, so nothing of them needs saving (methods.md H.2)."""

import math
from collections.abc import Sequence


def cosine(k: int, K: int, start: float, end: float, inclusive: bool = False) -> float:
    """Half a cosine from `start` at k = 0 towards `end`.

    K steps in all. `end` is reached at k = K, one past the last step, as DINO, BYOL and solo-learn have it; with
    `inclusive` at k = K - 1, as lightly has it. Past the end the value stays at `end`.
    """
    last = K - 1 if inclusive else K
    if k >= last:
        return end
    return end + (start - end) * (1.0 + math.cos(math.pi * k / last)) / 2.0


def warmup_cosine(k: int, K: int, warmup: int, base: float, end: float) -> float:
    """Linear warm-up `base * k / warmup` for `warmup` steps, then a cosine to `end` over the K - warmup left (BYOL)."""
    if k < warmup:
        return base * k / warmup
    return cosine(k - warmup, K - warmup, base, end)


def warmup_steps(k: int, warmup: int, base: float, milestones: Sequence[int] = (), factor: float = 1.0) -> float:
    """The same warm-up, then `base`, times `factor` from each of the steps `milestones` on."""
    if k < warmup:
        return base * k / warmup
    return base * factor ** sum(k >= milestone for milestone in milestones)
