"""The borders of tiles, and how well two of them fit together. It does not search for pairs: `neighbours` does.

What the borders of neighbours have in common is learnt from the tiles themselves: a cut through the middle of a tile has true neighbours
on its two sides, compressed as the tiles are. No threshold has to be chosen for a sensor, a depth of bits or a JPEG quality.

Vocabulary: a *strip* is the `DEPTH` rows of pixels along one side of a tile, counted inward from the border; a *piece* is `PIECE` pixels of
a strip's length; a *fit* is a score of two strips, 0 at its best and about -1 where they have nothing to do with each other; a tile's
*out* sides are the right and the lower one, its *into* sides the left and the upper one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.fft

from landseg.core.progress import parallel_map, progress

DEPTH = 3
"""Rows of pixels along a side. Source: measured: bench/records/recovery (a fourth adds nothing)."""

PIECE = 32
"""Length in pixels of a piece; each has a contrast of its own. Source: measured: bench/records/recovery (16 to 64 are as good)."""

FLOOR = 0.1
"""Contrast below this share of the data set's mean counts as noise. Source: measured: bench/records/recovery."""

MOST_CORRELATION = 0.999
"""No feature of a seam is trusted more, so that a change of brightness from tile to tile stays bearable."""

LEAST_CORRELATION = 0.08
"""A feature of a seam that agrees less tells nothing."""

LEAST_CONTRAST = 0.012
"""A side whose brightness varies less than this share of the range shows open water or nothing: about 3 grey values of 8 bits."""

MOST_BANDS = 4
"""More bands than this are mixed into as many principal components."""

SAMPLE = 1500
"""Cuts through tiles, one in the middle of each where there are so many, from which is learnt what a seam looks like."""

GRID = 16
"""Inner cuts lie on this grid of pixels, where the blocks of a JPEG meet: there, as at a border, nothing was compressed together."""


OutSide = Literal["right", "below"]


@dataclass(frozen=True)
class Facing:
    """The sides of equal length that can face each other.

    `side` where the second tile lies; `tiles` (n,) their numbers, ascending; `out`, `into` (n, length, DEPTH × bands) uint8 or int16.
    """

    side: OutSide
    tiles: np.ndarray
    out: np.ndarray
    into: np.ndarray


class Values:
    """How pixel values become the small whole numbers of strips: 8 bits as they are, all else stretched over about 0..4095."""

    def __init__(self, images: Sequence[np.ndarray]) -> None:
        bands = images[0].shape[2]
        self.bands = min(bands, MOST_BANDS)
        self.is_plain = bands <= MOST_BANDS and all(image.dtype == np.uint8 for image in images)
        pixels = np.concatenate([_finite(image[::5, ::5]).reshape(-1, bands) for image in images])
        self._low, high = np.percentile(pixels, (0.5, 99.5), axis=0)
        self._scale = np.where(high > self._low, 1 / np.maximum(high - self._low, np.finfo(float).tiny), 0.0)
        self._mix = np.eye(bands)
        if bands > MOST_BANDS:
            _, vectors = np.linalg.eigh(np.cov((pixels - self._low) * self._scale, rowvar=False))
            self._mix = np.round(vectors[:, ::-1][:, :MOST_BANDS], 6)

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """(…, bands) of any type → (…, `self.bands`) uint8 or int16; what is not finite counts as 0."""
        if self.is_plain:
            return pixels
        stretched = np.clip((_finite(pixels) - self._low) * self._scale, -0.5, 1.5)
        return np.asarray(np.round(stretched @ self._mix * 4095), np.int16)


def read_borders(
    read: Callable[[int], np.ndarray], shapes: Sequence[tuple[int, int]], *, workers: int | None = None
) -> tuple[list[Facing], np.ndarray, np.ndarray]:
    """Read every tile once and keep the strips along its four sides.

    Args:
        read: Gives the image (H, W, C) of a tile; called from threads.
        shapes: (height, width) of each tile.
        workers: Threads; every core when None.

    Returns:
        The sides that may face each other, shorter ones than `PIECE` left out: 9 kB for a tile of 256 × 256 × 3; and two arrays
        (m, PIECE, DEPTH × bands) of facing pieces from cuts through the middle of some tiles.
    """
    count = len(shapes)
    sampled = np.unique(np.linspace(0, count - 1, min(count, SAMPLE)).round().astype(int)) if count else np.zeros(0, int)
    values = Values([read(int(i)) for i in sampled[:: max(1, len(sampled) // 50)]]) if count else None
    if values is None:
        return [], np.zeros((0, PIECE, DEPTH), np.uint8), np.zeros((0, PIECE, DEPTH), np.uint8)
    places: dict[tuple[OutSide, int], list[int]] = {}
    for i, (height, width) in enumerate(shapes):
        lengths: dict[OutSide, int] = {"right": height, "below": width}
        for side, length in lengths.items():
            if length >= PIECE:
                places.setdefault((side, length), []).append(i)
    dtype, depth = np.uint8 if values.is_plain else np.int16, DEPTH * values.bands
    facings = [
        Facing(side, np.array(tiles), *(np.empty((len(tiles), length, depth), dtype) for _ in range(2)))
        for (side, length), tiles in sorted(places.items())
    ]
    target: dict[tuple[str, int], tuple[Facing, int]] = {
        (facing.side, int(i)): (facing, row) for facing in facings for row, i in enumerate(facing.tiles)
    }
    is_sampled, per_tile = frozenset(sampled.tolist()), -(-SAMPLE // max(count, 1))

    def keep(i: int) -> list[tuple[np.ndarray, np.ndarray]]:
        image = read(i)
        inner = []
        for side, turned in (("right", image), ("below", image.transpose(1, 0, 2))):
            if (side, i) in target:
                facing, row = target[side, i]
                facing.out[row] = _strip(values, turned[:, ::-1])
                facing.into[row] = _strip(values, turned)
                for cut in _cuts(turned.shape[1], per_tile if i in is_sampled else 0):
                    pair = _strip(values, turned[:, :cut][:, ::-1]), _strip(values, turned[:, cut:])
                    inner.append((pieces(pair[0][None])[0], pieces(pair[1][None])[0]))
        return inner

    done = progress(parallel_map(keep, range(count), workers=workers), "reading borders", count)
    inner = [pair for pairs in done for pair in pairs]
    empty = np.zeros((0, PIECE, depth), dtype)
    out, into = (np.concatenate([empty, *(pair[k] for pair in inner)]) for k in range(2))
    return facings, out, into


def pieces(strips: np.ndarray) -> np.ndarray:
    """(n, length, features) → (n, pieces, PIECE, features): whole pieces, spread evenly where the length is no multiple."""
    length = strips.shape[1]
    count = length // PIECE
    if length == count * PIECE:
        return strips.reshape(len(strips), count, PIECE, strips.shape[2])
    starts = np.linspace(0, length - PIECE, count).round().astype(int)
    return np.stack([strips[:, start : start + PIECE] for start in starts], axis=1)


def has_contrast(strips: np.ndarray) -> np.ndarray:
    """Which strips (n, length, F) show anything: their means over 8 pixels differ by more than `LEAST_CONTRAST` in some band. (n,) bool."""
    count, length, depth = strips.shape
    step = LEAST_CONTRAST * (255 if strips.dtype == np.uint8 else 4095)
    shown = np.empty(count, bool)
    for start in range(0, count, 1024):
        block = strips[start : start + 1024, : length // 8 * 8].astype(np.float32)
        means = block.reshape(len(block), length // 8, 8, DEPTH, depth // DEPTH).mean(axis=(2, 3))
        shown[start : start + 1024] = (np.ptp(means, axis=1) > step).any(axis=1)
    return shown


class Seam:
    """What two facing pieces have in common: pairs of features, one of each piece, that are correlated with each other alone.

    For every band of spatial frequencies along the seam these are the canonical variates of the two sides' pixel rows. `correlation` (K,)
    is that of each pair, the strongest information first.
    """

    # Source: canonical correlation, Hotelling 1936; its likelihood ratio is that of probabilistic linear discriminant analysis.

    def __init__(self, out: np.ndarray, into: np.ndarray, most: float = MOST_CORRELATION) -> None:
        """Learn from (m, PIECE, F) pieces that face each other; no feature is trusted beyond a correlation of `most`."""
        waves = [_waves(side) for side in (out, into)]
        depth = out.shape[2]
        self._mean = np.zeros((PIECE, depth))
        matrices, correlations = [], []
        if len(out) > 1:
            self._mean[0] = np.round((waves[0][:, 0].mean(axis=0) + waves[1][:, 0].mean(axis=0)) / 2, 3)
        for low, high in _BANDS:
            x, y = (((side - self._mean)[:, low:high]).reshape(-1, depth) for side in waves)
            own = (x.T @ x + y.T @ y) / max(2 * len(x), 1)
            own += np.eye(depth) * (1e-9 * np.trace(own) + 1 / 12)  # values are whole numbers: a twelfth is their rounding
            cross = x.T @ y / max(len(x), 1)
            root = np.linalg.inv(np.linalg.cholesky(own))
            correlation, vectors = np.linalg.eigh(root @ (cross + cross.T) @ root.T / 2)
            # Of few samples some correlate by chance alone, and none is known to correlate perfectly.
            chance = depth / max(len(x), 1)
            correlation[np.abs(correlation) < 2 * chance**0.5] = 0
            correlation = np.clip(correlation, min(chance - 1, 0), max(1 - chance, 0))
            # The sign of an eigenvector is arbitrary; nothing below depends on it.
            for wave in range(low, high):
                matrix = np.zeros((PIECE, depth, depth))
                matrix[wave] = root.T @ vectors
                matrices.append(matrix.reshape(PIECE * depth, depth))
                correlations.append(correlation)
        every = np.clip(np.concatenate(correlations), -most, most)
        chosen = np.argsort(np.log1p(-(every**2)), kind="stable")
        chosen = chosen[np.abs(every[chosen]) >= LEAST_CORRELATION]
        self.correlation = np.round(every[chosen], 6)
        transform = np.concatenate(matrices, axis=1)[:, chosen].reshape(PIECE, depth, len(chosen))
        # One matrix from pixels to features: the cosine transform is linear too.
        basis = scipy.fft.idct(transform, axis=0, norm="ortho").reshape(PIECE * depth, len(chosen))
        self._offset = np.round(self._mean.reshape(-1) @ transform.reshape(PIECE * depth, len(chosen)), 6).astype(np.float32)
        self._matrix = np.round(basis, 7).astype(np.float32)

    def features(self, strips: np.ndarray) -> Features:
        """Features of strips (n, length, F)."""
        count = len(strips)
        k, number = len(self.correlation), strips.shape[1] // PIECE
        values = np.empty((count, number, k), np.float16)
        for start in range(0, count, 1024):
            block = pieces(strips[start : start + 1024]).astype(np.float32)
            block = block.reshape(len(block), number, self._matrix.shape[0])
            values[start : start + 1024] = np.clip(block @ self._matrix - self._offset, -1000, 1000)
        return Features(values, *self._energies(values))

    def _energies(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        own, joint = (np.empty(values.shape[:2], np.float32) for _ in range(2))
        k = max(len(self.correlation), 1)
        weights = (1 / (1 - self.correlation**2)).astype(np.float32)
        for start in range(0, len(values), 1024):
            squares = values[start : start + 1024].astype(np.float32) ** 2
            own[start : start + 1024] = squares.sum(axis=2) / k
            joint[start : start + 1024] = (squares * weights).sum(axis=2) / k
        return own, joint

    def fit(self, first: Features, second: Features, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How well strips fit together: mean over their pieces of the logarithm of the energy that is left unexplained.

        Each piece has a contrast of its own, so the ratio is taken between what the two sides leave unexplained by each other
        and their own energies: a seam in a rich texture may differ more than one in a smooth field.

        Args:
            first: Features of one side of the seam.
            second: Of the other.
            pairs: (m, 2) rows of the two.

        Returns:
            Two arrays (m,) float32: the fit, 0 or a little more at best; and the fit that strangers of the same contrasts would have.
            Strips without contrast fit all of their kind, and their fit is that of strangers.
        """
        weight = (self.correlation / (1 - self.correlation**2)).astype(np.float32)
        k = max(len(weight), 1)
        fits, strangers = np.empty(len(pairs), np.float32), np.empty(len(pairs), np.float32)
        for start in range(0, len(pairs), 4096):
            i, j = pairs[start : start + 4096].T
            # float32 sums over the last axis are those of numpy's own loops: the same on any number of threads.
            cross = (first.values[i].astype(np.float32) * weight * second.values[j]).sum(axis=2) / k
            apart = (first.joint[i] + second.joint[j]) / 2
            own = np.log(first.own[i] + FLOOR) + np.log(second.own[j] + FLOOR)
            fits[start : start + 4096] = (own / 2 - np.log(np.maximum(apart - cross, 0) + FLOOR)).mean(axis=1)
            strangers[start : start + 4096] = (own / 2 - np.log(apart + FLOOR)).mean(axis=1)
        return fits, strangers

    def descriptors(self, features: Features, per_piece: int) -> tuple[np.ndarray, np.ndarray]:
        """Vectors for a search: the product of a first one with a second one orders pairs as `fit` nearly does, least first.

        Args:
            features: Of the strips.
            per_piece: Features kept of each piece.

        Returns:
            Two arrays (n, d) float32 of whole numbers, small enough for their products to be exact in float32: the search gives the same
            result however a library orders its sums.
        """
        values = features.values[:, :, :per_piece].astype(np.float32)
        correlation = self.correlation[:per_piece]
        weight, sharp = (f.astype(np.float32) for f in (correlation / (1 - correlation**2), 1 / (1 - correlation**2)))
        size = max(values.shape[1] * values.shape[2], 1)
        energy = (values**2).sum(axis=(1, 2)) / size
        joint = (values**2 * sharp).sum(axis=(1, 2)) / size / 2
        scale = 1 / np.sqrt(energy + FLOOR)
        vectors = (values * np.sqrt(np.abs(weight) / size)).reshape(len(values), -1) * scale[:, None]
        signed = vectors * -np.tile(np.sign(weight), values.shape[1])
        first = np.column_stack([signed, (joint + FLOOR) * scale, scale])
        second = np.column_stack([vectors, scale, joint * scale])
        return np.round(first * _STEPS), np.round(second * _STEPS)


@dataclass(frozen=True)
class Features:
    """Of n strips: `values` (n, pieces, K) float16; `own`, `joint` (n, pieces) float32 energies, as they are and as a seam weighs them."""

    values: np.ndarray
    own: np.ndarray
    joint: np.ndarray


_STEPS = 200.0
_EDGES = (0, 1, 2, 3, 4, 6, 8, 11, 15, 21, 32)
_BANDS = tuple(itertools.pairwise(_EDGES))


def _waves(side: np.ndarray) -> np.ndarray:
    return np.asarray(scipy.fft.dct(side.astype(np.float64), axis=1, norm="ortho"))


def _strip(values: Values, turned: np.ndarray) -> np.ndarray:
    """(length, depth…, bands), the border first → (length, DEPTH × bands); a tile of less depth repeats its last row."""
    rows = np.minimum(np.arange(DEPTH), turned.shape[1] - 1)
    return values(turned[:, rows]).reshape(len(turned), -1)


def _cuts(length: int, count: int) -> list[int]:
    """At most `count` places to cut a tile, on the grid, those next to the middle first."""
    on_grid = [cut for cut in range(GRID, length, GRID) if DEPTH <= cut <= length - DEPTH]
    return sorted(on_grid, key=lambda cut: (abs(2 * cut - length), cut))[:count]


def _finite(pixels: np.ndarray) -> np.ndarray:
    return np.nan_to_num(pixels.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
