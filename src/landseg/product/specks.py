"""Areas that are too small are given to their neighbours, until none is left. It knows runs and borders, not polygons or files.

The smallest goes first: an area below the limit joins the neighbour with which it has the longest common border (of several, the largest,
of those the first), once it is smaller than each neighbour that is too small as well. All that may go at once do, which is one *round*.
Neighbours of one class that meet so are one area from then on, where areas are what is connected; instances stay apart. What has no
neighbour stays, however small: no ground is lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from landseg.core.progress import progress
from landseg.product.components import OUTSIDE, Runs, contacts, join

_BORDER_UNITS = 1 << 16
"""Parts of the longer pixel edge in which borders are counted: whole numbers add up to the same in any order."""


class Areas(NamedTuple):
    """Connected areas, by label.

    Args:
        size: (N,) int64 ground, in any unit; whole, so that sums are exact.
        value: (N,) uint8 class ids.
        seat: (N,) int64 position of the first pixel; the order of these is that of the labels.
    """

    size: np.ndarray
    value: np.ndarray
    seat: np.ndarray


class _Borders(NamedTuple):
    """Common borders of areas ``low < high``, each pair once, and how long."""

    low: np.ndarray
    high: np.ndarray
    length: np.ndarray


def merge(runs: Runs, areas: Areas, limit: int, pixel: tuple[float, float], *, are_instances: bool = False) -> tuple[np.ndarray, Areas]:
    """Give every area smaller than `limit` to a neighbour.

    Args:
        runs: Labelled 0..N-1, `OUTSIDE` elsewhere.
        areas: What the labels stand for.
        limit: In the unit of ``areas.size``.
        pixel: Height and width of a pixel, in one unit: what a border's length is measured by.
        are_instances: Areas of one class may touch, and those that come to touch stay apart.

    Returns:
        (N,) int32: the new label of each; and the areas that are left.
    """
    new: np.ndarray = np.arange(len(areas.size), dtype=np.int32)
    if not (areas.size < limit).any():
        return new, areas
    borders = _borders(runs, areas.size < limit, pixel)
    for group, left, rest in progress(_rounds(areas, borders, limit, are_instances), "merging specks", unit="rounds"):
        new, areas, borders = group[new], left, rest
    return new, areas


def _rounds(areas: Areas, borders: _Borders, limit: int, are_instances: bool = False) -> Iterator[tuple[np.ndarray, Areas, _Borders]]:
    """New label of each area, the areas and their borders after each round."""
    while True:
        small = areas.size < limit
        touches = small[borders.low] | small[borders.high]
        borders = _Borders(*(item[touches] for item in borders))
        if not len(borders.low):
            return
        source, target, joined = _choices(areas, borders, small, are_instances)
        value = areas.value.copy()
        value[source] = areas.value[target]
        group = join(len(small), joined)
        count = int(group.max()) + 1
        size, seat = np.zeros(count, np.int64), np.empty(count, np.int64)
        np.add.at(size, group, areas.size)
        seat[group[::-1]] = areas.seat[::-1]
        values = np.empty(count, np.uint8)
        values[group] = value
        areas, borders = Areas(size, values, seat), _summed(group[borders.low], group[borders.high], borders.length)
        yield group, areas, borders


def _choices(areas: Areas, borders: _Borders, small: np.ndarray, are_instances: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Who goes this round, to whom, and all pairs that become one area by it ((2, M))."""
    rank = np.zeros(len(small), np.int64)
    who = np.flatnonzero(small)
    # Of equal size, by a hash of their places: in the order of the places, a row of equals would go one by one.
    rank[who[np.lexsort((who, _hash(areas.seat[who]), areas.size[who]))]] = np.arange(len(who))
    rival = small[borders.low] & small[borders.high]
    low, high = borders.low[rival], borders.high[rival]
    goes = small.copy()
    goes[np.where(rank[low] < rank[high], high, low)] = False
    source = np.concatenate([borders.low, borders.high])
    target = np.concatenate([borders.high, borders.low])
    length = np.concatenate([borders.length, borders.length])
    chosen = goes[source]
    source, target, length = source[chosen], target[chosen], length[chosen]
    order = np.lexsort((target, -areas.size[target], -length, source))
    source, target = source[order], target[order]
    first = np.ones(len(source), bool)
    first[1:] = source[1:] != source[:-1]
    value = areas.value.copy()
    value[source[first]] = areas.value[target[first]]
    same = first if are_instances else first | (value[source] == areas.value[target])
    return source[first], target[first], np.stack([source[same], target[same]])


def _borders(runs: Runs, small: np.ndarray, pixel: tuple[float, float]) -> _Borders:
    """The borders of small areas."""
    high, wide = (max(1, round(edge / max(pixel) * _BORDER_UNITS)) for edge in pixel)
    parts = [_beside(runs, small, high)]
    for touch in contacts(runs):
        above, below = runs.value[touch.above], runs.value[touch.below]
        parts.append(_between(above, below, touch.length * wide, small))
    return _summed(*(np.concatenate(items) for items in zip(*parts, strict=True)))


def _beside(runs: Runs, small: np.ndarray, high: int) -> _Borders:
    """Borders of runs with the next in their row. Rows begin and end outside, so no row goes over into the next."""
    return _between(runs.value[:-1], runs.value[1:], np.full(len(runs.value) - 1, high), small)


def _between(one: np.ndarray, other: np.ndarray, length: np.ndarray, small: np.ndarray) -> _Borders:
    chosen = (one != other) & (one != OUTSIDE) & (other != OUTSIDE)
    chosen &= small[one] | small[other]
    return _summed(one[chosen], other[chosen], length[chosen])


def _summed(one: np.ndarray, other: np.ndarray, length: np.ndarray) -> _Borders:
    """Each pair of two areas once, with the sum of its lengths."""
    apart = one != other
    one, other, length = one[apart].astype(np.int64), other[apart].astype(np.int64), length[apart]
    key = np.minimum(one, other) << 32 | np.maximum(one, other)
    order = np.argsort(key, kind="stable")
    key, length = key[order], length[order]
    first = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]])) if len(key) else np.zeros(0, np.int64)
    total = np.add.reduceat(length, first) if len(first) else length[:0]
    return _Borders(key[first] >> 32, key[first] & 0xFFFFFFFF, total)


def _hash(seat: np.ndarray) -> np.ndarray:
    """Numbers that look drawn, of numbers. Source: the finaliser of SplitMix64 (Steele, Lea, Flood 2014)."""
    mixed = seat.astype(np.uint64)
    mixed = (mixed ^ mixed >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ mixed >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ mixed >> np.uint64(31))
