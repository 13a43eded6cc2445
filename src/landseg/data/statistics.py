"""Mean and standard deviation of each band over a part of the tiles. It scales nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from landseg.data.pack import TileStore

SAMPLE = 400
"""Tiles that are looked at, evenly spread: the standard error of a mean is then far below what training could notice."""


def band_statistics(store: TileStore, indices: Sequence[int]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation a band, in the images' own units; values that are not finite are left out.

    Args:
        store: The tiles.
        indices: The tiles of the train part; what validates may not be looked at.

    Returns:
        Means and standard deviations, one each a band; a constant band has standard deviation 1, so that dividing by it is harmless.
    """
    chosen = np.unique(np.linspace(0, len(indices) - 1, min(SAMPLE, len(indices))).round().astype(int))
    count = np.zeros(store.bands)
    total = np.zeros(store.bands)
    squares = np.zeros(store.bands)
    for place in chosen:
        pixels = store.image(indices[int(place)]).reshape(-1, store.bands).astype(np.float64)
        is_finite = np.isfinite(pixels)
        pixels = np.where(is_finite, pixels, 0.0)
        count += is_finite.sum(0)
        total += pixels.sum(0)
        squares += (pixels**2).sum(0)
    mean = total / np.maximum(count, 1)
    std = np.sqrt(np.maximum(squares / np.maximum(count, 1) - mean**2, 0))
    return tuple(mean.tolist()), tuple(np.where(std > 1e-6 * np.maximum(np.abs(mean), 1e-6), std, 1.0).tolist())
