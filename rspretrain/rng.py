"""Counter-based random numbers per sample: hashes instead of generators with state (docs/methods.md, Keyed randomness).

A random number is a pure function of (seed, epoch, position, purpose, counter), so it does not depend on rank, worker,
batch size or restarts. This module needs only numpy; `rng_torch.py` draws for whole batches on the device. The mixing
function is the finaliser of splitmix64 (Steele et al. 2014), applied once per mixed-in word.
"""

import numpy as np
from numpy.typing import NDArray

GOLDEN = 0x9E3779B97F4A7C15
MIX1 = 0xBF58476D1CE4E5B9
MIX2 = 0x94D049BB133111EB
MASK = (1 << 64) - 1


def mix(*words: int) -> int:
    """A 64-bit hash of integers, as an int in [0, 2**64)."""
    state = 0
    for word in words:
        z = (state + GOLDEN + (word & MASK)) & MASK
        z = ((z ^ (z >> 30)) * MIX1) & MASK
        z = ((z ^ (z >> 27)) * MIX2) & MASK
        state = z ^ (z >> 31)
    return state


def mix_array(state: int, words: NDArray[np.integer]) -> NDArray[np.uint64]:
    """`mix(…, word)` for an array of last words. `state` is the hash of the words before."""
    with np.errstate(over="ignore"):
        z = np.uint64(state) + np.uint64(GOLDEN) + words.astype(np.uint64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(MIX1)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(MIX2)
        return z ^ (z >> np.uint64(31))


def permutation(length: int, *words: int) -> NDArray[np.int64]:
    """A permutation of range(length), a pure function of `words` that does not depend on library versions."""
    return np.argsort(mix_array(mix(*words), np.arange(length)), kind="stable")


def sample_seeds(seed: int, epoch: int, positions: NDArray[np.integer]) -> NDArray[np.int64]:
    """[B] one 64-bit seed per sample, from which all its random numbers are derived."""
    return mix_array(mix(seed, epoch), positions).view(np.int64)
