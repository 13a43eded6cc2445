"""Borders along pixel edges → smooth ones, each shared border once, so that what was a coverage stays one. It leaves no detail out.

Each pixel edge of a border between two areas becomes one point that may slide across the edge, towards the middles of the two pixels, but
never as far: so much is open when land is put on pixels. Points are drawn to the line between their neighbours, again and again, and then
back until each border leaves as much on either side as before. What keeps the coverage: around every corner of pixels lies a square between
four middles of pixels; a border enters it by one side and leaves by another, straight, or by way of the corner where more than two borders
meet. Nothing else is in that square, so nothing can be crossed.

Corners where more than two borders meet stay where they are, and so do borders to where there is nothing.

Source: the freedom of a point is that of S. F. Gibson, Constrained elastic surface nets (MICCAI 1998), without moves along the edge.

Vocabulary: an *edge* is one side of a pixel on one ring; a border between two areas has it twice, once on each side's ring. A *joint* is a
corner at which a border goes on without meeting others; a border from one corner that is no joint to the next is an *arc*, and so is a ring
of joints.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from landseg.product.components import join
from landseg.product.outlines import Outlines

STEPS = 64
"""Parts of a pixel to which points are rounded: coordinates stay exact."""

_REACH = 29 / STEPS
"""Pixels by which a point may leave the middle of its edge; at half a pixel, borders on both sides of one pixel would meet, and a point's
neighbours might lie straight above one another."""

_ROUNDS = 24
"""How often points are drawn to the line between their neighbours: stairs of up to about eight pixels a step become lines."""

_PULL = 0.5
"""How far towards the line between its neighbours a point goes in a round; all at once and all the way, neighbours would swing."""

_BALANCING = 4
"""Rounds at the end in which only the ground is given back."""


def border_length(outlines: Outlines) -> int:
    """Pixel edges of all rings: what time and memory of `smooth` grow with."""
    steps = np.abs(np.diff(outlines.places, axis=0)).sum(1)
    steps[outlines.rings[1:-1] - 1] = 0  # from one ring to the next
    return int(steps.sum())


def smooth(outlines: Outlines) -> Outlines:
    """Smooth the borders between areas.

    Args:
        outlines: As `trace` makes them: of corners of pixels, with every corner at which borders bend or meet.

    Returns:
        Other vertices of the same areas, in multiples of 1 / `STEPS` of a pixel; as many rings.
    """
    if len(outlines.rings) == 1:
        return outlines
    edges = _edges(outlines)
    own = np.flatnonzero(edges.is_own)
    if not len(own):
        return outlines
    number = np.full(len(edges.ring), -1, np.int64)
    number[own] = np.arange(len(own))
    mirrored = ~edges.is_own & (edges.partner >= 0)
    number[mirrored] = number[edges.partner[mirrored]]
    places, keep = _relaxed(edges, own, number)
    return _assembled(outlines, edges, number, places, keep)


@dataclass(frozen=True)
class _Edges:
    """The edges of all rings in their order.

    Args:
        tail: (U, 2) int64 column and row where the edge begins.
        head: (U, 2) int64 where it ends.
        ring: (U,) int64.
        before: (U,) int64: the edge before it in its ring.
        after: (U,) int64: the edge after it.
        partner: (U,) int64: the same edge on the other side's ring; -1 where there is nothing.
        is_own: (U,) bool: of each pair the one that is computed with, that of the area with the lower label.
        is_joint: (U,) bool: whether its head is a joint.
        is_corner: (U,) bool: whether its head is a vertex of the outlines.
    """

    tail: np.ndarray
    head: np.ndarray
    ring: np.ndarray
    before: np.ndarray
    after: np.ndarray
    partner: np.ndarray
    is_own: np.ndarray
    is_joint: np.ndarray
    is_corner: np.ndarray


def _edges(outlines: Outlines) -> _Edges:
    places, rings = outlines.places.astype(np.int64), outlines.rings
    is_begin = np.ones(len(places), bool)
    is_begin[rings[1:] - 1] = False
    begin = np.flatnonzero(is_begin)
    way = places[begin + 1] - places[begin]
    length = np.abs(way).sum(1)
    way = np.sign(way)
    straight = np.repeat(np.arange(len(begin)), length)
    along = np.arange(len(straight)) - np.repeat(np.cumsum(length) - length, length)
    tail = places[begin][straight] + way[straight] * along[:, None]
    head = tail + way[straight]
    is_corner = along == length[straight] - 1
    ring = np.repeat(np.arange(len(rings) - 1), np.diff(rings) - 1)[straight]
    index = np.arange(len(ring))
    first = np.searchsorted(ring, np.arange(len(rings)))
    before, after = index - 1, index + 1
    before[first[:-1]], after[first[1:] - 1] = first[1:] - 1, first[:-1]
    owner = np.repeat(np.arange(len(outlines.areas) - 1), np.diff(outlines.areas))[ring]
    partner = _partners(tail + head)
    other = np.where(partner >= 0, owner[partner], -1)
    is_joint = (other >= 0) & (other == other[after])
    corners = np.flatnonzero(is_corner)
    is_joint[corners] &= _passes(head[corners]) == 2  # where more borders meet, more rings pass
    return _Edges(tail, head, ring, before, after, partner, (other >= 0) & (owner < other), is_joint, is_corner)


def _keys(places: np.ndarray) -> np.ndarray:
    """A number for each place of whole coordinates from 0."""
    return np.asarray(places[:, 1] * (int(places[:, 0].max()) + 1) + places[:, 0])


def _partners(twice: np.ndarray) -> np.ndarray:
    """(U,) index of the edge with the same middle (doubled: whole numbers); -1 where there is none."""
    keys = _keys(twice)
    order = np.argsort(keys, kind="stable")
    same = np.flatnonzero(keys[order[1:]] == keys[order[:-1]])
    partner = np.full(len(keys), -1, np.int64)
    partner[order[same]], partner[order[same + 1]] = order[same + 1], order[same]
    return partner


def _passes(corners: np.ndarray) -> np.ndarray:
    """How often rings pass each of these corners."""
    _, place, counts = np.unique(_keys(corners), return_inverse=True, return_counts=True)
    return np.asarray(counts[place])


def _relaxed(edges: _Edges, own: np.ndarray, number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the points of `own` edges go ((n, 2)), and which of them bend their border ((n,) bool): the others need not be there."""
    tail, head = edges.tail[own].astype(np.float64), edges.head[own].astype(np.float64)
    begins, ends = ~edges.is_joint[edges.before[own]], ~edges.is_joint[own]
    former, later = number[edges.before[own]], number[edges.after[own]]
    linked = np.flatnonzero(~ends)
    arc = join(len(own), np.stack([linked, later[linked]]))
    axis = (tail[:, 0] != head[:, 0]).astype(np.int64)  # an edge along a row has a point that moves from row to row
    index = np.arange(len(own))
    places = (tail + head) / 2
    middle, across = places[index, axis], places[index, 1 - axis]
    ground = np.bincount(arc, _cross(tail, head))
    for step in range(_ROUNDS + _BALANCING):
        one, other = np.where(begins[:, None], tail, places[former]), np.where(ends[:, None], head, places[later])
        if step < _ROUNDS:
            at = places[index, axis]
            share = (across - one[index, 1 - axis]) / (other[index, 1 - axis] - one[index, 1 - axis])  # never 0 / 0: see `_REACH`
            goal = at + _PULL * (one[index, axis] + share * (other[index, axis] - one[index, axis]) - at)
            places[index, axis] = np.clip(goal, middle - _REACH, middle + _REACH)
            one, other = np.where(begins[:, None], tail, places[former]), np.where(ends[:, None], head, places[later])
        enclosed = np.bincount(arc, _cross(places, other) + np.where(begins, _cross(tail, places), 0))
        # What a point adds when it moves, and the smallest moves of all that together add what is missing.
        gain = np.where(axis == 0, other[:, 1] - one[:, 1], one[:, 0] - other[:, 0])
        weight = np.maximum(np.bincount(arc, gain**2), 1e-9)
        goal = places[index, axis] + ((ground - enclosed) / weight)[arc] * gain
        places[index, axis] = np.clip(goal, middle - _REACH, middle + _REACH)
    places = np.rint(places * STEPS) / STEPS
    one, other = np.where(begins[:, None], tail, places[former]), np.where(ends[:, None], head, places[later])
    return places, _cross(places - one, other - places) != 0


def _cross(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Twice the area between two places and the origin, by row of (n, 2)."""
    return np.asarray(one[:, 0] * other[:, 1] - one[:, 1] * other[:, 0])


def _assembled(outlines: Outlines, edges: _Edges, number: np.ndarray, places: np.ndarray, keep: np.ndarray) -> Outlines:
    """The rings anew: of each edge its point, where it has one, and its head, where that is a corner and no joint."""
    has_point = number >= 0
    has_point[has_point] = keep[number[has_point]]
    shown = np.stack([has_point, edges.is_corner & ~edges.is_joint], 1)
    drawn = np.stack([places[number], edges.head.astype(np.float64)], 1)[shown]
    ring = np.repeat(edges.ring, 2)[shown.ravel()]
    counts = np.bincount(ring, minlength=len(outlines.rings) - 1)
    offsets = np.concatenate([[0], np.cumsum(counts + 1)])
    closed = np.empty((offsets[-1], 2))
    closed[np.arange(len(ring)) + ring] = drawn
    closed[offsets[1:] - 1] = closed[offsets[:-1]]
    return Outlines(closed, offsets, outlines.areas)
