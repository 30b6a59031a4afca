"""Schedules as pure functions of the step, without state (docs/methods.md, Learning-rate schedules)."""

import math
from collections.abc import Sequence


def cosine(k: int, K: int, start: float, end: float, inclusive: bool = False) -> float:
    """Half a cosine from `start` at step k = 0 to `end`, over K steps.

    `end` is reached at k = K, one past the last step, as in DINO, BYOL and solo-learn; with `inclusive` at k = K - 1,
    as in lightly. The value then stays at `end`.
    """
    last = K - 1 if inclusive else K
    if k >= last:
        return end
    return end + (start - end) * (1.0 + math.cos(math.pi * k / last)) / 2.0


def warmup_cosine(k: int, K: int, warmup: int, base: float, end: float) -> float:
    """Linear warm-up `base * k / warmup`, then a cosine to `end` over the remaining K - warmup steps, as in BYOL."""
    if k < warmup:
        return base * k / warmup
    return cosine(k - warmup, K - warmup, base, end)


def warmup_steps(k: int, warmup: int, base: float, milestones: Sequence[int] = (), factor: float = 1.0) -> float:
    """Linear warm-up, then `base`, multiplied by `factor` at each of the steps `milestones`."""
    if k < warmup:
        return base * k / warmup
    return base * factor ** sum(k >= milestone for milestone in milestones)
