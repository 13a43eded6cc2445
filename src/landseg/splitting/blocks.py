"""Divide a scene that is too large to lie in one part into blocks, with a row of tiles between them. It knows neither pixels nor classes.

The tiles between two blocks belong to neither: where the blocks come into different parts they are left out, so that no two parts touch.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

LARGE = 0.05
"""A scene with more than this share of all tiles is large."""

_MOST = 0.5
"""A scene with more than this share is divided whatever its part could hold: else there is one group, and nothing to choose from."""

LEAST = 100
"""A scene with fewer tiles is never divided: the tiles between blocks would be too many of it."""

_BLOCKS = 40
"""A block has about this fraction of all tiles, so that even a small val is made of several."""

_SIDE = 4
"""Tiles along a block's side at least, where the scene is long enough for two blocks."""


def divide(scene: np.ndarray, rows: np.ndarray, cols: np.ndarray, largest: float) -> np.ndarray:
    """Divide the scenes that are too large.

    Args:
        scene: (N,) int, the scene of each tile.
        rows: (N,) int, row in the scene, negative where unknown; several tiles may lie in one cell, as overlapping ones and dates do.
        cols: (N,) int, likewise.
        largest: Share of all tiles up to which a scene may stay whole; taken as no less than `LARGE` and no more than `_MOST`.

    Returns:
        (N,) int: the number of the block within its scene, 0 throughout a scene that is whole, -1 for tiles between blocks. Where one tile
        in ten has no place the scene stays whole.
    """
    block = np.zeros(len(scene), np.int64)
    share = min(max(largest, LARGE), _MOST)
    for number in np.flatnonzero(np.bincount(scene) > max(share * len(scene), LEAST - 1)):
        members = np.flatnonzero(scene == number)
        is_known = (rows[members] >= 0) & (cols[members] >= 0)
        if is_known.mean() <= 0.9:
            continue
        placed = members[is_known]
        side = _side(rows[placed], cols[placed], len(scene))
        down, is_between = _bands(rows[placed], side)
        across, is_also = _bands(cols[placed], side)
        if down.max() + across.max() == 0:
            continue
        block[members] = -1  # without a place it may lie anywhere
        block[placed] = np.where(is_between | is_also, -1, down * (across.max() + 1) + across)
    return block


def settle(
    parts: Sequence[str], scene: np.ndarray, rows: np.ndarray, cols: np.ndarray, block: np.ndarray, pairs: np.ndarray | None = None
) -> np.ndarray:
    """Give tiles between blocks to a block beside them, where all around them, and all that shows their ground, is in one part.

    Args:
        parts: The part of each tile; those of tiles between blocks are not looked at.
        scene: (N,) int.
        rows: (N,) int.
        cols: (N,) int.
        block: (N,) int, from `divide`.
        pairs: (M, 2) int, tiles that may not lie in different parts wherever they are, such as copies and overlaps.

    Returns:
        (N,) int: the tile whose part and group a tile shares, its own number for most; -1 for a tile that stays out of all parts.
    """
    lying: dict[tuple[int, int, int], list[int]] = defaultdict(list)
    for i, cell in enumerate(zip(scene.tolist(), rows.tolist(), cols.tolist(), strict=True)):
        lying[cell].append(i)
    bound: dict[int, list[int]] = defaultdict(list)
    for a, b in [] if pairs is None else pairs[(block[pairs] < 0).any(1)].tolist():
        bound[a].append(b)
        bound[b].append(a)

    def around(i: int) -> list[int]:
        s, r, c = int(scene[i]), int(rows[i]), int(cols[i])
        near = [(s, row, col) for row in (r - 1, r, r + 1) for col in (c - 1, c, c + 1) if row >= 0 and col >= 0]
        return [k for cell in near for k in lying.get(cell, ()) if k != i]

    joined = np.where(block < 0, -1, np.arange(len(block)))
    wish = {}
    for i in np.flatnonzero((block < 0) & (rows >= 0) & (cols >= 0)).tolist():
        near = [k for k in around(i) if block[k] >= 0]
        if near and len({parts[k] for k in (*near, *bound[i]) if block[k] >= 0}) == 1:
            wish[i] = min(near)
    for i, k in wish.items():
        if all(parts[wish[other]] == parts[k] for other in (*around(i), *bound[i]) if other in wish):
            joined[i] = k
    return joined


def _side(rows: np.ndarray, cols: np.ndarray, count: int) -> int:
    """Cells along a block's side, so that it holds about one in `_BLOCKS` of all tiles, however many a cell holds."""
    cells = len(np.unique(np.column_stack([rows, cols]), axis=0))
    wanted = max(_SIDE, round(math.sqrt(count / _BLOCKS * cells / len(rows))))
    longest = int(max(np.ptp(rows), np.ptp(cols))) + 1
    return min(wanted, max(1, (longest - 1) // 2))


def _bands(places: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Places along one axis → their band, and whether they lie between two; bands are `side` long or a little longer."""
    first, length = int(places.min()), int(places.max() - places.min()) + 1
    count = max(1, round((length + 1) / (side + 1)))
    # `count` bands with a line between each two.
    ends = [round(k * (length + 1) / count) - 1 for k in range(1, count)]
    band = np.searchsorted(ends, places - first, side="left")
    return band, np.isin(places - first, ends)
