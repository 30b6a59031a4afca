"""Exact statistics of every band: mean, std, extremes, percentiles, a histogram.

A `Tally` per shard counts the pixels during the build, and tallies merge. The merged tally has the same bytes for any
distribution of the images over shards, workers and machines, because nothing is rounded before the end (counting.py).

Definition: all pixels of all images have equal weight, at the resolution of the band (nothing is resampled); pixels
equal to the nodata value are excluded; std is the population's. The numbers published for BigEarthNet v2 follow the
same definition (ConfigILM's `BENv2_utils`: its "nearest" std is that of native pixels). Those of v1 were published
without a script; they differ from v2's by a few percent. They were not compared on the complete archive.
"""

import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from rspretrain.sensors import Group
from rspretrain.settings import Settings
from rspretrain.shardset.counting import BandCounter, Scratch, band_counter

PERCENTILES = (1, 2, 5, 25, 50, 75, 95, 98, 99)
NUM_BINS = 64
_TAIL = 0.1  # percent of the pixels excluded at either end of the histogram, because a few outliers would flatten it
_FORMAT = 1


class Histogram(Settings):
    """Pixel counts in bins of equal width between `low` and `high`; at most 0.1 % of the pixels are outside either end.

    64 bins. For integers of 8 or 16 bits, the width is a whole number of values, and there may be fewer bins.
    """

    low: float
    high: float
    counts: tuple[int, ...]


class BandStatistics(Settings):
    """Statistics of one band over all images, in the units of the group.

    Percentiles of integers of 8 and 16 bits are exact (numpy's "linear"). Others are interpolated inside a bin whose
    width is 1/256 to 1/128 of the value: a percentile of -13 dB is accurate to 0.0625 dB or better.
    """

    count: int  # pixels, without nodata
    mean: float
    std: float
    min: float
    max: float
    percentiles: dict[str, float]  # "1", "2", "5", "25", "50", "75", "95", "98", "99"
    histogram: Histogram
    codes: dict[str, int] | None = None  # for maps (units "class"): code -> pixels, for every code that occurs


@final
class Tally:
    """Pixel counts of a set of images, per band. Takes 0.5 MB per integer band, 3 MB per float32 band."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self.groups = tuple(groups)
        self.images = 0
        scratch = Scratch()
        self._bands = {
            group.name: [band_counter(group.dtype, group.nodata, scratch) for _ in group.bands] for group in groups
        }

    def add(self, images: Mapping[str, NDArray[Any]]) -> None:
        """Count one sample: [C H W] of every group. ValueError if dtype or number of bands does not match."""
        for group in self.groups:
            image = images[group.name]
            if image.dtype != np.dtype(group.dtype) or image.ndim != 3 or len(image) != len(group.bands):
                raise ValueError(
                    f"Group {group.name} has {image.dtype} {image.shape}, expected {group.dtype} with "
                    f"{len(group.bands)} bands [C H W]. Call check_patch before counting its pixels."
                )
            for band, pixels in zip(self._bands[group.name], image, strict=True):
                band.add(pixels.reshape(-1))
        self.images += 1

    def merge(self, other: "Tally") -> None:
        """Add the counts of another tally. ValueError if its groups differ."""
        if _identity(self.groups) != _identity(other.groups):
            raise ValueError(
                f"Cannot merge statistics of {_identity(other.groups)} into those of {_identity(self.groups)}, "
                "expected the same groups. Merge shards of one archive that were built with the same options."
            )
        self.images += other.images
        for band, counted in zip(self._flushed(), other._flushed(), strict=True):
            band.merge(counted)

    def summary(self) -> dict[str, dict[str, BandStatistics]]:
        """Group -> band -> statistics, without bands that have no valid pixel."""
        bands = self._flushed()
        return {
            group.name: {
                name: _summary(band, group.units == "class")
                for name in group.bands
                if (band := next(bands)).counts.any()
            }
            for group in self.groups
        }

    def to_bytes(self) -> bytes:
        """The compressed counts. Equal counts give equal bytes, in any order of counting and merging."""
        described, counted = [], []
        for band in self._flushed():
            present = np.flatnonzero(band.counts)
            first, end = (int(present[0]), int(present[-1]) + 1) if len(present) else (0, 0)
            described.append({"first": first, "bins": end - first, "state": band.state()})
            counted.append(band.counts[first:end])
        header = {"format": _FORMAT, "groups": _identity(self.groups), "images": self.images, "bands": described}
        # Byte planes put zeros next to zeros.
        planes = np.concatenate(counted).astype("<i8").view(np.uint8).reshape(-1, 8).T
        # Level 9 takes four times as long for 2 % fewer bytes.
        return zlib.compress(json.dumps(header).encode() + b"\n" + planes.tobytes(), 4)

    @classmethod
    def from_bytes(cls, groups: Sequence[Group], data: bytes) -> "Tally":
        """The inverse of `to_bytes`. ValueError if the data is damaged or has other groups."""
        tally = cls(groups)
        bands = list(tally._flushed())
        limit = (1 << 20) + sum(8 * len(band.counts) for band in bands)
        try:
            header, _, planes = _decompress(data, limit).partition(b"\n")
            content = json.loads(header)
            if content["format"] != _FORMAT or content["groups"] != _identity(groups):
                raise ValueError(f"format {content['format']}, groups {content['groups']}")
            counts = np.frombuffer(planes, np.uint8).reshape(8, -1).T.copy().view("<i8").ravel()
            ends = accumulate(described["bins"] for described in content["bands"])
            for band, described, end in zip(bands, content["bands"], ends, strict=True):
                first, num = described["first"], described["bins"]
                band.counts[first : first + num] = counts[end - num : end]
                band.restore(described["state"])
            tally.images = int(content["images"])
        except (ValueError, KeyError, TypeError, zlib.error) as error:
            raise ValueError(
                f"Statistics of a shard are damaged ({error}), expected format {_FORMAT} with groups "
                f"{_identity(groups)}. Build that shard again."
            ) from error
        return tally

    def _flushed(self) -> Iterator[BandCounter]:
        """All bands in order, flushed."""
        for group in self.groups:
            for band in self._bands[group.name]:
                band.flush()
                yield band


def _identity(groups: Sequence[Group]) -> list[Any]:
    return [[group.name, group.dtype, list(group.bands), str(group.nodata)] for group in groups]


def _decompress(data: bytes, limit: int) -> bytes:
    stream = zlib.decompressobj()
    content = stream.decompress(data, limit)
    if not stream.eof or stream.unused_data:
        raise ValueError(f"it does not end after {len(content):,} bytes")
    return content


def _summary(band: BandCounter, is_map: bool) -> BandStatistics:
    bins = _Bins(band)
    total, squares = band.sums()
    mean, low, high = total / bins.num, *band.extremes()
    return BandStatistics(
        count=bins.num,
        mean=float(mean),
        std=_sqrt(squares / bins.num - mean * mean),
        min=low,
        max=high,
        percentiles={str(percent): bins.percentile(percent) for percent in PERCENTILES},
        histogram=bins.histogram(),
        codes=bins.codes() if is_map and bins.one_value else None,
    )


def _sqrt(square: Fraction) -> float:
    """Square root of an exact fraction, accurate to the last digit of float64 for numbers of any size."""
    top, bottom = square.as_integer_ratio()
    shift = max(0, 128 + bottom.bit_length() - top.bit_length()) // 2
    return float(Fraction(math.isqrt((top << 2 * shift) // bottom), 1 << shift))


class _Bins:
    """The counts of a band in ascending order. Uses Python floats, whose rounding is the same on all machines."""

    def __init__(self, band: BandCounter) -> None:
        counts, self.edges = band.ascending()
        self.counts: list[int] = counts.tolist()
        self.ends = np.cumsum(counts)  # pixels up to the end of each bin
        self.num = int(self.ends[-1])
        self.one_value = band.one_value
        self.low, self.high = band.extremes()

    def codes(self) -> dict[str, int]:
        """Value -> pixels, for every value that occurs."""
        return {f"{value:.0f}": count for value, count in zip(self.edges, self.counts, strict=False) if count}

    def percentile(self, percent: float) -> float:
        """A percentile, interpolated between the two nearest ranks like numpy's."""
        position = (self.num - 1) * (percent / 100)
        rank = min(math.floor(position), self.num - 1)
        below, above, share = self._at(rank), self._at(min(rank + 1, self.num - 1)), position - rank
        step = above - below
        return above - step * (1 - share) if share >= 0.5 else below + step * share

    def _at(self, rank: int) -> float:
        """The pixel of a rank, from 0. Pixels are assumed to be evenly spaced in a bin that is wider than a value."""
        index = int(np.searchsorted(self.ends, rank, side="right"))
        low, high = float(self.edges[index]), float(self.edges[index + 1])
        if self.one_value:
            return low
        count = self.counts[index]
        before = int(self.ends[index]) - count
        return min(max(low + (high - low) * ((rank - before + 0.5) / count), self.low), self.high)

    def histogram(self) -> Histogram:
        """A histogram of the central 99.8 % of the pixels."""
        low, high = self.percentile(_TAIL), self.percentile(100 - _TAIL)
        num = NUM_BINS
        if self.one_value:
            values = math.ceil(high) + 1 - math.floor(low)
            width = -(-values // NUM_BINS)
            num, low = -(-values // width), float(math.floor(low))
            high = low + num * width
        if low == high:
            return Histogram(low=low, high=high, counts=(self.num,))
        upto = [self._num_below(low + (high - low) * (number / num)) for number in range(num + 1)]
        return Histogram(low=low, high=high, counts=tuple(b - a for a, b in pairwise(upto)))

    def _num_below(self, value: float) -> int:
        """Number of pixels below a value, interpolated inside its bin."""
        index = int(np.searchsorted(self.edges, value, side="right")) - 1
        if index >= len(self.counts):
            return self.num
        low, high = float(self.edges[index]), float(self.edges[index + 1])
        share = 0.0 if self.one_value else (value - low) / (high - low)
        return int(self.ends[index]) - self.counts[index] + round(self.counts[index] * share)
