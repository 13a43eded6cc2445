"""Which polygons of two layers lie over one another, by how much, and which of them are the same object. It computes no score.

Memory grows with the polygons and with the pairs that touch, never with their product: candidates come from a tree of bounding boxes, a
stretch of polygons at a time, and large polygons are cut into pieces first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import shapely
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from landseg.core.progress import parallel_map, progress
from landseg.scoring.plane import pieces_of

LEAST_IOU = 0.5
"""Above it, a polygon of a layer without overlaps has one partner at most. Source: Kirillov et al. 2019, Panoptic Segmentation, §4.1."""

ROUNDING = 1e-4
"""By how much an IoU must be above its threshold: a field cut in half has two halves of 0.5, which no change of CRS keeps exactly equal."""

_QUERY = 1 << 13
"""Pieces looked up in the tree at a time."""

_CUT = 1 << 14
"""Pairs of pieces cut with one another at a time."""


class Pairs(NamedTuple):
    """Polygons of two layers that share ground, in the order of the first and then the second.

    Args:
        one: (M,) int64 index in the first layer.
        other: (M,) int64 index in the second.
        area: (M,) float64 of what they share, above 0.
    """

    one: np.ndarray
    other: np.ndarray
    area: np.ndarray


def overlaps(one: np.ndarray, other: np.ndarray, one_kind: np.ndarray, other_kind: np.ndarray, what: str = "objects") -> Pairs:
    """What polygons of two layers share, where they are of one kind.

    Args:
        one: (N,) valid polygons on a plane.
        other: (M,) valid polygons on the same plane.
        one_kind: (N,) int64; polygons of negative kinds take no part.
        other_kind: (M,) int64.
        what: Words for the progress bar.
    """
    found = [Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    for kind in np.intersect1d(one_kind[one_kind >= 0], other_kind[other_kind >= 0]):
        left, right = np.flatnonzero(one_kind == kind), np.flatnonzero(other_kind == kind)
        pairs = _overlaps(one[left], other[right], what)
        found.append(Pairs(left[pairs.one], right[pairs.other], pairs.area))
    return _summed(*(np.concatenate(parts) for parts in zip(*found, strict=True)), count=len(other))


def covered_area(polygons: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """(N,) float64: how much of each polygon lies on some ground, given as (P,) pieces that do not overlap."""
    pairs = _overlaps(polygons, ground, "ground")
    return np.bincount(pairs.one, pairs.area, minlength=len(polygons))


def matched_pairs(pairs: Pairs, iou: np.ndarray) -> np.ndarray:
    """Which pairs are one object in both layers, each polygon in one pair at most.

    A pair counts above `LEAST_IOU`. In layers without overlaps that leaves each polygon one partner at most. Where polygons of one layer
    lie over one another there may be several; then the assignment with the most pairs is taken, of those the one with the highest sum of
    IoU.

    Args:
        pairs: What shares ground.
        iou: (M,) of each pair.

    Returns:
        Ascending indices of the pairs.

    Source: scipy.sparse.csgraph.min_weight_full_bipartite_matching (Jonker & Volgenant 1987, on sparse costs).
    """
    good = np.flatnonzero(iou > LEAST_IOU + ROUNDING)
    ones, others = pairs.one[good], pairs.other[good]
    is_contested = (_counts(ones) > 1) | (_counts(others) > 1)
    # A lone pair may share a polygon with nobody; contested ones are settled together.
    chosen = _assign(ones[is_contested], others[is_contested], iou[good[is_contested]])
    return np.sort(np.concatenate([good[~is_contested], good[is_contested][chosen]]))


def _assign(ones: np.ndarray, others: np.ndarray, iou: np.ndarray) -> np.ndarray:
    """Indices of the pairs of the best assignment."""
    if not len(ones):
        return np.zeros(0, np.int64)
    rows, row = np.unique(ones, return_inverse=True)
    columns, column = np.unique(others, return_inverse=True)
    alone = len(rows) + 2.0  # what a polygon without partner costs: more than any choice of partners can save
    # Every row has a column of its own beside the others, so that there is always a full matching.
    own = np.arange(len(rows))
    costs = np.concatenate([2 - iou, np.full(len(rows), alone)])
    places = (np.concatenate([row, own]), np.concatenate([column, len(columns) + own]))
    graph = csr_array((costs, places), shape=(len(rows), len(columns) + len(rows)))
    taken, by = min_weight_full_bipartite_matching(graph)
    is_pair = by < len(columns)
    keys = row * len(columns) + column
    order = np.argsort(keys)
    return np.asarray(order[np.searchsorted(keys[order], taken[is_pair] * len(columns) + by[is_pair])])


def _counts(values: np.ndarray) -> np.ndarray:
    """How often each value occurs among all."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray(counts[which])


def _overlaps(one: np.ndarray, other: np.ndarray, what: str) -> Pairs:
    """Shared areas of all polygons, a stretch of the first layer's pieces at a time."""
    pieces, owner = pieces_of(one)
    others, of = pieces_of(other)
    tree = shapely.STRtree(others)

    def share(part: slice) -> Pairs:
        left, right = tree.query(pieces[part], predicate="intersects")
        left = left + part.start
        areas = [shapely.area(shapely.intersection(pieces[left[some]], others[right[some]])) for some in _slices(len(left), _CUT)]
        area = np.concatenate([np.zeros(0), *areas])
        is_shared = area > 0
        return _summed(owner[left[is_shared]], of[right[is_shared]], area[is_shared], count=len(other))

    parts = list(_slices(len(pieces), _QUERY))
    found = list(progress(parallel_map(share, parts), f"comparing {what}", len(parts), "stretches"))
    empty = Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    return _summed(*(np.concatenate(values) for values in zip(empty, *found, strict=True)), count=len(other))


def _summed(one: np.ndarray, other: np.ndarray, area: np.ndarray, *, count: int) -> Pairs:
    """Pairs with the areas of their pieces added up."""
    keys, which = np.unique(one * np.int64(max(count, 1)) + other, return_inverse=True)
    total = np.bincount(which, area, minlength=len(keys)) if len(keys) else np.zeros(0)
    return Pairs(keys // max(count, 1), keys % max(count, 1), total)


def _slices(count: int, step: int) -> Iterator[slice]:
    for start in range(0, count, step):
        yield slice(start, min(count, start + step))
