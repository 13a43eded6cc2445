"""Areas that grow together from where a landscape is low until they meet: a watershed that is the same whatever is held at once.

It knows heights and kinds of pixels, not what they mean, and reads no files.

The rule: passes between neighbouring pixels (by their edges) are taken from the lowest to the highest; a pass is as high as the higher of
its two pixels. At each, the areas on its two sides join, unless they are of two kinds, or both are *deep*: they reach down at least `depth`
below it. What is *free* has no kind and no depth: it joins what it first meets, and takes its kind.
Source: that is Kruskal's minimum spanning forest, whose areas are those of a watershed (Cousty, Bertrand, Najman & Couprie 2009,
doi:10.1109/TPAMI.2008.173); areas that are not deep are left out by their dynamics (Grimaud 1992; Najman & Schmitt 1996).

Kruskal goes pass by pass; here all joins that are *sure* are made at once. Take an area and its lowest pass. Until Kruskal comes to that
pass nothing joins the area, so it is decided already: if it is free it joins whatever lies there then; if it is not deep it joins one of
its own kind; and to have joined before changes nothing, because a free area brings no kind and no depth, and a shallow one no depth that
would count at a lower pass. So parts of a raster can be settled one by one, as long as areas wait whose lowest pass leads out of the part.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from landseg.product.components import OUTSIDE, Runs, find_runs, join

FREE, NOWHERE = -1, -2
"""Kinds of pixels that are of no class yet, and of those that belong to nothing; others are 0 and up."""

HIGHEST = (1 << 12) - 1
"""The largest height."""

_BEYOND = -3
"""The kind of what lies outside the strip that is settled: any."""

_INDEX_BITS, _HEIGHT_BITS = 40, 12
"""Of the number by which passes are ordered: its height, the height of its lower pixel, its place. No two passes have the same.

Of places those along rows come first. So flat ground joins row by row, and of a flat part of a strip one area waits for the strips beside
it, where each column would wait by itself if those down the columns came first.
"""

_NO_HEIGHT = np.uint16(0xFFFF)


class Strip(NamedTuple):
    """Some rows of a landscape, and the row above and the row below them (`NOWHERE` beyond the raster).

    Args:
        kind: (rows + 2, width) int16: a class id, `FREE` or `NOWHERE`.
        height: (rows + 2, width) uint16, 0 to `HIGHEST`.
    """

    kind: np.ndarray
    height: np.ndarray


class _Passes(NamedTuple):
    """Passes between areas.

    Args:
        one: (M,) int32, the area on one side.
        other: (M,) int32, the area on the other.
        key: (M,) uint64, what orders them.
    """

    one: np.ndarray
    other: np.ndarray
    key: np.ndarray

    def only(self, chosen: np.ndarray) -> _Passes:
        """Those that (M,) bool, or indices, choose."""
        return _Passes(self.one[chosen], self.other[chosen], self.key[chosen])


class _Areas(NamedTuple):
    """Areas that are being joined.

    Args:
        kind: (N,) int16.
        low: (N,) int32, height of the lowest pixel that is not free; high above all where there is none.
    """

    kind: np.ndarray
    low: np.ndarray


def flood(strips: Iterable[Strip], height: int, width: int, depth: int) -> tuple[Runs, np.ndarray]:
    """The areas of a landscape; each is connected by the edges of its pixels.

    Args:
        strips: From top to bottom, together `height` rows. How many rows each has changes no result.
        height: Rows of the raster.
        width: Columns of the raster.
        depth: By how much the pass between two areas of one kind must lie above the lowest pixel of each of them, above 0.

    Returns:
        Runs labelled 0..N-1 in the order of the areas' first pixels, `OUTSIDE` elsewhere; and (N,) int16, the kind of each: `FREE` where
        free pixels meet nothing else.
    """
    forest = _Forest(width, depth)
    runs = find_runs(map(forest.grow, strips), height, width, OUTSIDE, np.int32)
    group, areas, _ = _settle(forest.areas(), forest.passes(), depth)
    is_inside = runs.value != OUTSIDE
    labels = runs.value.copy()
    labels[is_inside] = group[labels[is_inside]]
    seen, first = np.unique(labels[is_inside], return_index=True)
    number = np.empty(len(areas.kind), np.int32)
    number[seen[np.argsort(first)]] = np.arange(len(seen), dtype=np.int32)
    labels[is_inside] = number[labels[is_inside]]
    kind = np.empty_like(areas.kind)
    kind[number] = areas.kind
    return runs.with_labels(labels), kind


class _Forest:
    """What is known of the strips that were settled, each by itself."""

    def __init__(self, width: int, depth: int) -> None:
        self._width, self._depth, self._row, self._count = width, depth, 0, 0
        self._areas: list[_Areas] = [_Areas(np.empty(0, np.int16), np.empty(0, np.int32))]
        self._passes: list[_Passes] = [_Passes(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.uint64))]
        self._last = np.full(width, OUTSIDE, np.int32)

    def areas(self) -> _Areas:
        """Those of all strips."""
        return _Areas(*(np.concatenate(items) for items in zip(*self._areas, strict=True)))

    def passes(self) -> _Passes:
        """Those that are not decided: they lead from strip to strip, or to areas that wait for such."""
        return _joined(self._passes)

    def grow(self, strip: Strip) -> np.ndarray:
        """Settle the next strip; (rows, width) int32, the number of each pixel's area among those of all strips."""
        labels = _downhill(strip, self._depth)
        areas = _areas_of(strip, labels)
        beyond = len(areas.kind)
        above, below = (_out_of(strip, labels, side, beyond, self._row) for side in (0, -1))
        passes = _joined([*_within(strip, labels, self._row), above, below])
        group, areas, passes = _settle(_Areas(np.append(areas.kind, np.int16(_BEYOND)), np.append(areas.low, 0)), passes, self._depth)
        # It joined nothing, so it still is the last: groups are counted by their first members.
        passes = passes.only((passes.one != len(areas.kind) - 1) & (passes.other != len(areas.kind) - 1))
        labels = np.where(labels == OUTSIDE, OUTSIDE, group[labels] + np.int32(self._count)).astype(np.int32)
        self._passes.append(_Passes(passes.one + np.int32(self._count), passes.other + np.int32(self._count), passes.key))
        self._passes.append(self._between(strip, labels))
        self._areas.append(_Areas(areas.kind[:-1], areas.low[:-1]))
        self._last, self._row, self._count = labels[-1], self._row + len(labels), self._count + len(areas.kind) - 1
        return labels

    def _between(self, strip: Strip, labels: np.ndarray) -> _Passes:
        """Passes from the strip before to this one."""
        is_open = _may_join(strip.kind[0], strip.kind[1])
        key = _keys(strip.height[0], strip.height[1], self._row - 1, 1)
        passes = _Passes(self._last[is_open], labels[0][is_open], key[is_open])
        return passes.only(_lowest_of_pairs(passes))


def _may_join(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Whether pixels of these kinds are ever of one area."""
    return np.asarray((one != NOWHERE) & (other != NOWHERE) & ((one == other) | (one == FREE) | (other == FREE)))


def _keys(one: np.ndarray, other: np.ndarray, row: int, way: int) -> np.ndarray:
    """What orders passes, from heights of pixels from `row` on and of their neighbours: to the right (`way` 0) or below (1)."""
    height, low = np.maximum(one, other).astype(np.uint64), np.minimum(one, other).astype(np.uint64)
    columns = one.shape[-1] + (way == 0)  # of neighbours to the right there is one less than columns
    rows = np.arange(row, row + (1 if one.ndim == 1 else len(one)), dtype=np.int64)
    place = rows[:, None] * columns + np.arange(one.shape[-1])
    place = np.maximum(place, 0).reshape(one.shape).astype(np.uint64)  # above the first row lies nothing
    place |= np.uint64(way << (_INDEX_BITS - 1))
    return np.asarray(height << np.uint64(_INDEX_BITS + _HEIGHT_BITS) | low << np.uint64(_INDEX_BITS) | place)


def _downhill(strip: Strip, depth: int) -> np.ndarray:
    """Join each pixel with its lowest neighbour where that is sure.

    Of all passes of a pixel the one to its lowest neighbour is the lowest, of equal ones the first of left, right, up and down, as the
    places in `_keys` have them.

    Returns:
        (rows, width) int32, the areas that come of it, `OUTSIDE` where there is nothing.
    """
    kind, height = strip.kind[1:-1], strip.height[1:-1]
    rows, width = kind.shape
    own = np.arange(rows * width, dtype=np.int32).reshape(rows, width)
    lowest, target = np.full((rows, width), _NO_HEIGHT), own.copy()
    for down, right in ((0, -1), (0, 1), (-1, 0), (1, 0)):
        here = slice(None), slice(max(0, -right), width - max(0, right))
        there = slice(1 + down, 1 + down + rows), slice(max(0, right), width - max(0, -right))
        beside, high = strip.kind[there], strip.height[there]
        is_better = _may_join(kind[here], beside) & (high < lowest[here])
        np.copyto(lowest[here], high, where=is_better)
        is_sure = (kind[here] == FREE) | ((kind[here] == beside) & (high < height[here].astype(np.int32) + depth))
        if down:
            is_sure[0 if down < 0 else -1] = False  # it leads out of the strip
        np.copyto(target[here], np.where(is_sure, own[here] + np.int32(down * width + right), own[here]), where=is_better)
    root = _roots(target.reshape(-1))
    is_inside = kind.reshape(-1) != NOWHERE
    number = np.cumsum((root == own.reshape(-1)) & is_inside, dtype=np.int32) - np.int32(1)
    return np.where(is_inside, number[root], np.int32(OUTSIDE)).reshape(rows, width)


def _roots(target: np.ndarray) -> np.ndarray:
    """Where one ends that goes from pixel to pixel; of two that lead to each other (no more can: passes are in order), at the first."""
    own = np.arange(len(target), dtype=target.dtype)
    target = np.where((target[target] == own) & (own < target), own, target)
    while True:
        further = target[target]
        if (further == target).all():
            return np.asarray(target)
        target = further


def _areas_of(strip: Strip, labels: np.ndarray) -> _Areas:
    """Kind and lowest pixel of each of the areas of `_downhill`."""
    kind, height = strip.kind[1:-1], strip.height[1:-1]
    count = int(labels.max(initial=OUTSIDE)) + 1
    kinds, low = np.full(count, FREE, np.int16), np.full(count, int(_NO_HEIGHT), np.int32)
    has_kind = kind >= 0
    kinds[labels[has_kind]] = kind[has_kind]
    np.minimum.at(low, labels[has_kind], height[has_kind].astype(np.int32))
    return _Areas(kinds, low)


def _within(strip: Strip, labels: np.ndarray, row: int) -> Iterator[_Passes]:
    """Passes between the areas of a strip whose first row is `row`."""
    kind, height = strip.kind[1:-1], strip.height[1:-1]
    for way, here, there in ((0, np.s_[:, :-1], np.s_[:, 1:]), (1, np.s_[:-1], np.s_[1:])):
        is_pass = _may_join(kind[here], kind[there]) & (labels[here] != labels[there])
        yield _Passes(labels[here][is_pass], labels[there][is_pass], _keys(height[here], height[there], row, way)[is_pass])


def _out_of(strip: Strip, labels: np.ndarray, side: int, beyond: int, row: int) -> _Passes:
    """Passes out of a strip, above it (`side` 0) or below (-1), to the area `beyond`."""
    edge, outer = (1, 0) if side == 0 else (-2, -1)
    is_open = _may_join(strip.kind[edge], strip.kind[outer])
    key = _keys(strip.height[edge], strip.height[outer], row - 1 if side == 0 else row + len(labels) - 1, 1)
    return _Passes(labels[side][is_open], np.full(int(is_open.sum()), beyond, np.int32), key[is_open])


def _joined(parts: list[_Passes]) -> _Passes:
    return _Passes(*(np.concatenate(items) for items in zip(*parts, strict=True)))


def _settle(areas: _Areas, passes: _Passes, depth: int) -> tuple[np.ndarray, _Areas, _Passes]:
    """Make every join that is sure, and those that are sure then, until none is.

    Returns:
        (N,) int32, the new number of each area, counted by their first members; the areas that are left; the passes that are undecided.
    """
    group: np.ndarray = np.arange(len(areas.kind), dtype=np.int32)
    passes = passes.only(np.argsort(passes.key))
    while True:
        passes = passes.only(_is_undecided(areas, passes, depth))
        sure = _sure(areas, passes, depth)
        if not sure.any():
            return group, areas, passes.only(_lowest_of_pairs(passes))
        step = join(len(areas.kind), np.stack([passes.one[sure], passes.other[sure]]))
        count = int(step.max()) + 1
        kind, low = np.full(count, -(1 << 15), np.int16), np.full(count, int(_NO_HEIGHT), np.int32)
        np.maximum.at(kind, step, areas.kind)  # one kind at most, and free ones, which are lower
        np.minimum.at(low, step, areas.low)
        group, areas, passes = step[group], _Areas(kind, low), _Passes(step[passes.one], step[passes.other], passes.key)


def _lowest_of_pairs(passes: _Passes) -> np.ndarray:
    """(K,) indices of the lowest pass between each two areas, in the order of all; where it joins them not, no higher one does."""
    low, high = np.minimum(passes.one, passes.other).astype(np.int64), np.maximum(passes.one, passes.other)
    pair = low << 32 | high
    order = np.lexsort((passes.key, pair))
    is_first = np.append(True, pair[order][1:] != pair[order][:-1])[: len(order)]
    return np.sort(order[is_first])


def _is_undecided(areas: _Areas, passes: _Passes, depth: int) -> np.ndarray:
    """(M,) bool: the areas may still join there. Two of two kinds never will, nor two deep ones: they only get deeper."""
    one, other = areas.kind[passes.one], areas.kind[passes.other]
    is_deep = ~_is_shallow(areas, passes.one, passes.key, depth) & ~_is_shallow(areas, passes.other, passes.key, depth)
    apart = (one >= 0) & (other >= 0) & ((one != other) | is_deep)
    return np.asarray((passes.one != passes.other) & ~apart)


def _is_shallow(areas: _Areas, which: np.ndarray, key: np.ndarray, depth: int) -> np.ndarray:
    """(M,) bool: areas that reach down less than `depth` below their passes."""
    height = (key >> np.uint64(_INDEX_BITS + _HEIGHT_BITS)).astype(np.int32)
    return np.asarray(height - areas.low[which] < depth)


def _sure(areas: _Areas, passes: _Passes, depth: int) -> np.ndarray:
    """(M,) bool of passes in their order: it is the lowest pass of an area that joins the other there whatever happens before."""
    count = len(passes.key)
    first = np.full(len(areas.kind), count, np.int64)
    for side in (passes.one, passes.other):
        lowest = np.full(len(areas.kind), count, np.int64)
        lowest[side[::-1]] = np.arange(count - 1, -1, -1)  # the last that is assigned stays
        np.minimum(first, lowest, out=first)
    at, sure = np.arange(count), np.zeros(count, bool)
    for side, there in ((passes.one, passes.other), (passes.other, passes.one)):
        own, beside = areas.kind[side], areas.kind[there]
        is_willing = ((own == FREE) & (beside != _BEYOND)) | ((own >= 0) & (own == beside) & _is_shallow(areas, side, passes.key, depth))
        sure |= (first[side] == at) & is_willing
    return sure
