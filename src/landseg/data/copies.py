"""Tiles that are copies of one another: equal pixels, their eight flips and quarter turns, and re-encodes. It knows no files, no labels.

Every tile gets a small *signature* that no flip or turn changes. Equal keys in it make candidates for exact copies, near thumbnails
candidates for re-encodes; pixels decide. Nothing grows with the square of the number of tiles.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import xxhash
from scipy.spatial import cKDTree

from landseg.core.machine import cores
from landseg.core.progress import parallel_map, progress

TURNS = (
    "same",
    "flipped left-right",
    "turned 180°",
    "flipped upside down",
    "flipped along the main diagonal",
    "turned 90° clockwise",
    "flipped along the other diagonal",
    "turned 90° anticlockwise",
)
"""The eight ways a tile can lie, in the order of `turned`."""

_KEY, _GRID = 4, 8
LENGTH = _KEY + 1 + _GRID * _GRID
"""Numbers in a signature: the key of its pixels, its contrast, and its thumbnail with the cells that turns exchange in order of value."""

_FLAT, _EXACT_ONLY = 0.0, -1.0  # contrasts of tiles that match nothing, or nothing but their equals
_LEAST_CONTRAST = 1.0  # grey levels between the cells of a thumbnail; below it, thumbnails of different ground agree by chance
_CELL, _MEAN_CELL, _ORBIT = 6.0, 1.5, 3.0  # grey levels: the largest and the mean difference of cells, of orbits' means
_APART = 1e-3  # grey levels
_NEIGHBOURS = 8
_SHARP_EDGE = 64  # pixels; what a re-encode keeps of an image at this size is nearly everything
_SHARP, _FULL = 0.05, 0.4  # of the variance: how much may differ at that size, and pixel by pixel
_STRIP = 1 << 18  # values hashed together
_EXACT_FLOAT = 1 << 24  # OpenCV counts in float32


@dataclass(frozen=True)
class Copy:
    """Tile `b` is tile `a` after `turn`, to the last pixel (`is_exact`) or but for another encoding."""

    a: int
    b: int
    turn: str
    is_exact: bool


def turned(pixels: np.ndarray, turn: str) -> np.ndarray:
    """An array (H, W, …) after one of `TURNS`, as a view."""
    number = TURNS.index(turn)
    result = pixels.swapaxes(0, 1) if number & 4 else pixels
    result = result[:, ::-1] if number in (1, 2, 5, 6) else result
    return result[::-1] if number in (2, 3, 6, 7) else result


def band_histograms(image: np.ndarray) -> np.ndarray:
    """Pixels of each value in each band of an 8-bit image (H, W, C): (C, 256) int64."""
    bands = image.shape[2]
    if 0 < image.shape[0] * image.shape[1] < _EXACT_FLOAT and bands <= 4 and image.dtype == np.uint8:
        counted = [cv2.calcHist([image], [band], None, [256], [0, 256]).ravel() for band in range(bands)]
        return np.asarray(counted, np.int64)
    return np.stack([np.bincount(image[:, :, band].ravel().view(np.uint8), minlength=256) for band in range(bands)]).astype(np.int64)


def signature(image: np.ndarray, histograms: np.ndarray | None = None) -> np.ndarray:
    """A small description of a tile that is the same for all its flips and quarter turns.

    Args:
        image: (H, W, C) of any dtype.
        histograms: From `band_histograms`, where the caller has them.

    Returns:
        (`LENGTH`,) float32.
    """
    height, width, bands = image.shape
    if image.dtype.itemsize == 1:
        counts = band_histograms(image) if histograms is None else histograms
        content = counts.tobytes()
        is_flat = bool(((counts > 0).sum(1) <= 1).all())
    else:
        content, is_flat = _multiset(image)
    digest = xxhash.xxh3_64(content)
    digest.update(f"{min(height, width)} {max(height, width)} {bands} {image.dtype}".encode())
    result = np.zeros(LENGTH, np.float32)
    result[:_KEY] = np.frombuffer(digest.digest(), np.uint16)
    result[_KEY] = _FLAT if is_flat else _EXACT_ONLY
    if is_flat or image.dtype != np.uint8 or min(height, width) < 2 * _GRID:
        return result
    cells = cv2.resize(_grey(image), (_GRID, _GRID), interpolation=cv2.INTER_AREA).ravel()
    contrast = float(cells.std())
    if contrast >= _LEAST_CONTRAST:
        result[_KEY] = contrast
        result[_KEY + 1 :] = np.concatenate([np.sort(cells[orbit]) for orbit in _ORBITS])
    return result


def find_copies(signatures: np.ndarray, read: Callable[[int], np.ndarray], *, across: np.ndarray | None = None) -> list[Copy]:
    """Find the tiles that are copies of one another.

    Args:
        signatures: (N, `LENGTH`) float32, from `signature`.
        read: Tile number → its image (H, W, C); called for candidates alone, from several threads.
        across: (N,) bool; only pairs with one tile on each side are looked for.

    Returns:
        Pairs ``a < b`` in order. A tile with several exact copies is paired once with each of them, the copies not among
        themselves. Tiles of one colour throughout match nothing.
    """
    side = np.zeros(len(signatures), bool) if across is None else np.asarray(across, bool)
    buckets: defaultdict[bytes, list[int]] = defaultdict(list)
    for i in np.flatnonzero(signatures[:, _KEY] != _FLAT):
        buckets[signatures[i, :_KEY].tobytes()].append(int(i))
    wanted = [bucket for bucket in buckets.values() if len(bucket) > 1 and (across is None or len(set(side[bucket])) == 2)]
    copies = _equal([i for bucket in wanted for i in bucket], read)
    copies = _one_each(copies, side) if across is not None else copies
    again = np.zeros(len(signatures), bool)
    if across is None:
        again[[copy.b for copy in copies]] = True
    known = {(copy.a, copy.b) for copy in copies}
    pairs = [pair for pair in _near(signatures, again, None if across is None else side) if pair not in known]
    tried = parallel_map(lambda pair: _re_encode(*pair, read), pairs)
    copies += [copy for copy in progress(tried, "comparing", len(pairs), unit="candidates") if copy]
    return sorted(copies, key=lambda copy: (copy.a, copy.b))


def compose(first: str, second: str) -> str:
    """The one turn that does what `first` and then `second` do."""
    done = turned(turned(_PROBE, first), second)
    return next(turn for turn in TURNS if np.array_equal(turned(_PROBE, turn), done))


def inverse(turn: str) -> str:
    """The turn that undoes `turn`."""
    return next(back for back in TURNS if compose(turn, back) == "same")


def group_copies(copies: Iterable[Copy]) -> list[tuple[tuple[int, ...], tuple[str, ...], bool]]:
    """Pairs → groups: (tiles, how each lies against the first, whether all are equal to the last pixel), by first tile."""
    beside: defaultdict[int, list[tuple[int, str, bool]]] = defaultdict(list)
    for copy in copies:
        beside[copy.a].append((copy.b, copy.turn, copy.is_exact))
        beside[copy.b].append((copy.a, inverse(copy.turn), copy.is_exact))
    groups: list[tuple[tuple[int, ...], tuple[str, ...], bool]] = []
    seen: set[int] = set()
    for start in sorted(beside):
        if start in seen:
            continue
        turns, exact, waiting = {start: "same"}, True, [start]
        while waiting:
            here = waiting.pop()
            for other, turn, is_exact in beside[here]:
                exact &= is_exact
                if other not in turns:
                    turns[other] = compose(turns[here], turn)
                    waiting.append(other)
        seen |= turns.keys()
        tiles = tuple(sorted(turns))
        groups.append((tiles, tuple(turns[tile] for tile in tiles), exact))
    return groups


def _orbits() -> list[np.ndarray]:
    """Cells of the thumbnail that the eight turns exchange, as flat indices."""
    numbers = np.arange(_GRID * _GRID).reshape(_GRID, _GRID)
    every = np.stack([turned(numbers, turn).ravel() for turn in TURNS])
    return [np.asarray(orbit) for orbit in sorted({tuple(sorted(set(every[:, cell].tolist()))) for cell in range(_GRID * _GRID)})]


_PROBE = np.arange(4).reshape(2, 2)
_ORBITS = _orbits()


def _multiset(image: np.ndarray) -> tuple[bytes, bool]:
    """A hash of each band's values that does not ask where they stand, and whether every band holds one value alone."""
    sums, is_flat = [], True
    for band in range(image.shape[2]):
        plane = np.ascontiguousarray(image[:, :, band]).ravel()
        values = plane.view(f"u{plane.dtype.itemsize}")
        is_flat &= bool((values == values[0]).all())
        total = 0
        for start in range(0, len(values), _STRIP):
            bits = values[start : start + _STRIP].astype(np.uint64)
            # Source: the finaliser of MurmurHash3 (Austin Appleby), so that a sum of hashes tells sets of values apart.
            for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
                bits ^= bits >> np.uint64(33)
                bits *= np.uint64(factor)
            total += int((bits ^ (bits >> np.uint64(33))).sum(dtype=np.uint64))
        sums.append(total % (1 << 64))
    return np.asarray(sums, np.uint64).tobytes(), is_flat


def _equal(tiles: Sequence[int], read: Callable[[int], np.ndarray]) -> list[Copy]:
    """The exact copies among tiles, each paired with the first tile that it equals. No pixels are kept: tiles are read again to be sure."""
    firsts: dict[bytes, int] = {}
    hashed = parallel_map(lambda i: _canonical(read(i)), tiles)
    pairs = [(firsts.setdefault(key, i), i) for i, key in zip(tiles, progress(hashed, "comparing", len(tiles)), strict=True)]
    pairs = [(first, i) for first, i in pairs if first != i]
    tried = parallel_map(lambda pair: _exact(*pair, read), pairs)
    return [copy for copy in progress(tried, "comparing", len(pairs), unit="candidates") if copy]


def _canonical(image: np.ndarray) -> bytes:
    """A hash of where each value stands that is the same for all turns of a tile."""
    lying = (np.ascontiguousarray(turned(image, turn)) for turn in TURNS)
    return min(xxhash.xxh3_128_digest(f"{pixels.shape} {pixels.dtype}".encode() + pixels.tobytes()) for pixels in lying)


def _exact(a: int, b: int, read: Callable[[int], np.ndarray]) -> Copy | None:
    first, second = read(a), read(b)
    turn = next((turn for turn in TURNS if _is_equal(turned(first, turn), second)), None)
    return None if turn is None else Copy(a, b, turn, True)


def _is_equal(a: np.ndarray, b: np.ndarray) -> bool:
    # As bits: a tile with NaN is a copy of itself.
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.dtype.kind != "f":
        return bool(np.array_equal(a, b))
    kind = f"u{a.dtype.itemsize}"
    return bool(np.array_equal(np.ascontiguousarray(a).view(kind), np.ascontiguousarray(b).view(kind)))


def _one_each(copies: list[Copy], side: np.ndarray) -> list[Copy]:
    """Exact copies as pairs across: every tile with the first copy on the other side."""
    result = {}
    for tiles, turns, _ in group_copies(copies):
        how = dict(zip(tiles, turns, strict=True))
        firsts = {flag: next((tile for tile in tiles if side[tile] == flag), None) for flag in (False, True)}
        for tile in tiles:
            other = firsts[not side[tile]]
            if other is not None:
                a, b = min(tile, other), max(tile, other)
                result[a, b] = Copy(a, b, compose(inverse(how[a]), how[b]), True)
    return list(result.values())


def _near(signatures: np.ndarray, leave: np.ndarray, side: np.ndarray | None) -> list[tuple[int, int]]:
    """Pairs whose thumbnails agree but for what another encoding changes."""
    usable = np.flatnonzero((signatures[:, _KEY] > 0) & ~leave)
    cells = signatures[usable, _KEY + 1 :]
    ends = np.cumsum([len(orbit) for orbit in _ORBITS])[:-1]
    orbits = np.stack([part.mean(1) for part in np.split(cells, ends, axis=1)], 1) if len(usable) else np.zeros((0, len(_ORBITS)))
    # Apart by next to nothing: the tree does not divide equal points, and a search among them would look at each.
    orbits += np.random.default_rng(0).uniform(-_APART, _APART, orbits.shape)
    sides = [(np.arange(len(usable)),) * 2] if side is None else [(np.flatnonzero(side[usable]), np.flatnonzero(~side[usable]))]
    pairs: set[tuple[int, int]] = set()
    for asked, known in sides:
        if not len(asked) or not len(known):
            continue
        tree = cKDTree(orbits[known])
        _, near = tree.query(orbits[asked], k=range(1, _NEIGHBOURS + 2), p=np.inf, distance_upper_bound=_ORBIT, workers=cores())
        rows, columns = np.nonzero(near < len(known))
        a, b = asked[rows], known[near[rows, columns]]
        for start in range(0, len(a), 1 << 18):
            i, j = a[start : start + (1 << 18)], b[start : start + (1 << 18)]
            apart = np.abs(cells[i] - cells[j])
            is_near = (i != j) & (apart.max(1) <= _CELL) & (apart.mean(1) <= _MEAN_CELL)
            pairs |= {(int(min(x, y)), int(max(x, y))) for x, y in zip(usable[i[is_near]], usable[j[is_near]], strict=True)}
    return sorted(pairs)


def _re_encode(a: int, b: int, read: Callable[[int], np.ndarray]) -> Copy | None:
    """Whether two tiles show the same picture but for its encoding."""
    first, second = read(a), read(b)
    if first.shape[2] != second.shape[2] or first.dtype != second.dtype:
        return None
    pictures = [_grey(image).astype(np.float32) for image in (first, second)]
    small, other = (cv2.resize(picture, _sharp_size(picture), interpolation=cv2.INTER_AREA) for picture in pictures)
    spread = float(small.var())
    for turn in TURNS:
        lying = turned(small, turn)
        if lying.shape != other.shape or float(((lying - other) ** 2).mean()) > _SHARP * spread:
            continue
        whole = turned(pictures[0], turn)
        if whole.shape == pictures[1].shape and float(((whole - pictures[1]) ** 2).mean()) <= _FULL * float(whole.var()):
            return Copy(a, b, turn, is_exact=_is_equal(turned(first, turn), second))
    return None


def _sharp_size(picture: np.ndarray) -> tuple[int, int]:
    """(width, height) for OpenCV: the picture's own where it is small already."""
    return min(_SHARP_EDGE, picture.shape[1]), min(_SHARP_EDGE, picture.shape[0])


def _grey(image: np.ndarray) -> np.ndarray:
    if image.shape[2] == 3:
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
    if image.shape[2] == 1:
        return image[:, :, 0]
    return np.asarray(image.mean(2).astype(np.uint8))
