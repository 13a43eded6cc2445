"""How far the outlines of two layers agree within a tolerance: the boundary F-score, as sums of lengths. It forms no ratio of them.

An outline is walked in steps of half the tolerance, at most; a step counts as found where its middle lies within the tolerance of the other
layer's outlines of the same class. Each object's own outline counts: a border between two fields of one class counts for both.

Source: Martin, Fowlkes & Malik 2004, IEEE PAMI 26(5), precision and recall of boundaries; by class as Csurka et al. 2013, BMVC.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import shapely

from landseg.core.progress import progress

ON_BORDER_M = 1e-3
"""What lies nearer to the edge of the known ground is that edge, and no border between things."""

_LINE_SEGMENTS = 16
"""Segments of a line in the tree: few enough that a distance is quick, many enough that the tree stays small."""

_AT_ONCE = 1 << 17
"""Steps looked up at a time, and about as many vertices taken apart."""

_REACH = 1 + 1e-6
"""The tolerance with its rounding: what was moved by just as much is found."""


@dataclass(frozen=True)
class Ground:
    """The ground on which outlines count.

    Args:
        pieces: (P,) polygons: where the other layer is known; None where it is known everywhere.
        edges: (E,) lines: the edges of the ground that either layer knows.
        touched: (N,) bool: the polygons that reach beyond, or touch an edge; no other is looked at.
    """

    pieces: np.ndarray | None
    edges: np.ndarray
    touched: np.ndarray


Add = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], None]
"""Takes the middles (S, 2), kinds (S,), lengths (S,) and whether found (S,) of some steps."""


def walk(
    polygons: np.ndarray, kind: np.ndarray, other: np.ndarray, other_kind: np.ndarray, tolerance: float, ground: Ground, add: Add
) -> None:
    """Walk the outlines of a layer and hand over what was found.

    Args:
        polygons: (N,) polygons on a plane.
        kind: (N,) int64 classes; negative ones take no part.
        other: (M,) polygons of the layer that is compared with.
        other_kind: (M,) int64.
        tolerance: Distance within which an outline is found, in units of the plane, above 0.
        ground: Where outlines count.
        add: Is handed the steps, many at a time.
    """
    edges = shapely.STRtree(ground.edges)
    pieces = None if ground.pieces is None else shapely.STRtree(ground.pieces)
    for value in np.unique(kind[kind >= 0]):
        lines = shapely.STRtree(_lines(other[other_kind == value]))
        mine = np.flatnonzero(kind == value)
        stretches = _stretches(polygons[mine])
        for part in progress(stretches, "comparing outlines", len(stretches), "stretches"):
            chosen = mine[part]
            for middle, length, of in _steps(polygons[chosen], tolerance / 2):
                counts = np.ones(len(middle), bool)
                is_near = np.flatnonzero(ground.touched[chosen[of]])
                points = shapely.points(middle)
                if len(is_near):
                    counts[is_near] = ~_within(edges, points[is_near], ON_BORDER_M)
                    if pieces is not None:
                        counts[is_near] &= _within(pieces, points[is_near], 0.0)
                points, middle, length = points[counts], middle[counts], length[counts]
                add(middle, np.full(len(length), value), length, _within(lines, points, tolerance * _REACH))


def _within(tree: shapely.STRtree, points: np.ndarray, distance: float) -> np.ndarray:
    """(S,) bool: whether something of a tree lies within a distance of each point."""
    found = np.zeros(len(points), bool)
    if len(points) and len(tree.geometries):
        found[tree.query(points, predicate="dwithin", distance=distance)[0]] = True
    return found


def _segments(polygons: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(S, 2) beginnings and ends of all edges, and (S,) the ring and the polygon of each."""
    parts, of_part = shapely.get_parts(polygons, return_index=True)
    rings, of_ring = shapely.get_rings(parts, return_index=True)
    places, ring = shapely.get_coordinates(rings, return_index=True)
    inside = ring[1:] == ring[:-1]
    return places[:-1][inside], places[1:][inside], ring[:-1][inside], of_part[of_ring][ring[:-1][inside]]


def _lines(polygons: np.ndarray) -> np.ndarray:
    """The outlines of polygons as lines of few segments."""
    first, last, ring, _ = _segments(polygons)
    if not len(first):
        return np.zeros(0, object)
    begins = np.ones(len(ring), bool)
    begins[1:] = ring[1:] != ring[:-1]
    start = np.flatnonzero(begins)
    place = np.arange(len(ring)) - start[np.cumsum(begins) - 1]
    line = np.cumsum(begins | (place % _LINE_SEGMENTS == 0)) - 1
    ends = np.append(np.flatnonzero(line[1:] != line[:-1]), len(line) - 1)
    return np.asarray(shapely.linestrings(np.insert(first, ends + 1, last[ends], axis=0), indices=np.insert(line, ends + 1, line[ends])))


def _stretches(polygons: np.ndarray) -> list[slice]:
    """Slices of polygons with about as many vertices as are taken apart at a time."""
    ends = np.cumsum(shapely.get_num_coordinates(polygons))
    cuts, start = [], 0
    while start < len(ends):
        done = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _AT_ONCE)))
        cuts.append(slice(start, stop))
        start = stop
    return cuts


def _steps(polygons: np.ndarray, step: float) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Middles (S, 2), lengths (S,) and polygons (S,) of steps of at most `step` along the outlines, some at a time."""
    first, last, _, owner = _segments(polygons)
    length = np.hypot(*(last - first).T)
    count = np.maximum(1, np.ceil(length / step - 1e-9)).astype(np.int64)
    ends = np.cumsum(count)
    total = int(ends[-1]) if len(ends) else 0
    for start in range(0, total, _AT_ONCE):
        number = np.arange(start, min(total, start + _AT_ONCE))
        segment = np.searchsorted(ends, number, "right")
        share = (number - (ends - count)[segment] + 0.5) / count[segment]
        middle = first[segment] + (last - first)[segment] * share[:, None]
        yield middle, (length / count)[segment], owner[segment]
