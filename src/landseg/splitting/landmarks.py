"""Landmarks of tiles: a few dozen places a tile that can be told from others, and which of them look alike. It judges no pair of tiles.

A landmark is a SIFT feature (Lowe 2004) as square roots (Arandjelović & Zisserman 2012), reduced to `CODE` whole numbers. The reduction
keeps a mirror image's code apart from its original by signs alone, so that flipped ground is found without describing a tile twice. All
sums are of whole numbers small enough to be exact in float32: the same tiles give the same matches whatever the number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from landseg.core.progress import parallel_map, progress

CODE = 32
"""Numbers in a landmark's code."""

_ALIKE, _ALIKE_COUNT, _ALIKE_POWER = 36.0, 400_000, 14.0
# Distance of two codes up to which they may show the same place, with so many landmarks; with more of them strangers come nearer, their
# number within a distance grows with this power of it. Source: measured on worlds, bench/records/recovery.

_PER_AREA, _AREA = 160, 256 * 256  # landmarks for so many pixels
_CELL = 32  # pixels of the reduced picture: landmarks are spread over such cells, so that a strip of a tile holds its share
_REDUCED_FROM = 192  # pixels: tiles with a shorter side are not halved
_LEAST_SIDE = 16
_FAINT = 0.005  # of SIFT's contrast; what is weaker is noise
_CONTRAST, _GAIN = 40.0, 6.0  # grey levels of standard deviation that a picture is stretched to, and by how much at most
_HOLE, _RIM = 7, 9  # pixels: an area without data is at least so wide; so far from one its border is felt
_BLACK, _WHITE = 6, 250
_SAMPLE_TILES, _SAMPLE_CODES = 400, 1 << 17
_UNIT, _SCALE = 128, 0.6 / 128  # the basis in whole numbers; a code's numbers fit 8 bits
_CROWD = 128  # landmarks a cell of the index
_COARSE, _FINE = 2, 3  # cells of the index that a landmark is led to, and smaller ones in each
_ROUNDS = 6
_MOST, _LEAST, _MATCHES = 16, 4, 100_000_000  # matches of one landmark in one part of the index, fewer where they might become too many
_BATCH = 1 << 14
_TOO_MANY = 2048  # landmarks in a cell: all of one place that hundreds of tiles show; some of them stand for all
_AT_ONCE = 1 << 22  # distances

_LAYOUT = np.arange(128).reshape(4, 4, 8)
MIRROR = _LAYOUT[::-1][:, :, -np.arange(8) % 8].ravel()
"""Where the 128 numbers of a SIFT descriptor go when the picture is mirrored."""


@dataclass(frozen=True)
class Landmarks:
    """Landmarks of N tiles, those of tile `i` at ``start[i]:start[i + 1]``.

    `place` (n,) complex64, x + iy in pixels of the tile, pixel centres at whole numbers; `turn` (n,) complex64, direction times size in
    pixels; `code` (n, `CODE`) int8, and `signs` (`CODE`,) int8 that turn it into that of the mirror image.
    """

    start: np.ndarray
    place: np.ndarray
    turn: np.ndarray
    code: np.ndarray
    signs: np.ndarray

    def of(self, i: int) -> slice:
        """Where the landmarks of tile `i` stand."""
        return slice(int(self.start[i]), int(self.start[i + 1]))

    def only(self, tiles: Sequence[int]) -> Landmarks:
        """The landmarks of some tiles, numbered anew in this order."""
        here = [self.of(i) for i in tiles]
        start = np.concatenate([[0], np.cumsum([part.stop - part.start for part in here])]).astype(np.int64)
        which = np.concatenate([np.arange(part.start, part.stop) for part in here]) if here else np.zeros(0, np.int64)
        return Landmarks(start, self.place[which], self.turn[which], self.code[which], self.signs)

    @property
    def tile(self) -> np.ndarray:
        """(n,) int32, the tile of each landmark."""
        return np.repeat(np.arange(len(self.start) - 1, dtype=np.int32), np.diff(self.start))


def reduced(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """A tile as landmarks are sought in it.

    Args:
        image: (H, W, C) of any dtype; values that are not finite count as no data.

    Returns:
        (h, w) uint8, grey, stretched; (h, w) bool, True where there is ground and not the edge of an area without data; and by how much
        the tile was reduced, 1 or 2.
    """
    factor = 2 if min(image.shape[:2]) >= _REDUCED_FROM else 1
    if image.dtype == np.uint8 and image.shape[2] in (1, 3):
        grey = image[:, :, 0] if image.shape[2] == 1 else cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
        empty = (grey <= _BLACK) | (grey >= _WHITE)
        values = grey.astype(np.float32)
        noise_floor = 1.0
    else:
        with np.errstate(invalid="ignore", over="ignore"):  # infinities of both signs, or numbers beyond float32: no data
            values = image.mean(2, dtype=np.float32)
        is_finite = np.isfinite(values)
        if not is_finite.any():
            values = np.zeros(values.shape, np.float32)
        empty = ~is_finite | (values == np.min(values, where=is_finite, initial=np.inf))
        empty |= values == np.max(values, where=is_finite, initial=-np.inf)
        values = np.where(is_finite, values, np.float32(np.median(values[is_finite])) if is_finite.any() else np.float32(0))
        noise_floor = 0.0
    if factor > 1:
        size = (values.shape[1] // factor, values.shape[0] // factor)
        values = np.asarray(cv2.resize(values[: size[1] * factor, : size[0] * factor], size, interpolation=cv2.INTER_AREA), np.float32)
        empty = cv2.resize(empty[: size[1] * factor, : size[0] * factor].view(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    ground = _ground(empty)
    seen = values[ground]
    if not seen.size:
        return np.zeros(values.shape, np.uint8), ground, factor
    middle, spread = float(seen.mean(dtype=np.float64)), float(seen.std(dtype=np.float64))
    gain = 0.0 if spread <= 1e-6 * max(abs(middle), 1e-30) else _CONTRAST / spread
    if noise_floor:
        gain = min(gain, _GAIN)
    stretched = np.clip((values - np.float32(middle)) * np.float32(gain) + 128, 0, 255)
    return np.where(ground, stretched, 128).astype(np.uint8), ground, factor


def find_landmarks(read: Callable[[int], np.ndarray], tiles: Sequence[int], *, workers: int | None = None) -> Landmarks:
    """Find the landmarks of tiles.

    Args:
        read: Tile number → its image (H, W, C); called from several threads.
        tiles: Their numbers; the k-th is tile k of the result.
        workers: Threads; every core when None.
    """
    chosen = np.unique(np.linspace(0, max(len(tiles) - 1, 0), min(_SAMPLE_TILES, len(tiles))).round().astype(int))
    sample = [found[2] for found in parallel_map(lambda k: _describe(read(tiles[k])), chosen.tolist(), workers=workers)]
    basis, middle, signs = _learn(np.concatenate(sample) if sample else np.zeros((0, 128), np.float32))

    def job(i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        place, turn, described = _describe(read(i))
        return place, turn, _encode(described, basis, middle)

    parts = list(progress(parallel_map(job, tiles, workers=workers), "landmarks", len(tiles)))
    start = np.concatenate([[0], np.cumsum([len(part[0]) for part in parts])]).astype(np.int64)
    place, turn, code = ([part[k] for part in parts] for k in range(3))
    if not parts:
        return Landmarks(start, np.zeros(0, np.complex64), np.zeros(0, np.complex64), np.zeros((0, CODE), np.int8), signs)
    return Landmarks(start, np.concatenate(place), np.concatenate(turn), np.concatenate(code), signs)


def find_alike(marks: Landmarks, sides: np.ndarray, *, workers: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find landmarks of different tiles that may show the same place.

    A two-level index (k-means, as in Jégou et al. 2010) leads each landmark, as it is and mirrored, to the cells next to it.

    Args:
        marks: From `find_landmarks`.
        sides: (N,) a value a tile; only landmarks of tiles with different values are compared.
        workers: Threads; every core when None.

    Returns:
        (M,) int64 and (M,) int64, numbers of landmarks, that of the tile with the smaller number first; and (M,) bool, True where one is
        like the mirror image of the other. No pair stands there twice.
    """
    count = len(marks.code)
    tile = marks.tile
    _, side = np.unique(sides, return_inverse=True)
    side = side.astype(np.int32)
    largest = np.bincount(side).argmax() if len(side) else 0
    # One of any two sides is not the largest: asking from there finds all.
    asks = np.flatnonzero(side[tile] != largest)
    if not len(asks):
        nothing = np.zeros(0, np.int64)
        return nothing, nothing, np.zeros(0, bool)
    every = np.linspace(0, count - 1, min(count, _SAMPLE_CODES)).astype(np.int64)
    centres = _cluster(marks.code[every], max(1, round(math.sqrt(count / _CROWD))))

    def nearest(which: np.ndarray | slice, signs: np.ndarray | int, number: int) -> np.ndarray:
        return _nearest(marks.code[which] * signs, centres, number)

    batches = [slice(at, at + _BATCH) for at in range(0, count, _BATCH)]
    home = np.concatenate(list(parallel_map(partial(nearest, signs=1, number=1), batches, workers=workers)))[:, 0]
    order, firsts = _by_cell(home, len(centres))
    visits = []
    for signs in (1, marks.signs):
        asking = [asks[at : at + _BATCH] for at in range(0, len(asks), _BATCH)]
        cells = np.concatenate(list(parallel_map(partial(nearest, signs=signs, number=_COARSE), asking, workers=workers)))
        who, begins = _by_cell(cells.ravel(), len(centres))
        visits.append((who // cells.shape[1], begins))
    side_of = side[tile]
    most = int(np.clip(_MATCHES // (2 * _COARSE * len(asks)), _LEAST, _MOST))
    reach = _ALIKE * min(1.0, (_ALIKE_COUNT / count) ** (1 / _ALIKE_POWER))

    def job(cell: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        straight, mirrored = (np.sort(asks[who[begins[cell] : begins[cell + 1]]]) for who, begins in visits)
        known = order[firsts[cell] : firsts[cell + 1]]
        return _compare(marks, side_of, known, straight, mirrored, reach, most)

    jobs = parallel_map(job, range(len(centres)), workers=workers)
    found = list(progress(jobs, "comparing landmarks", len(centres), unit="cells"))
    first, second, mirrored = (np.concatenate([part[k] for part in found]) for k in range(3))
    key = np.unique((np.minimum(first, second).astype(np.int64) * count + np.maximum(first, second)) * 2 + mirrored)
    return key // 2 // count, key // 2 % count, key % 2 == 1


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of codes (n, `CODE`) and (m, `CODE`) int8: (n, m) float32, exact."""
    # One product, with the squares as two more columns: no sum on the way is beyond float32's whole numbers.
    left, right = np.ones((len(a), CODE + 2), np.float32), np.ones((len(b), CODE + 2), np.float32)
    left[:, :CODE], right[:, :CODE] = a, b
    left[:, CODE], right[:, CODE + 1] = np.square(left[:, :CODE]).sum(1), np.square(right[:, :CODE]).sum(1)
    right[:, :CODE] *= -2
    return np.asarray(left @ right.T)


def _ground(empty: np.ndarray) -> np.ndarray:
    if not empty.any():
        return np.ones(empty.shape, bool)
    wide = cv2.erode(empty.view(np.uint8), np.ones((_HOLE, _HOLE), np.uint8), borderType=cv2.BORDER_REPLICATE)
    if not wide.any():
        return np.ones(empty.shape, bool)
    reach = _HOLE + 2 * (_RIM - _HOLE // 2)
    return np.asarray(cv2.dilate(wide, np.ones((reach, reach), np.uint8)) == 0)


def _describe(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places, turns and descriptors (n, 128) of one tile."""
    nothing = np.zeros(0, np.complex64), np.zeros(0, np.complex64), np.zeros((0, 128), np.float32)
    grey, ground, factor = reduced(image)
    if min(grey.shape) < _LEAST_SIDE:
        return nothing
    # A detector of its own a call: OpenCV does not say that one may serve several threads.
    sift = cv2.SIFT.create(nfeatures=0, contrastThreshold=_FAINT, enable_precise_upscale=True)
    points = _spread(sift.detect(grey, None), ground, max(_PER_AREA, _PER_AREA * image.shape[0] * image.shape[1] // _AREA))
    if not points:
        return nothing
    kept, described = sift.compute(grey, points)
    numbers = np.asarray([(*point.pt, point.size, point.angle) for point in kept], np.float32)
    place = (numbers[:, :2] + 0.5) * factor - 0.5
    angle = np.deg2rad(numbers[:, 3])
    turn = (np.cos(angle) + 1j * np.sin(angle)) * numbers[:, 2] * factor
    return (place[:, 0] + 1j * place[:, 1]).astype(np.complex64), turn.astype(np.complex64), np.asarray(described)


def _spread(points: Sequence[cv2.KeyPoint], ground: np.ndarray, most: int) -> list[cv2.KeyPoint]:
    """Those on the ground: the strongest of each cell, then the second of each, and so on."""
    if not points:
        return []
    # One call a column: a point's numbers are slow to ask for.
    x, y, strength, angle = np.asarray([(*point.pt, point.response, point.angle) for point in points], np.float32).T
    column, row = x.astype(np.int64), y.astype(np.int64)
    order = np.lexsort((angle, y, x, -strength))
    order = order[ground[row[order], column[order]]]
    cell = (column // _CELL * (1 + ground.shape[0] // _CELL) + row // _CELL)[order]
    by_cell = np.argsort(cell, kind="stable")
    first = np.searchsorted(cell[by_cell], cell[by_cell])
    place = np.empty(len(order), np.int64)
    place[by_cell] = np.arange(len(order)) - first
    return [points[k] for k in order[np.argsort(place, kind="stable")[:most]].tolist()]


def _roots(described: np.ndarray) -> np.ndarray:
    return np.asarray(np.rint(np.sqrt(described / np.maximum(described.sum(1, keepdims=True), 1)) * 255), np.float32)


def _learn(described: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Principal axes (128, CODE) of descriptors and their mirror images, in whole numbers; their middle; and the signs of mirroring."""
    roots = _roots(described).astype(np.float64)
    both = np.concatenate([roots, roots[:, MIRROR]]) if len(roots) else np.zeros((1, 128))
    middle = np.rint(both.mean(0))
    covariance = (both.T @ both) / len(both) - np.outer(both.mean(0), both.mean(0))
    values, axes, signs = [], [], []
    for sign in (1, -1):
        project = (np.eye(128) + sign * np.eye(128)[MIRROR]) / 2
        found, vectors = np.linalg.eigh(project @ covariance @ project)
        values.append(found)
        axes.append((vectors + sign * vectors[MIRROR]) / 2)
        signs.append(np.full(128, sign, np.int8))
    chosen = np.argsort(-np.concatenate(values), kind="stable")[:CODE]
    basis = np.rint(np.concatenate(axes, 1)[:, chosen] * _UNIT)
    return basis.astype(np.float32), middle.astype(np.float32), np.concatenate(signs)[chosen]


def _encode(described: np.ndarray, basis: np.ndarray, middle: np.ndarray) -> np.ndarray:
    code = np.rint((_roots(described) - (middle + middle[MIRROR]) / 2) @ basis * np.float32(_SCALE))
    return np.asarray(np.clip(code, -127, 127), np.int8)


def _cluster(codes: np.ndarray, count: int) -> np.ndarray:
    """k-means (Lloyd 1982) from evenly spread beginnings: (≤ count, CODE) int8 centres."""
    centres = np.unique(codes[np.linspace(0, len(codes) - 1, min(count, len(codes))).astype(np.int64)], axis=0)
    if len(centres) == 1:
        return centres
    for _ in range(_ROUNDS):
        home = np.concatenate([_nearest(codes[at : at + _BATCH], centres, 1)[:, 0] for at in range(0, len(codes), _BATCH)])
        order = np.argsort(home, kind="stable")
        first = np.unique(home[order], return_index=True)[1]
        sums = np.add.reduceat(codes[order].astype(np.int64), first, axis=0)
        sizes = np.diff(np.append(first, len(codes)))
        centres = np.rint(sums / sizes[:, None]).astype(np.int8)
    return centres


def _nearest(codes: np.ndarray, centres: np.ndarray, count: int) -> np.ndarray:
    """Numbers (n, ≤ count) int32 of the centres nearest to each code, the nearest first."""
    distances, found = squared_distances(codes, centres), []
    for _ in range(min(count, len(centres))):
        found.append(distances.argmin(1).astype(np.int32))
        distances[np.arange(len(codes)), found[-1]] = np.inf
    return np.stack(found, 1)


def _by_cell(cells: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of what lies in each cell, cell by cell, and (count + 1,) where each cell's begin."""
    return np.argsort(cells.astype(np.uint16), kind="stable"), np.concatenate([[0], np.cumsum(np.bincount(cells, minlength=count))])


def _compare(
    marks: Landmarks, side: np.ndarray, known: np.ndarray, straight: np.ndarray, mirrored: np.ndarray, reach: float, most: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matches within one coarse cell of the index."""
    asks = np.concatenate([straight, mirrored])
    if not len(known) or not len(asks):
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, bool)
    is_mirrored = np.arange(len(asks)) >= len(straight)
    asked = np.concatenate([marks.code[straight], marks.code[mirrored] * marks.signs])
    codes = marks.code[known]
    centres = _cluster(codes[:: max(1, len(codes) // 8192)], max(1, len(codes) // _CROWD))
    home = np.concatenate([_nearest(codes[at : at + _BATCH], centres, 1)[:, 0] for at in range(0, len(codes), _BATCH)])
    visited = np.concatenate([_nearest(asked[at : at + _BATCH], centres, _FINE) for at in range(0, len(asked), _BATCH)])
    known_order, known_begins = _by_cell(home, len(centres))
    visitor, visit_begins = _by_cell(visited.ravel(), len(centres))
    visitor //= visited.shape[1]
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))]
    for cell in range(len(centres)):
        here = known_order[known_begins[cell] : known_begins[cell + 1]]
        here = here[:: 1 + len(here) // _TOO_MANY]
        rows_at_once = _AT_ONCE // max(1, len(here))
        for at in range(visit_begins[cell], visit_begins[cell + 1], rows_at_once):
            who = visitor[at : min(at + rows_at_once, visit_begins[cell + 1])]
            distances = squared_distances(asked[who], codes[here])
            near = np.flatnonzero(distances <= reach * reach)  # in a ninth of the time of `nonzero` in two dimensions
            rows, columns = np.divmod(near, max(1, len(here)))
            differs = side[asks[who[rows]]] != side[known[here[columns]]]
            rows, columns = rows[differs], columns[differs]
            parts.append((who[rows], known[here[columns]], distances[rows, columns]))
    who, found, distances = (np.concatenate([part[k] for part in parts]) for k in range(3))
    order = np.lexsort((found, distances, who))
    order = order[np.arange(len(who)) - np.searchsorted(who[order], who[order]) < most]
    return asks[who[order]].astype(np.int32), found[order].astype(np.int32), is_mirrored[who[order]]
