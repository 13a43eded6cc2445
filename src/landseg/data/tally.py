"""Statistics of bands, gathered tile by tile in little memory. It decodes nothing and judges nothing.

Means and standard deviations are exact. Percentiles are exact for 8-bit bands; for others they come from an even sample of the pixels,
thinned as it grows. Values that are not finite are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from landseg.data.copies import band_histograms

PERCENTILES = (1, 2, 50, 98, 99)

BINS = 64
"""Bars of the histogram that a page shows."""

_THIN = 3  # one of so many stays when a sample grows too large; odd, so that it wanders over the columns of a tile
_MOST_VALUES = 1 << 20  # in a sample, all bands together
_STRIP = 1 << 18  # values of an image that are looked at together, so that a large one needs no more memory than a small one


@dataclass(frozen=True)
class BandStatistics:
    """One band over a whole set, in the images' own units.

    Args:
        mean: Of the finite values; 0 where there are none.
        std: Their standard deviation.
        low: The least value.
        high: The largest value.
        percentiles: By percentage, `PERCENTILES`.
        bins: `BINS` counts, between `edges`.
        edges: The range of `bins`: 0 and 256 for 8 bits, else the 1st and the 99th percentile, with a margin.
        not_finite: Values that are NaN or infinite.
    """

    mean: float
    std: float
    low: float
    high: float
    percentiles: dict[int, float]
    bins: tuple[int, ...]
    edges: tuple[float, float]
    not_finite: int

    def as_json(self) -> dict[str, Any]:
        """Numbers with as many digits as mean something."""
        found = {"mean": self.mean, "std": self.std, "min": self.low, "max": self.high}
        found |= {f"p{share}": value for share, value in self.percentiles.items()}
        return {name: float(f"{value:.6g}") for name, value in found.items()} | {"not_finite": self.not_finite}


class BandTally:
    """What is known of the bands of the images seen so far, all of one band count and dtype."""

    def __init__(self, bands: int, dtype: str) -> None:
        self.bands, self.dtype, self.tiles = bands, dtype, 0
        self._counts = np.zeros((bands, 256), np.int64)
        self._pixels = 0
        self._number = np.zeros(bands, np.int64)
        self._mean, self._squares = np.zeros(bands), np.zeros(bands)
        self._low, self._high = np.full(bands, np.inf), np.full(bands, -np.inf)
        self._sample: list[np.ndarray] = []
        self._rows, self._stride = 0, 1
        self._skip = 0  # pixels to pass over before the next of the sample, so that it stays even from strip to strip and tile to tile

    def add(self, image: np.ndarray, histograms: np.ndarray | None = None) -> None:
        """Take in one image (H, W, C), with its `copies.band_histograms` where they are known."""
        self.tiles += 1
        self._pixels += image.shape[0] * image.shape[1]
        if self.dtype == "uint8":
            self._counts += band_histograms(image) if histograms is None else histograms
            return
        values, step = image.reshape(-1, self.bands), max(1, _STRIP // self.bands)
        for start in range(0, len(values), step):
            strip = values[start : start + step]
            skip, self._skip = self._skip, (self._skip - len(strip)) % self._stride
            self._keep(strip[skip :: self._stride].copy())
            self._add_moments(strip)

    def merge(self, other: BandTally) -> None:
        """Take in what another tally of the same kind has seen."""
        self.tiles += other.tiles
        self._pixels += other._pixels
        self._counts += other._counts
        self._join(other._number, other._mean, other._squares)
        self._low, self._high = np.minimum(self._low, other._low), np.maximum(self._high, other._high)
        while self._stride < other._stride:
            self._thin()
        ratio = self._stride // other._stride
        for values in other._sample:
            skip = self._skip // other._stride
            self._skip = (skip - len(values)) % ratio * other._stride
            self._keep(values[skip::ratio].copy())
            ratio = self._stride // other._stride

    def statistics(self) -> tuple[BandStatistics, ...]:
        """One entry a band."""
        if self.dtype == "uint8":
            return tuple(_of_counts(counts) for counts in self._counts)
        sample = np.concatenate([np.zeros((0, self.bands)), *self._sample])
        return tuple(self._of_sample(band, sample[:, band]) for band in range(self.bands))

    def _add_moments(self, strip: np.ndarray) -> None:
        wide = strip.astype(np.float64)
        is_finite = np.isfinite(wide)
        number = is_finite.sum(0)
        if not is_finite.all():
            wide[~is_finite] = 0
        mean = wide.sum(0) / np.maximum(number, 1)
        apart = np.where(is_finite, wide - mean, 0)
        self._join(number, mean, (apart**2).sum(0))
        self._low = np.minimum(self._low, np.where(is_finite, wide, np.inf).min(0))
        self._high = np.maximum(self._high, np.where(is_finite, wide, -np.inf).max(0))

    def _keep(self, values: np.ndarray) -> None:
        self._sample.append(values)
        self._rows += len(values)
        while self._rows * self.bands > _MOST_VALUES and self._rows > BINS:
            self._thin()

    def _thin(self) -> None:
        # As one: many small parts, each with a first row that stays, would never grow less.
        self._skip += -self._rows % _THIN * self._stride
        self._sample = [np.concatenate(self._sample)[::_THIN].copy()] if self._sample else []
        self._rows = -(-self._rows // _THIN)
        self._stride *= _THIN

    def _join(self, number: np.ndarray, mean: np.ndarray, squares: np.ndarray) -> None:
        # Source: Chan, Golub & LeVeque 1979, updating formulae for the sample variance.
        whole = self._number + number
        share = number / np.maximum(whole, 1)
        apart = mean - self._mean
        self._squares = self._squares + squares + apart**2 * self._number * share
        self._mean = self._mean + apart * share
        self._number = whole

    def _of_sample(self, band: int, sample: np.ndarray) -> BandStatistics:
        number = int(self._number[band])
        missing = self._pixels - number
        finite = sample[np.isfinite(sample)]
        if not number:
            return BandStatistics(0, 0, 0, 0, dict.fromkeys(PERCENTILES, 0.0), (0,) * BINS, (0, 1), missing)
        low, high = float(self._low[band]), float(self._high[band])
        values = np.percentile(finite, PERCENTILES) if finite.size else np.full(len(PERCENTILES), self._mean[band])
        percentiles = {share: float(value) for share, value in zip(PERCENTILES, values, strict=True)}
        margin = 0.1 * (percentiles[99] - percentiles[1])
        edges = max(low, percentiles[1] - margin), min(high, percentiles[99] + margin)
        if not edges[0] < edges[1]:
            edges = low, low + max(abs(low) * 1e-6, 1e-6)
        bins = np.histogram(finite, BINS, edges)[0]
        std = float(np.sqrt(self._squares[band] / number))
        return BandStatistics(float(self._mean[band]), std, low, high, percentiles, tuple(bins.tolist()), edges, missing)


def _of_counts(counts: np.ndarray) -> BandStatistics:
    """Of an 8-bit band: a percentile is the least value that so many pixels do not exceed."""
    number, values = int(counts.sum()), np.arange(256)
    if not number:
        return BandStatistics(0, 0, 0, 0, dict.fromkeys(PERCENTILES, 0.0), (0,) * BINS, (0, 256), 0)
    mean = float((counts * values).sum() / number)
    std = float(np.sqrt((counts * (values - mean) ** 2).sum() / number))
    below = np.cumsum(counts)
    percentiles = {share: float(np.searchsorted(below, share / 100 * number)) for share in PERCENTILES}
    present = np.flatnonzero(counts)
    bins = tuple(int(part) for part in counts.reshape(BINS, -1).sum(1))
    return BandStatistics(mean, std, float(present[0]), float(present[-1]), percentiles, bins, (0, 256), 0)
