"""Pixels of one band, counted and summed without rounding: neither order nor partition can be seen in the result.

Integers of 8 and 16 bits are counted value by value. All others are floating-point numbers: each is an integer times a
power of two, so sums grouped by exponent are sums of integers (Kulisch's long accumulator), and every intermediate sum
stays below 2^53, where float64 is exact. Their bins are a fixed grid: the upper 16 bits of a float32, which are sign,
exponent and 7 bits of mantissa. A bin is as wide as 1/256 to 1/128 of its numbers, and no range need be known.
"""

from abc import ABC, abstractmethod
from fractions import Fraction
from itertools import combinations_with_replacement
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

_WORD = 1 << 16
_BATCH = 1 << 17  # pixels counted at once: smaller batches pay for 65,536 bins, larger ones leave the cache
_DRAIN = 1 << 20  # pixels in a bin, at most, before sums of products (2^32 each) are taken out of float64: 2^52 < 2^53


class Scratch:
    """Memory for one batch, shared by the bands of one tally: fresh pages would cost more than counting."""

    def __init__(self) -> None:
        self.keys = np.empty(_BATCH, np.intp)
        self.words = np.empty((2, _BATCH), np.float64)


class Band(ABC):
    """Counts by bin, and whatever else it takes to know sums exactly. `one_value`: each bin is a single number."""

    one_value: bool

    def __init__(self, num_bins: int) -> None:
        self.counts: NDArray[np.int64] = np.zeros(num_bins, np.int64)

    @abstractmethod
    def add(self, pixels: NDArray[Any]) -> None:
        """Count pixels [N]. ValueError for NaN and infinity, which may come with a later call."""

    @abstractmethod
    def settle(self) -> None:
        """Bring all that was added into `counts` and the exact sums. The methods below want it."""

    @abstractmethod
    def sums(self) -> tuple[Fraction, Fraction]:
        """Of the pixels, and of their squares."""

    @abstractmethod
    def extremes(self) -> tuple[float, float]:
        """Least and greatest pixel; inf and -inf where there is none."""

    @abstractmethod
    def ascending(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Counts [K] by value, and the edges of the bins [K + 1]. A bin of one value begins with it."""

    @abstractmethod
    def merge(self, other: "Band") -> None:
        """Add what another band has counted. Both are settled."""

    @abstractmethod
    def state(self) -> list[str]:
        """What there is beside `counts`, as text."""

    @abstractmethod
    def restore(self, state: list[str]) -> None:
        """The inverse of `state`."""


@final
class Integers(Band):
    """Integers of 8 or 16 bits: a bin for every value."""

    one_value = True

    def __init__(self, dtype: np.dtype[Any], nodata: float | None) -> None:
        super().__init__(1 << 8 * dtype.itemsize)
        self._unsigned = np.dtype(f"u{dtype.itemsize}")
        self._least = int(np.iinfo(dtype).min)
        exists = nodata is not None and nodata == np.clip(np.round(nodata), self._least, np.iinfo(dtype).max)
        self._nodata_bin = int(nodata or 0) % len(self.counts) if exists else None

    def add(self, pixels: NDArray[Any]) -> None:
        """Count pixels [N]."""
        counts = np.bincount(np.ascontiguousarray(pixels).view(self._unsigned))
        self.counts[: len(counts)] += counts

    def settle(self) -> None:
        """Forget nodata."""
        if self._nodata_bin is not None:
            self.counts[self._nodata_bin] = 0

    def sums(self) -> tuple[Fraction, Fraction]:
        """Of values and squares, each as often as it was counted."""
        counts, values = self._present()
        total, squares = (values * counts).sum(), (values * values * counts).sum()
        return Fraction(int(total)), Fraction(int(squares))

    def extremes(self) -> tuple[float, float]:
        """The first and the last value that was counted."""
        values = self._present()[1]
        return (float(values[0]), float(values[-1])) if len(values) else (np.inf, -np.inf)

    def ascending(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Negative values, whose bit patterns are the greater ones, come first."""
        edges = np.arange(self._least, self._least + len(self.counts) + 1, dtype=np.float64)
        return np.roll(self.counts, -self._least), edges

    def merge(self, other: Band) -> None:
        """Sum of the counts."""
        self.counts += other.counts

    def state(self) -> list[str]:
        """Nothing."""
        return []

    def restore(self, state: list[str]) -> None:
        """Nothing; ValueError where there is something."""
        if state:
            raise ValueError(f"integers with {state}")

    def _present(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Counts and values of the values that occur, as Python's integers, which never overflow."""
        counts, edges = self.ascending()
        at = np.flatnonzero(counts)
        return counts[at].astype(object), edges[at].astype(np.int64).astype(object)


@final
class Floats(Band):
    """float32 as it is; float64 and integers of 32 bits as float64, on the same grid.

    A number is (-1)^sign * M * 2^(exponent - bias). M has 24 bits (53): an upper digit that the number's upper 16 bits
    tell, and one lower digit of 16 bits (three).
    """

    one_value = False

    def __init__(self, dtype: np.dtype[Any], nodata: float | None, scratch: Scratch) -> None:
        super().__init__(_WORD)
        narrow = dtype.kind == "f" and dtype.itemsize <= 4
        self._batch = np.empty(_BATCH, "<f4" if narrow else "<f8")
        self._digits, exponents = (1, 256) if narrow else (3, 2048)
        self._unit = Fraction(1, 1 << (149 if narrow else 1074))  # the least number above 0
        self._shape = (2, exponents, _WORD // 2 // exponents)  # sign, exponent, upper bits of the mantissa
        self._scratch = scratch
        with np.errstate(
            over="ignore"
        ):  # GDAL writes -1.8e308 into files of float32: it becomes -inf, which is nowhere
            self._nodata = None if nodata is None else self._batch.dtype.type(nodata)
        self._filled = 0
        # Of each of the 65,536 upper words: how many numbers, the sums of their lower digits, of products of two.
        self._num = np.zeros(_WORD, np.int64)
        self._singles = np.zeros((self._digits, _WORD))
        self._pairs = {pair: np.zeros(_WORD) for pair in combinations_with_replacement(range(self._digits), 2)}
        self._total = self._squares = 0  # in units and squared units
        self._low, self._high = np.inf, -np.inf

    def add(self, pixels: NDArray[Any]) -> None:
        """Collect pixels [N], count them by the batch."""
        if self._nodata is not None:
            pixels = pixels[~np.isnan(pixels) if np.isnan(self._nodata) else pixels != self._nodata]
        while len(pixels):
            room = _BATCH - self._filled
            taken, pixels = pixels[:room], pixels[room:]
            self._batch[self._filled : self._filled + len(taken)] = taken
            self._filled += len(taken)
            if self._filled == _BATCH:
                self._count()

    def settle(self) -> None:
        """Count and drain the rest."""
        self._count()
        self._drain()

    def sums(self) -> tuple[Fraction, Fraction]:
        """Exact."""
        return self._total * self._unit, self._squares * self._unit**2

    def extremes(self) -> tuple[float, float]:
        """Exact; zero has no sign."""
        return self._low, self._high

    def ascending(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Negative numbers come first, the greatest patterns before the others."""
        finite = (np.arange(0x7F80, dtype=np.uint32) << 16).view(np.float32).astype(np.float64)
        edges = np.concatenate([finite, np.full(_WORD // 2 + 1 - len(finite), 2.0**128)])  # infinity would begin there
        counts = np.concatenate([self.counts[: _WORD // 2 - 1 : -1], self.counts[: _WORD // 2]])
        return counts, np.concatenate([-edges[::-1], edges[1:]]) + 0.0

    def merge(self, other: Band) -> None:
        """Sum of counts and sums, extremes of extremes."""
        assert isinstance(other, Floats)
        self.counts += other.counts
        self._total += other._total
        self._squares += other._squares
        self._low, self._high = min(self._low, other._low), max(self._high, other._high)

    def state(self) -> list[str]:
        """Sums in units, hexadecimal, and the extremes."""
        return [f"{self._total:x}", f"{self._squares:x}", float(self._low).hex(), float(self._high).hex()]

    def restore(self, state: list[str]) -> None:
        """ValueError where it is not what `state` gave."""
        total, squares, low, high = state
        self._total, self._squares = int(total, 16), int(squares, 16)
        self._low, self._high = float.fromhex(low), float.fromhex(high)

    def _count(self) -> None:
        """Count the batch by upper words, and sum up its lower digits there."""
        if not self._filled:
            return
        batch, num = self._batch[: self._filled], self._filled
        words = batch.view("<u2").reshape(num, -1)  # the least first
        keys, (digit, product) = self._scratch.keys[:num], self._scratch.words[:, :num]
        keys[:] = words[:, -1]
        counts = np.bincount(keys, minlength=_WORD)
        if counts.reshape(self._shape)[:, -1].any():
            raise ValueError("Statistics met NaN or infinity, expected finite pixels. Leave such patches out.")
        self._num += counts
        for first, second in self._pairs:
            digit[:] = words[:, first]
            if first == second:
                self._singles[first] += np.bincount(keys, digit, _WORD)
            np.multiply(digit, words[:, second], out=product)
            self._pairs[first, second] += np.bincount(keys, product, _WORD)
        if self._digits > 1:
            narrow = np.clip(batch, -3.4e38, 3.4e38).astype("<f4")
            keys[:] = narrow.view("<u2")[1::2]
            counts = np.bincount(keys, minlength=_WORD)
        self.counts += counts
        # + 0.0 makes -0.0 positive: which of the two came first must not be seen.
        self._low, self._high = min(self._low, float(batch.min()) + 0.0), max(self._high, float(batch.max()) + 0.0)
        self._filled = 0
        if self._num.max() > _DRAIN - _BATCH:
            self._drain()

    def _drain(self) -> None:
        """Move the sums of all upper words into Python's integers, one exponent after the other."""
        _, exponents, mantissas = self._shape
        upper = (
            np.arange(mantissas) + mantissas * (np.arange(exponents) > 0)[:, None]
        )  # implicit bit, but for subnormals
        num = self._num.reshape(self._shape)
        if not num.any():
            return
        singles = [*self._singles.astype(np.int64).reshape(-1, *self._shape), upper * num]
        pairs = {pair: sums.astype(np.int64).reshape(self._shape) for pair, sums in self._pairs.items()}
        pairs |= {(digit, self._digits): upper * sums for digit, sums in enumerate(singles)}
        of_exponent = [sums.sum(axis=2) for sums in singles]
        of_exponent_pairs = {pair: (1 + (pair[0] != pair[1])) * sums.sum(axis=2) for pair, sums in pairs.items()}
        for sign, exponent in np.argwhere(num.any(axis=2)).tolist():
            shift = max(exponent, 1) - 1
            total = sum(int(sums[sign, exponent]) << 16 * digit for digit, sums in enumerate(of_exponent))
            squares = sum(int(sums[sign, exponent]) << 16 * sum(pair) for pair, sums in of_exponent_pairs.items())
            self._total += (-total if sign else total) << shift
            self._squares += squares << 2 * shift
        for spent in (self._num, self._singles, *self._pairs.values()):
            spent[:] = 0


def band_of(dtype: str, nodata: float | None, scratch: Scratch) -> Band:
    """What counts pixels of a dtype. ValueError for one whose numbers float64 does not hold."""
    kind = np.dtype(dtype)
    if kind.kind in "iu" and kind.itemsize <= 2:
        return Integers(kind, nodata)
    if (kind.kind in "iu" and kind.itemsize == 4) or (kind.kind == "f" and kind.itemsize <= 8):
        return Floats(kind, nodata, scratch)
    raise ValueError(f"No statistics of {dtype}, expected integers of up to 32 bits or floats of up to 64. Convert it.")
