"""Labelled runs of pixels → polygons whose borders are shared vertex by vertex. It simplifies nothing and knows no CRS.

The borders are noded first: a *vertex* is a corner of pixels where borders bend or meet, and every polygon that passes it has it. At a
vertex, a *pass* is one area's way along it: in by one border, out by the next. Passes follow one another round an area until they close a
*ring*; a ring never crosses or repeats itself: where an area meets itself at a corner, it is cut into rings that touch there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

from landseg.product.components import OUTSIDE, Runs, contacts

_NORTH, _EAST, _SOUTH, _WEST = range(4)
"""Directions from a vertex, clockwise; quadrant i of pixels follows direction i: north-east, south-east, south-west, north-west."""


@dataclass(frozen=True)
class Outlines:
    """The rings of all areas, one after the other; those of one area stand together, its shell before its holes.

    Args:
        places: (V, 2) float64 column and row of each vertex. Rings are closed (the first vertex again at the end) and run anticlockwise as
            a picture shows them, holes clockwise.
        rings: (R + 1,) int64 offsets of rings in `places`.
        areas: (N + 1,) int64 offsets of areas in `rings`, in the order of their labels 0..N-1.
    """

    places: np.ndarray
    rings: np.ndarray
    areas: np.ndarray

    def polygons(self, places: np.ndarray | None = None) -> np.ndarray:
        """(N,) shapely polygons; of other coordinates of the same vertices, where `places` (V, 2) gives them."""
        coordinates = self.places if places is None else places
        return np.asarray(shapely.from_ragged_array(shapely.GeometryType.POLYGON, coordinates, (self.rings, self.areas)))


@dataclass(frozen=True)
class _Vertices:
    """Corners of pixels where borders bend or meet, row by row."""

    position: np.ndarray  # (V,) int64: the pixel south-east of the vertex
    borders: np.ndarray  # (V,) uint8, bit i: a border leaves in direction i
    labels: np.ndarray  # (V, 4) int32 by quadrant


def trace(runs: Runs, count: int) -> Outlines:
    """The outlines of `count` areas, connected by edges, that `runs` labels 0..count-1 (`OUTSIDE` elsewhere)."""
    vertices = _vertices(runs)
    if not len(vertices.position):
        return Outlines(np.empty((0, 2)), np.zeros(1, np.int64), np.zeros(count + 1, np.int64))
    owner, label, shell, following = _passes(vertices, runs.width)
    heads, order = _walk(owner, label, shell, following)
    rings = np.diff(heads, append=len(order))
    # Each ring closes with its first vertex again.
    offsets = np.concatenate([[0], np.cumsum(rings + 1)])
    turn = np.insert(owner[order], heads[1:], owner[order[heads[:-1]]])
    turn = np.append(turn, owner[order[heads[-1]]])
    places = np.empty((len(turn), 2))
    places[:, 0] = vertices.position[turn] % runs.width - 1
    places[:, 1] = vertices.position[turn] // runs.width - 1
    areas = np.searchsorted(label[order[heads]], np.arange(count + 1))
    return Outlines(places, offsets, areas.astype(np.int64))


def _vertices(runs: Runs) -> _Vertices:
    positions, borders, labels = [], [], []
    for touch in contacts(runs):
        above, below = runs.value[touch.above], runs.value[touch.below]
        # West of a contact lies the one before it; in the frame's first column there is nothing on either side.
        before = [np.concatenate([side[:1], side[:-1]]) for side in (above, below)]
        quadrants = np.stack([above, below, before[1], before[0]], 1)
        quadrants[touch.position % runs.width == 0] = OUTSIDE
        code = np.zeros(len(above), np.uint8)
        for direction in range(4):
            code |= (quadrants[:, direction] != quadrants[:, direction - 1]).astype(np.uint8) << direction
        is_vertex = ~np.isin(code, (0, 1 << _NORTH | 1 << _SOUTH, 1 << _EAST | 1 << _WEST))
        positions.append(touch.position[is_vertex])
        borders.append(code[is_vertex])
        labels.append(quadrants[is_vertex].astype(np.int32))
    return _Vertices(np.concatenate(positions), np.concatenate(borders), np.concatenate(labels))


def _passes(vertices: _Vertices, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Every pass, by vertex and the direction that it comes in from.

    Returns:
        Its vertex, its label, whether its area lies south-east of it alone (as of a shell's first vertex, but never of a hole's), and the
        pass after it.
    """
    count, codes = len(vertices.position), vertices.borders
    has = [(codes >> direction & 1).astype(bool) for direction in range(4)]
    degree = np.sum(has, axis=0, dtype=np.int64)
    base = np.cumsum(degree) - degree
    below_bits = [np.bitwise_count(codes & np.uint8((1 << direction) - 1)) for direction in range(4)]
    column = np.argsort(vertices.position % width, kind="stable").astype(np.int32)  # down each column in turn
    at_column = np.empty(count, np.int32)
    at_column[column] = np.arange(count, dtype=np.int32)
    total = int(degree.sum())
    index = np.int32 if total < 2**31 else np.int64
    label, following = np.empty(total, np.int32), np.empty(total, index)
    shell = np.zeros(total, bool)
    for direction in range(4):
        here = np.flatnonzero(has[direction])
        leave = _leaving(vertices, here, direction)
        at = base[here] + below_bits[direction][here]
        label[at] = vertices.labels[here, direction]
        shell[at] = (direction == _EAST) & (leave == _SOUTH)
        for out in range(4):
            some = leave == out
            source = here[some]
            if out in (_EAST, _WEST):
                target = source + (1 if out == _EAST else -1)
            else:
                target = column[at_column[source] + (1 if out == _SOUTH else -1)]
            following[at[some]] = base[target] + below_bits[(out + 2) % 4][target]
    return np.repeat(np.arange(count, dtype=index), degree), label, shell, following


def _leaving(vertices: _Vertices, here: np.ndarray, direction: int) -> np.ndarray:
    """The direction by which passes that come in from `direction` leave: the next border clockwise, so that the area lies on their left.

    Where one area has two pixels that meet at the vertex by their corners alone, its passes go over to the other pixel: the ring does not
    close in on itself there.
    """
    codes, labels = vertices.borders[here], vertices.labels[here]
    leave = np.full(len(here), -1, np.int8)
    for step in (1, 2, 3):
        out = (direction + step) % 4
        leave[(leave < 0) & (codes >> out & 1).astype(bool)] = out
    is_pinched = (codes == 15) & (labels[:, direction] == labels[:, direction - 2])
    leave[is_pinched] = (direction + 3) % 4
    return leave


def _walk(owner: np.ndarray, label: np.ndarray, shell: np.ndarray, following: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Passes ring by ring, rings by their labels, shells before holes.

    Returns:
        The place of each ring's first pass in the order, and the order: indices of passes. Rings of nothing are left out.
    """
    total = len(following)
    head = _heads(following)
    first = np.flatnonzero(head == np.arange(total, dtype=head.dtype))
    chosen = first[label[first] != OUTSIDE]
    chosen = chosen[np.lexsort((chosen, ~shell[chosen], label[chosen]))]
    if not len(chosen):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    before = np.empty(total, following.dtype)
    before[following] = np.arange(total, dtype=following.dtype)
    # Cut open, the rings make one path: the last pass of each leads to the first of the next.
    chain = following.copy()
    chain[before[chosen[:-1]]] = chosen[1:]
    chain[before[chosen[-1]]] = chosen[-1]
    graph = csr_array((np.ones(total), chain, np.arange(total + 1, dtype=following.dtype)), shape=(total, total))
    order = breadth_first_order(graph, chosen[0], return_predecessors=False)
    is_head = np.zeros(total, bool)
    is_head[chosen] = True
    return np.flatnonzero(is_head[order]), order


def _heads(following: np.ndarray) -> np.ndarray:
    """The lowest pass of each pass's ring."""
    total = len(following)
    graph = csr_array((np.ones(total), following, np.arange(total + 1, dtype=following.dtype)), shape=(total, total))
    count, ring = connected_components(graph, directed=False)
    lowest = np.empty(count, following.dtype)
    lowest[ring[::-1]] = np.arange(total - 1, -1, -1, dtype=following.dtype)
    return np.asarray(lowest[ring])
