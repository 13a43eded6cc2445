"""What the values of each band are: the range that says something, and the mean and standard deviation. It changes no image."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from landseg.core.progress import parallel_map
from landseg.data.pack import TileStore
from landseg.data.tiles import UnreadableTile, decode_image, read_bytes

SAMPLE = 400
"""Tiles that are looked at, evenly spread: the standard error of a mean is then far below what training could notice."""

_FILES = 200
"""Files that are decoded to find ranges."""

_VALUES = 1 << 22
"""Values of one tile, and 4 times as many of all together, that are looked at: many bands and large tiles shall not fill the memory."""

_ENDS = (0.1, 99.9)
"""Percentiles between which a band's range lies: a thousandth at either end may be glints, dead detectors and no-data values."""

_WIDER = 0.1
"""Of the range, added at either end: other places hold values that the sample does not."""

_FREQUENT = 0.0005
"""Share of a band from which its lowest or highest value may stand for "no data"; rarer ones lie outside the percentiles anyway."""

_NODATA = frozenset({-999.0, -9999.0, -99999.0, -32768.0, -2147483648.0, 32767.0, 65535.0, 2147483647.0, 4294967295.0})
"""Values that stand for "no data" by custom or as the end of a type."""

_LARGEST = 1e37
"""Beyond it, a value is none (3.4e38 is a custom too), and float32 could not count with it."""

Ranges = tuple[tuple[float, float], ...]


def band_ranges(images: Sequence[Path]) -> Ranges | None:
    """The range of each band, to which its values may be clipped and scaled, from an evenly spread sample of files.

    The range runs from the 0.1th to the 99.9th percentile, a tenth wider at either end (not below 0 where nothing lies there), rounded
    outwards to three digits. Left out are values that are not finite, and a frequent lowest or highest value that is known to mean "no
    data" (-9999, a type's least number) or lies further from the others than they from one another. A constant band gets a range around
    its value.

    Args:
        images: Image files; unreadable ones are passed over, and so are those of another kind than most.

    Returns:
        (low, high) a band with low < high; None where most files are of eight bits, which need no scaling, or none can be read.
    """
    chosen = [images[place] for place in _spread(len(images), _FILES)]
    share = 4 * _VALUES // max(1, len(chosen))
    samples = [found for found in parallel_map(lambda path: _sample(path, share), chosen, ahead=4) if found is not None]
    kinds = Counter((sample.shape[1], sample.dtype) for sample in samples)
    if not kinds:
        return None
    kind = kinds.most_common(1)[0][0]
    if kind[1] in (np.uint8, np.bool_):
        return None
    values = np.concatenate([sample for sample in samples if (sample.shape[1], sample.dtype) == kind])
    return tuple(_range(values[:, band]) for band in range(kind[0]))


def band_statistics(store: TileStore, indices: Sequence[int], scaling: Ranges | None = None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation a band; values that are not finite are left out.

    Args:
        store: The tiles.
        indices: The tiles of the train part; what validates may not be looked at.
        scaling: (low, high) a band: values are clipped and mapped to 0..1 first, as the network does; None for the images' own units.

    Returns:
        Means and standard deviations, one each a band; a constant band has standard deviation 1, so that dividing by it is harmless.
    """
    count = np.zeros(store.bands)
    total = np.zeros(store.bands)
    squares = np.zeros(store.bands)
    low, high = np.array(scaling).T if scaling is not None else (None, None)
    for place in _spread(len(indices), SAMPLE):
        flat = store.image(indices[place]).reshape(-1, store.bands)
        pixels = flat[:: math.ceil(flat.size / _VALUES)].astype(np.float64)
        is_finite = np.isfinite(pixels)
        pixels = np.where(is_finite, pixels, 0.0)
        if low is not None and high is not None:
            pixels = np.where(is_finite, (np.clip(pixels, low, high) - low) / (high - low), 0.0)
        count += is_finite.sum(0)
        total += pixels.sum(0)
        squares += (pixels**2).sum(0)
    mean = total / np.maximum(count, 1)
    std = np.sqrt(np.maximum(squares / np.maximum(count, 1) - mean**2, 0))
    return tuple(mean.tolist()), tuple(np.where(std > 1e-6 * np.maximum(np.abs(mean), 1e-6), std, 1.0).tolist())


def _spread(length: int, most: int) -> list[int]:
    """At most `most` places of 0..length-1, evenly spread."""
    return [int(place) for place in np.unique(np.linspace(0, length - 1, min(most, length)).round())]


def _sample(path: Path, share: int) -> np.ndarray | None:
    """(P, C) pixels of a file, evenly spread, `share` values at most; None where it cannot be read."""
    try:
        image = decode_image(read_bytes(path))
    except UnreadableTile:
        return None
    flat = image.reshape(-1, image.shape[2])
    return flat[_spread(len(flat), max(1, share // image.shape[2]))]


def _range(band: np.ndarray) -> tuple[float, float]:
    values = band.astype(np.float64)
    values = _without_nodata(values[np.abs(values) < _LARGEST])  # a NaN is not less than anything
    if not values.size:
        return 0.0, 1.0
    low, high = np.percentile(values, _ENDS).tolist()
    size = max(abs(low), abs(high))
    if high - low <= 1e-5 * size:  # constant, or too near to it for float32
        half = max(size, 1.0) / 2
        return low - half, low + half
    wider = _WIDER * (high - low)
    return _rounded(low - wider if values.min() < 0 else max(0.0, low - wider), high + wider)


def _without_nodata(values: np.ndarray) -> np.ndarray:
    """Values without a frequent lowest or highest one that stands for "no data"; there may be two at one end."""
    for find in (np.min, np.min, np.max):
        if values.size:
            end = float(find(values))
            rest = values[values != end]
            if len(values) - len(rest) >= _FREQUENT * len(values) and rest.size:
                low, high = np.percentile(rest, _ENDS).tolist()
                is_far = max(low - end, end - high) > high - low
                values = rest if high > low and (is_far or end in _NODATA) else values
    return values


def _rounded(low: float, high: float) -> tuple[float, float]:
    """Outwards to a thousandth of the range's power of ten, so that a person can read it."""
    digits = 2 - math.floor(math.log10(high - low))
    step = 10.0**-digits
    return round(math.floor(low / step) * step, max(0, digits)), round(math.ceil(high / step) * step, max(0, digits))
