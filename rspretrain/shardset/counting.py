"""Exact counts and sums of the pixels of one band: the result does not depend on their order or partition.

Integers of 8 and 16 bits are counted per value. All others are treated as floating-point numbers: each is an integer
times a power of two, so sums grouped by exponent are sums of integers (Kulisch's long accumulator), and every
intermediate sum stays below 2^53, where float64 is exact. Their bins are a fixed grid: the upper 16 bits of a float32
(sign, exponent and 7 bits of mantissa). The width of a bin is 1/256 to 1/128 of its numbers; no range is needed.
"""

from abc import ABC, abstractmethod
from fractions import Fraction
from itertools import combinations_with_replacement
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

_WORD = 1 << 16
_BATCH = 1 << 17  # pixels counted at once: smaller batches waste time on 65,536 bins, larger ones exceed the cache
_DRAIN = 1 << 20  # largest number of pixels per bin before sums of products (2^32 each) leave float64: 2^52 < 2^53


class Scratch:
    """Buffers for one batch, shared by the bands of a tally: allocating new pages would cost more than counting."""

    def __init__(self) -> None:
        self.keys = np.empty(_BATCH, np.intp)
        self.words = np.empty((2, _BATCH), np.float64)


class BandCounter(ABC):
    """Counts per bin and exact sums of one band. `one_value`: each bin is a single number."""

    one_value: bool

    def __init__(self, num_bins: int) -> None:
        self.counts: NDArray[np.int64] = np.zeros(num_bins, np.int64)

    @abstractmethod
    def add(self, pixels: NDArray[Any]) -> None:
        """Count pixels [N]. ValueError for NaN and infinity, possibly raised by a later call."""

    @abstractmethod
    def flush(self) -> None:
        """Add all buffered pixels to `counts` and the sums. Required before the methods below."""

    @abstractmethod
    def sums(self) -> tuple[Fraction, Fraction]:
        """The sums of the pixels and of their squares."""

    @abstractmethod
    def extremes(self) -> tuple[float, float]:
        """The smallest and the largest pixel; inf and -inf without pixels."""

    @abstractmethod
    def ascending(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Counts [K] in ascending order, and the edges of the bins [K + 1]. A bin of one value starts at it."""

    @abstractmethod
    def merge(self, other: "BandCounter") -> None:
        """Add the counts of another counter. Both must be flushed."""

    @abstractmethod
    def state(self) -> list[str]:
        """The state besides `counts`, as text."""

    @abstractmethod
    def restore(self, state: list[str]) -> None:
        """The inverse of `state`."""


@final
class IntegerCounter(BandCounter):
    """Counts integers of 8 or 16 bits: one bin per value."""

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

    def flush(self) -> None:
        """Set the count of nodata to 0."""
        if self._nodata_bin is not None:
            self.counts[self._nodata_bin] = 0

    def sums(self) -> tuple[Fraction, Fraction]:
        """The sums of values and squares, weighted by counts."""
        counts, values = self._present()
        total, squares = (values * counts).sum(), (values * values * counts).sum()
        return Fraction(int(total)), Fraction(int(squares))

    def extremes(self) -> tuple[float, float]:
        """The smallest and the largest counted value."""
        values = self._present()[1]
        return (float(values[0]), float(values[-1])) if len(values) else (np.inf, -np.inf)

    def ascending(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Counts with negative values first, whose bit patterns are larger."""
        edges = np.arange(self._least, self._least + len(self.counts) + 1, dtype=np.float64)
        return np.roll(self.counts, -self._least), edges

    def merge(self, other: BandCounter) -> None:
        """Add the counts."""
        self.counts += other.counts

    def state(self) -> list[str]:
        """Empty."""
        return []

    def restore(self, state: list[str]) -> None:
        """Do nothing; ValueError if `state` is not empty."""
        if state:
            raise ValueError(f"integers have no state, got {state}")

    def _present(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Counts and values of all values that occur, as Python integers, which do not overflow."""
        counts, edges = self.ascending()
        at = np.flatnonzero(counts)
        return counts[at].astype(object), edges[at].astype(np.int64).astype(object)


@final
class FloatCounter(BandCounter):
    """Counts float32; and float64 and 32-bit integers as float64, in the same bins.

    A number is (-1)^sign * M * 2^(exponent - bias). M has 24 bits (53 for float64): an upper digit given by the upper
    16 bits of the number, and one lower digit of 16 bits (three for float64).
    """

    one_value = False

    def __init__(self, dtype: np.dtype[Any], nodata: float | None, scratch: Scratch) -> None:
        super().__init__(_WORD)
        narrow = dtype.kind == "f" and dtype.itemsize <= 4
        self._batch = np.empty(_BATCH, "<f4" if narrow else "<f8")
        self._digits, exponents = (1, 256) if narrow else (3, 2048)
        self._unit = Fraction(1, 1 << (149 if narrow else 1074))  # the smallest number above 0
        self._shape = (2, exponents, _WORD // 2 // exponents)  # sign, exponent, upper bits of the mantissa
        self._scratch = scratch
        with np.errstate(over="ignore"):  # GDAL writes -1.8e308 into float32 files: it becomes -inf, equal to no pixel
            self._nodata = None if nodata is None else self._batch.dtype.type(nodata)
        self._filled = 0
        # Per upper word (65,536): the count, the sums of the lower digits, and of the products of two digits.
        self._num = np.zeros(_WORD, np.int64)
        self._singles = np.zeros((self._digits, _WORD))
        self._pairs = {pair: np.zeros(_WORD) for pair in combinations_with_replacement(range(self._digits), 2)}
        self._total = self._squares = 0  # in units and squared units
        self._low, self._high = np.inf, -np.inf

    def add(self, pixels: NDArray[Any]) -> None:
        """Buffer pixels [N]; count them in batches."""
        if self._nodata is not None:
            pixels = pixels[~np.isnan(pixels) if np.isnan(self._nodata) else pixels != self._nodata]
        while len(pixels):
            room = _BATCH - self._filled
            taken, pixels = pixels[:room], pixels[room:]
            self._batch[self._filled : self._filled + len(taken)] = taken
            self._filled += len(taken)
            if self._filled == _BATCH:
                self._count()

    def flush(self) -> None:
        """Count and sum the remaining pixels."""
        self._count()
        self._drain()

    def sums(self) -> tuple[Fraction, Fraction]:
        """The exact sums."""
        return self._total * self._unit, self._squares * self._unit**2

    def extremes(self) -> tuple[float, float]:
        """The exact extremes; zero has no sign."""
        return self._low, self._high

    def ascending(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Counts with negative numbers first, in descending order of their bit patterns."""
        finite = (np.arange(0x7F80, dtype=np.uint32) << 16).view(np.float32).astype(np.float64)
        edges = np.concatenate([finite, np.full(_WORD // 2 + 1 - len(finite), 2.0**128)])  # where infinity would start
        counts = np.concatenate([self.counts[: _WORD // 2 - 1 : -1], self.counts[: _WORD // 2]])
        return counts, np.concatenate([-edges[::-1], edges[1:]]) + 0.0

    def merge(self, other: BandCounter) -> None:
        """Add counts and sums, combine the extremes."""
        assert isinstance(other, FloatCounter)
        self.counts += other.counts
        self._total += other._total
        self._squares += other._squares
        self._low, self._high = min(self._low, other._low), max(self._high, other._high)

    def state(self) -> list[str]:
        """The sums in units, hexadecimal, and the extremes."""
        return [f"{self._total:x}", f"{self._squares:x}", float(self._low).hex(), float(self._high).hex()]

    def restore(self, state: list[str]) -> None:
        """The inverse of `state`. ValueError for other content."""
        total, squares, low, high = state
        self._total, self._squares = int(total, 16), int(squares, 16)
        self._low, self._high = float.fromhex(low), float.fromhex(high)

    def _count(self) -> None:
        """Count the batch by upper word, and add its lower digits to the sums."""
        if not self._filled:
            return
        batch, num = self._batch[: self._filled], self._filled
        words = batch.view("<u2").reshape(num, -1)  # least significant first
        keys, (digit, product) = self._scratch.keys[:num], self._scratch.words[:, :num]
        keys[:] = words[:, -1]
        counts = np.bincount(keys, minlength=_WORD)
        if counts.reshape(self._shape)[:, -1].any():
            raise ValueError("Statistics got NaN or infinite pixels, expected finite ones. Exclude such patches.")
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
        """Move the sums of all upper words into Python integers, exponent by exponent."""
        _, exponents, mantissas = self._shape
        # With the implicit bit, which subnormals do not have.
        upper = np.arange(mantissas) + mantissas * (np.arange(exponents) > 0)[:, None]
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


def band_counter(dtype: str, nodata: float | None, scratch: Scratch) -> BandCounter:
    """A counter for pixels of a dtype. ValueError for dtypes that float64 cannot represent."""
    kind = np.dtype(dtype)
    if kind.kind in "iu" and kind.itemsize <= 2:
        return IntegerCounter(kind, nodata)
    if (kind.kind in "iu" and kind.itemsize == 4) or (kind.kind == "f" and kind.itemsize <= 8):
        return FloatCounter(kind, nodata, scratch)
    raise ValueError(f"No statistics of {dtype}, expected integers of up to 32 bits or floats of up to 64. Convert it.")
