"""Tiles that show the same ground: shifted crops, flips and turns, other encodings, tones and zooms. It knows neither parts nor labels.

Landmarks that look alike propose pairs of tiles and how one lies on the other; the pixels of the common area decide, so that ground
which only repeats itself (furrows, rows of roofs) does not pass. Tiles without structure match nothing. The same place on another day
or from another satellite looks different and is NOT found; nor are tiles that only touch, which `neighbours` finds.

Vocabulary: a *transform* (2, 3) takes pixels (x, y) of tile `a` to pixels of tile `b`, centres at whole numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import xxhash

from landseg.core.progress import parallel_map, progress
from landseg.splitting.landmarks import Landmarks, find_alike, find_landmarks, squared_distances
from landseg.splitting.likeness import common_corners, compare

LEAST_PROBABILITY = 0.5
"""What is less likely is not reported."""

_ZOOM = 2.5
"""Largest ratio of resolutions; a little above the 2 that is promised."""

_TURN, _SIZE = math.radians(25), 0.5  # two matches agree on a transform within so much turning and so many octaves
_APART = 6.0  # pixels: nearer landmarks say nothing about direction
_STEPS = 8  # each match is held against so many others of its pair
_HYPOTHESES = 6  # transforms that are tried for a pair
_NEAR, _LIKE = 10.0, 60.0  # pixels, and distance of codes, at which a landmark confirms a proposed transform
_OUTLIER, _LEAST_INLIERS = 2.5, 3  # pixels, and landmarks
_LEAST_SHARE = 0.08  # of the smaller tile's ground: less in common is not looked for


@dataclass(frozen=True)
class Overlap:
    """Tiles `a` and `b` (``a < b``) show the same ground.

    `transform` (2, 3) float64; `share_a` and `share_b`, 0..1, of each tile's own area is in common; `inliers` landmarks agree;
    `similarity` is the mean local correlation of the common area's structure, -1..1; `probability` 0..1.
    """

    a: int
    b: int
    transform: np.ndarray
    share_a: float
    share_b: float
    inliers: int
    similarity: float
    probability: float

    @property
    def is_mirrored(self) -> bool:
        """True when one is the mirror image of the other."""
        return float(np.linalg.det(self.transform[:, :2])) < 0

    @property
    def zoom(self) -> float:
        """Pixels of `b` a pixel of `a`."""
        return math.sqrt(abs(float(np.linalg.det(self.transform[:, :2]))))


def find_overlaps(
    read: Callable[[int], np.ndarray], count: int, *, across: np.ndarray | None = None, tiles: Sequence[int] | None = None,
    workers: int | None = None,
) -> list[Overlap]:  # fmt: skip
    """Find the pairs of tiles that show the same ground.

    Of copies of one tile the first is compared with others; each further one is paired with the first alone, and not at all where the two
    are on one side. Other ground that dozens of tiles show is found for each of them, though not in each pair.

    Args:
        read: Tile number → its image (H, W, C) of any dtype; called from several threads.
        count: How many tiles there are.
        across: (N,) a value a tile, such as its part; only tiles with different values are compared. All are when None.
        tiles: Numbers of the tiles to look at; all when None.
        workers: Threads; every core when None. The result is the same for any number.

    Returns:
        Overlaps with a probability of `LEAST_PROBABILITY` or more, by `a` and `b`.
    """
    chosen = np.arange(count) if tiles is None else np.unique(np.asarray(tiles, np.int64))
    sides = np.zeros(len(chosen)) if across is None else np.asarray(across)[chosen]
    marks = find_landmarks(read, chosen.tolist(), workers=workers)
    first = _firsts(marks, sides, lambda k: read(int(chosen[k])))
    unique = np.flatnonzero(first == np.arange(len(chosen)))
    marks, numbers = marks.only(unique.tolist()), chosen[unique].tolist()
    pairs = _propose(marks, *find_alike(marks, unique if across is None else sides[unique], workers=workers))

    def job(pair: _Pair) -> Overlap | None:
        return _examine(marks, pair, numbers[pair.a], numbers[pair.b], read)

    examined = progress(parallel_map(job, pairs, workers=workers), "comparing ground", len(pairs), unit="pairs")
    found = [overlap for overlap in examined if overlap is not None]
    if across is None:
        copies = np.flatnonzero(first != np.arange(len(chosen))).tolist()
        found += [Overlap(int(chosen[first[k]]), int(chosen[k]), np.eye(2, 3), 1.0, 1.0, 0, 1.0, 1.0) for k in copies]
    return sorted(found, key=lambda overlap: (overlap.a, overlap.b))


def _firsts(marks: Landmarks, sides: np.ndarray, image: Callable[[int], np.ndarray]) -> np.ndarray:
    """(N,) the first tile on the same side that a tile is a copy of, itself where it is none's."""
    seen: dict[tuple[object, bytes], int] = {}
    first = np.arange(len(sides))
    for i in range(len(sides)):
        here = marks.of(i)
        if here.stop > here.start:
            k = seen.setdefault((sides[i], xxhash.xxh3_128_digest(marks.place[here].tobytes() + marks.code[here].tobytes())), i)
            if k != i and image(k).tobytes() == image(i).tobytes():
                first[i] = k
    return first


@dataclass(frozen=True)
class _Pair:
    """Two tiles of the landmarks and up to `_HYPOTHESES` transforms z → factor · z + offset, of mirrored z where `mirrored` says so."""

    a: int
    b: int
    factor: np.ndarray
    offset: np.ndarray
    mirrored: np.ndarray


def mirror(z: np.ndarray, is_mirrored: np.ndarray | bool) -> np.ndarray:
    """Complex places or directions, x turned round where `is_mirrored`."""
    return np.where(is_mirrored, -np.conj(z), z)


def _propose(marks: Landmarks, first: np.ndarray, second: np.ndarray, mirrored: np.ndarray) -> list[_Pair]:
    """Pairs of tiles in which at least two matches agree on a transform (as weak geometric consistency does, Jégou et al. 2008)."""
    tile = marks.tile
    key = tile[first].astype(np.int64) * len(marks.start) + tile[second]
    order = np.argsort(key * 2 + mirrored, kind="stable")
    first, second, mirrored, key = first[order], second[order], mirrored[order], (key * 2 + mirrored)[order]
    z, w = mirror(marks.place[first], mirrored), marks.place[second]
    own = marks.turn[second] / mirror(marks.turn[first], mirrored)
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for step in range(1, _STEPS + 1):
        here = np.flatnonzero(key[step:] == key[:-step])
        there = here + step
        apart, moved = z[there] - z[here], w[there] - w[here]
        is_apart = (np.abs(apart) >= _APART) & (np.abs(moved) >= _APART)
        here, there = here[is_apart], there[is_apart]
        factor = moved[is_apart] / apart[is_apart]
        agrees = np.abs(np.log2(np.abs(factor))) <= math.log2(_ZOOM)
        for other in (here, there):
            ratio = own[other] / factor
            agrees &= (np.abs(np.angle(ratio)) <= _TURN) & (np.abs(np.log2(np.abs(ratio))) <= _SIZE)
        here, factor = here[agrees], factor[agrees]
        found.append((here, factor, (w[here] - factor * z[here] + w[there[agrees]] - factor * z[there[agrees]]) / 2))
    here, factor, offset = (np.concatenate([part[k] for part in found]) for k in range(3))
    order = np.argsort(key[here] // 2, kind="stable")
    here, factor, offset = here[order], factor[order], offset[order]
    bounds = np.flatnonzero(np.diff(key[here] // 2, prepend=-1, append=-1)) if len(here) else np.zeros(1, np.int64)
    pairs = []
    for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        match = here[begin]
        a, b = int(tile[first[match]]), int(tile[second[match]])
        best = _best(factor[begin:end], offset[begin:end], mirrored[here[begin:end]], marks.place[marks.of(a)])
        pairs.append(_Pair(a, b, factor[begin:end][best], offset[begin:end][best], mirrored[here[begin:end]][best]))
    return pairs


def _best(factor: np.ndarray, offset: np.ndarray, mirrored: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Numbers of up to `_HYPOTHESES` transforms, those first that most others resemble, and none that resembles one before it."""
    middle = complex(places.mean())
    centre = factor * mirror(np.full(len(factor), middle), mirrored) + offset
    alike = (np.abs(centre[:, None] - centre[None]) < _NEAR) & (mirrored[:, None] == mirrored[None])
    alike &= np.abs(np.angle(factor[:, None] / factor[None])) < _TURN / 2
    votes, chosen = alike.sum(1), list[int]()
    left = np.ones(len(factor), bool)
    while left.any() and len(chosen) < _HYPOTHESES:
        top = int(np.argmax(np.where(left, votes, -1)))
        chosen.append(top)
        left &= ~alike[top]
        left[top] = False
    return np.asarray(chosen)


def _examine(marks: Landmarks, pair: _Pair, a: int, b: int, read: Callable[[int], np.ndarray]) -> Overlap | None:
    fits = [fit for k in range(len(pair.factor)) if (fit := _fit(marks, pair, k)) is not None]
    if not fits:
        return None
    fits.sort(key=lambda fit: -fit[1])
    image_a, image_b = read(a), read(b)
    likeness = compare(image_a, image_b, [transform for transform, _ in fits])
    share_a, share_b = _shares(likeness.transform, image_a.shape, image_b.shape)
    if likeness.probability < LEAST_PROBABILITY or max(share_a, share_b) < _LEAST_SHARE:
        return None
    return Overlap(a, b, likeness.transform, share_a, share_b, fits[likeness.choice][1], likeness.similarity, likeness.probability)


def _fit(marks: Landmarks, pair: _Pair, k: int) -> tuple[np.ndarray, int] | None:
    """The transform that most landmarks near the proposed one confirm, and how many do."""
    here, there, is_mirrored = marks.of(pair.a), marks.of(pair.b), bool(pair.mirrored[k])
    z, w = mirror(marks.place[here], is_mirrored), marks.place[there]
    turn_z, turn_w = mirror(marks.turn[here], is_mirrored), marks.turn[there]
    distances = squared_distances(marks.code[here] * (marks.signs if is_mirrored else np.int8(1)), marks.code[there])
    rows, columns = np.nonzero(distances <= _LIKE**2)
    factor, offset = complex(pair.factor[k]), complex(pair.offset[k])
    transform, inliers = np.zeros((2, 3)), 0
    for _ in range(2):  # the proposed transform may be off by a few pixels, which hides half of those that confirm it
        zoom = abs(factor)
        ratio = turn_w[columns] / (turn_z[rows] * factor)
        confirms = np.abs(factor * z[rows] + offset - w[columns]) <= _NEAR * max(1.0, zoom)
        confirms &= (np.abs(np.angle(ratio)) <= _TURN) & (np.abs(np.log2(np.abs(ratio))) <= _SIZE)
        row, column = _mutual(rows[confirms], columns[confirms], distances)
        if len(row) < _LEAST_INLIERS:
            return None
        sources, targets = (np.stack([places.real, places.imag], 1).astype(np.float64) for places in (z[row], w[column]))
        matrix, is_inlier = cv2.estimateAffinePartial2D(
            sources, targets, method=cv2.RANSAC, ransacReprojThreshold=_OUTLIER * max(1.0, zoom), maxIters=500, confidence=0.999,
        )  # fmt: skip
        if matrix is None:
            return None
        transform, inliers = np.asarray(matrix, np.float64), int(is_inlier.sum())
        if inliers < _LEAST_INLIERS or not 1 / _ZOOM <= math.hypot(*transform[:, 0]) <= _ZOOM:
            return None
        factor, offset = complex(*transform[:, 0]), complex(*transform[:, 2])
    if is_mirrored:
        transform[:, 0] *= -1
    return transform, inliers


def _mutual(rows: np.ndarray, columns: np.ndarray, distances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Those of the pairs in which each is the nearest to the other."""
    order = np.argsort(distances[rows, columns], kind="stable")
    rows, columns = rows[order], columns[order]
    first_of_row, first_of_column = np.zeros(len(rows), bool), np.zeros(len(rows), bool)
    first_of_row[np.unique(rows, return_index=True)[1]] = True
    first_of_column[np.unique(columns, return_index=True)[1]] = True
    is_mutual = first_of_row & first_of_column
    return rows[is_mutual], columns[is_mutual]


def _shares(transform: np.ndarray, shape_a: Sequence[int], shape_b: Sequence[int]) -> tuple[float, float]:
    corners = common_corners(transform, shape_a, shape_b)
    area = float(cv2.contourArea(corners.astype(np.float32))) if len(corners) > 2 else 0.0
    in_b = area * abs(float(np.linalg.det(transform[:, :2])))
    return min(1.0, area / (shape_a[0] * shape_a[1])), min(1.0, in_b / (shape_b[0] * shape_b[1]))
