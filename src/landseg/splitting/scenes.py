"""Edges between tiles → scenes, with the row and column of each tile. It reads no pixels and assigns no parts.

A scene grows from its surest edges. A further edge joins two pieces of a scene only when their whole common border speaks for it: tiles
that would come to face each other without an edge of their own speak against it, and no two tiles may come to lie in one place. So a
single false edge does not fuse two scenes.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from landseg.splitting.neighbours import Edge

LEAST = -2.5
"""An edge of smaller log odds begins no join; it may support one."""

ENOUGH = math.log(0.95 / 0.05)
"""Log odds that a common border must reach to join two pieces of a scene."""

AGREEING = 2.9
"""Log odds for each further edge that says the same: of the candidates one in twenty is true, so a second one is no accident."""

MISSING = 1.0
"""Log odds against a join for each two tiles that would face each other without an edge. Featureless borders have none, so it is mild."""

MOST = 8.0
"""No single edge counts more than these log odds."""

MOSTLY = 0.75
"""A piece that fills this share of its rectangle is all but one: what is missing there is a gap."""

GAP_FILLED = 3.0
"""Log odds that a gap has its tile among the data, and"""

AHEAD = 1.0
"""by how much in log odds the tile that fills it must be ahead of any other for that gap, and that gap of any other for the tile."""

_STEP = {"right": (0, 1), "below": (1, 0)}


@dataclass(frozen=True)
class Scenes:
    """Which scene each tile belongs to and where it lies there.

    `scene` (N,) int: 0 is the largest; a tile without neighbours is a scene of its own. `row`, `col` (N,) int: from 0 in each scene, -1
    where unknown. `edges`: those that the scenes are made of; `cut`: likely ones (probability at least a half) that were not believed.
    """

    scene: np.ndarray
    row: np.ndarray
    col: np.ndarray
    edges: tuple[Edge, ...]
    cut: tuple[Edge, ...]

    @property
    def sizes(self) -> np.ndarray:
        """Tiles of each scene, in its order."""
        return np.bincount(self.scene)


def assemble(count: int, edges: Sequence[Edge]) -> Scenes:
    """Put tiles together.

    Args:
        count: How many tiles there are, numbered from 0.
        edges: From `neighbours.find_neighbours` or `neighbours.from_places`; those of side "same" put a tile into the scene of the other,
            not into its row and column.

    Returns:
        The scenes: the same for the same edges in any order.
    """
    pieces = _Pieces(count, edges)
    waiting = sorted(pieces.odds, key=lambda key: (-pieces.odds[key], key))
    while True:
        left = [key for key in waiting if not pieces.join(key)]
        if len(left) == len(waiting):
            break
        waiting = left
    pieces.fill()
    return _scenes(count, edges, pieces)


class _Pieces:
    """Tiles in pieces of scenes, each tile with a place in its piece."""

    def __init__(self, count: int, edges: Sequence[Edge]) -> None:
        self.odds: dict[tuple[int, int, str], float] = {}
        for edge in edges:
            if edge.side != "same" and edge.a != edge.b:
                self.odds[edge.a, edge.b, edge.side] = _log_odds(edge.probability)
        self.piece = list(range(count))
        self.place = [(0, 0)] * count
        self.tiles: dict[int, dict[tuple[int, int], int]] = {i: {(0, 0): i} for i in range(count)}
        self._refused: dict[tuple[int, int, str], tuple[int, int]] = {}

    def join(self, key: tuple[int, int, str]) -> bool:
        """Join the pieces of two tiles as an edge says; True when nothing more can become of that edge."""
        a, b, side = key
        down, across = _STEP[side]
        if self.piece[a] == self.piece[b]:
            return True
        if self.odds[key] < LEAST:
            return False
        sizes = len(self.tiles[self.piece[a]]), len(self.tiles[self.piece[b]])
        if self._refused.get(key) == sizes:
            return False
        if sizes[0] < sizes[1]:
            a, b, down, across = b, a, -down, -across
        large, small = self.tiles[self.piece[a]], self.tiles[self.piece[b]]
        shift = self.place[a][0] + down - self.place[b][0], self.place[a][1] + across - self.place[b][1]
        moved = {(row + shift[0], col + shift[1]): tile for (row, col), tile in small.items()}
        if self._evidence(large, moved) < ENOUGH:
            self._refused[key] = sizes
            return False
        del self.tiles[self.piece[b]]
        for place, tile in moved.items():
            self.piece[tile], self.place[tile] = self.piece[a], place
        large.update(moved)
        return True

    def _evidence(self, large: dict[tuple[int, int], int], moved: dict[tuple[int, int], int]) -> float:
        total = -AGREEING
        for (row, col), tile in moved.items():
            if (row, col) in large:
                return -math.inf
            for other, pair in (
                ((row, col + 1), "right"), ((row + 1, col), "below"), ((row, col - 1), "left"), ((row - 1, col), "above"),
            ):  # fmt: skip
                found = large.get(other)
                if found is not None:
                    forward = (tile, found, pair) if pair in _STEP else (found, tile, "right" if pair == "left" else "below")
                    total += self.odds[forward] + AGREEING if forward in self.odds else -MISSING
        return total

    def fill(self) -> None:
        """Put lone tiles into the gaps of pieces that are all but rectangles, where two edges or more say so and nothing else comes near.

        Scenes are cut as rectangles, so a gap has its tile somewhere; and a lone tile that is wrong fuses nothing.
        """
        lone = {i for i, piece in enumerate(self.piece) if len(self.tiles[piece]) == 1}
        around: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
        for a, b, side in sorted(self.odds):
            down, across = _STEP[side]
            if (a in lone) != (b in lone):
                around[a if a in lone else b].append((b, -down, -across) if a in lone else (a, down, across))
        offers: list[tuple[float, int, int, tuple[int, int]]] = []
        for i, known in sorted(around.items()):
            for other, down, across in known:
                piece, place = self.piece[other], (self.place[other][0] + down, self.place[other][1] + across)
                if place not in self.tiles[piece] and self._is_gap(piece, place):
                    offers.append((self._evidence(self.tiles[piece], {place: i}), i, piece, place))
        by_tile: dict[int, list[float]] = defaultdict(list)
        by_gap: dict[tuple[int, tuple[int, int]], list[float]] = defaultdict(list)
        for total, i, piece, place in sorted(set(offers), reverse=True):
            by_tile[i].append(total)
            by_gap[piece, place].append(total)
        for total, i, piece, place in sorted(set(offers), reverse=True):
            # The first of either list is the best; it must be this one, and the second of either far behind.
            is_ahead = all(
                found[0] == total and total - max(found[1:], default=-math.inf) >= AHEAD for found in (by_tile[i], by_gap[piece, place])
            )
            if is_ahead and total + GAP_FILLED > 0:
                del self.tiles[self.piece[i]]
                self.piece[i], self.place[i], self.tiles[piece][place] = piece, place, i

    def _is_gap(self, piece: int, place: tuple[int, int]) -> bool:
        tiles = self.tiles[piece]
        spans = [(min(p[k] for p in tiles), max(p[k] for p in tiles)) for k in range(2)]
        area = math.prod(high - low + 1 for low, high in spans)
        inside = all(low <= p <= high for p, (low, high) in zip(place, spans, strict=True))
        sides = sum((place[0] + down, place[1] + across) in tiles for down, across in ((0, 1), (1, 0), (0, -1), (-1, 0)))
        return inside and sides >= 2 and len(tiles) >= MOSTLY * area


def _scenes(count: int, edges: Sequence[Edge], pieces: _Pieces) -> Scenes:
    parent = list(pieces.piece)

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    # The tile that gave a piece its number stays in it, so a piece is its own root until the same ground joins it to another.
    for edge in edges:
        if edge.side == "same" and edge.probability >= 0.5:
            a, b = root(edge.a), root(edge.b)
            parent[max(a, b)] = min(a, b)
    members: dict[int, list[int]] = defaultdict(list)
    for i in range(count):
        members[root(i)].append(i)
    scene, row, col = (np.full(count, -1, np.int64) for _ in range(3))
    for number, tiles in enumerate(sorted(members.values(), key=lambda tiles: (-len(tiles), tiles))):
        scene[tiles] = number
        placed = [pieces.tiles[piece] for piece in {pieces.piece[i] for i in tiles}]
        # Rows and columns are those of the scene's largest piece; what only shows the same ground has none.
        largest = max(placed, key=lambda places: (len(places), -min(places.values())))
        if len(largest) > 1:
            top, left = (min(place[k] for place in largest) for k in range(2))
            for place, i in largest.items():
                row[i], col[i] = place[0] - top, place[1] - left
    kept: list[Edge] = []
    cut: list[Edge] = []
    for edge in edges:
        if edge.side == "same":
            (kept if scene[edge.a] == scene[edge.b] else cut).append(edge)
            continue
        down, across = _STEP[edge.side]
        (top, left), there = pieces.place[edge.a], pieces.place[edge.b]
        if pieces.piece[edge.a] == pieces.piece[edge.b] and (top + down, left + across) == there:
            kept.append(edge)
        elif edge.probability >= 0.5:
            cut.append(edge)
    return Scenes(scene, row, col, tuple(kept), tuple(cut))


def _log_odds(probability: float) -> float:
    p = min(max(probability, 1e-6), 1 - 1e-6)
    return min(math.log(p / (1 - p)), MOST)
