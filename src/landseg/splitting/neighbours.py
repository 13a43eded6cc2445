"""Which tiles continue one another: found in their pixels, or read from their places on earth. It places nothing: `scenes` does."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import shapely
import xxhash

from landseg.core.grid import Grid
from landseg.core.progress import parallel_map, progress
from landseg.splitting.borders import Facing, Features, Seam, has_contrast, pieces, read_borders

log = logging.getLogger("landseg")

Side = Literal["right", "below", "same"]

CANDIDATES = 10
"""Best matches of each side that are compared in full. Source: measured: bench/records/recovery."""

RIVALS = 3
"""Matches of each side that cannot be, right side with right side, that are compared in full."""

FEW = 300
"""Of fewer tiles chance is judged by sides that are turned round, too."""

PER_PIECE = 8
"""Features of each piece in the search. Source: measured: bench/records/recovery."""

LEARN_FROM = 4000
"""Sides from whose surest matches the seams are learnt a second time: brightness that jumps, a gap, compression before the cut."""

SPEAKS = 2.0
"""A pair that fits no better than this above strangers of its contrasts is no candidate: sides without contrast have none."""

SURE = 12.0
"""Margin and lead of a match that is learnt from."""

ENOUGH = 300
"""Pieces of seams to learn from."""

MOST_NATS = 30.0
"""A margin or lead counts no more than this: the features of a border are not independent."""

LEAST = 0.02
"""Less likely edges are not reported."""

GAP = 40.0
"""Pixels between tiles with a place on earth that still count as neighbours: what a cut into whole tiles may drop."""

WEIGHTS = (-2.039, 0.143, 0.066, 7.66, 7.96, 0.939, -0.512)
"""Log odds of an edge: constant; margin; lead; fit; one corner closed; two; a corner that contradicts.

Source: measured: bench/records/recovery, a logistic regression on worlds with planted truth, checked on other worlds and real tiles.
"""

_ROWS, _COLUMNS = 2048, 4096  # of the matrix of all pairs at a time: 34 MB


@dataclass(frozen=True)
class Edge:
    """Tile `b` lies to the right of tile `a` or below it, or shows the same ground ("same"), with this probability."""

    a: int
    b: int
    side: Side
    probability: float


@dataclass(frozen=True)
class Matches:
    """Candidates among the sides of one facing.

    `pairs` (m, 2) tiles; (m,) each: `fit` of the borders; `margin` over the next best candidate of either tile; `lead` over the best fit
    of either side with one that it cannot face, which is what chance achieves among as many tiles. Both are log likelihood ratios: the
    difference of fits times the number of features compared.
    """

    side: Side
    pairs: np.ndarray
    fit: np.ndarray
    margin: np.ndarray
    lead: np.ndarray


def find_neighbours(read: Callable[[int], np.ndarray], shapes: Sequence[tuple[int, int]], *, workers: int | None = None) -> list[Edge]:
    """Find which tiles continue which to the right and below, without knowing anything but their pixels.

    Args:
        read: Gives the image (H, W, C) of a tile, every tile of one band count; called once or twice a tile, from threads.
        shapes: (height, width) of each tile.
        workers: Threads; every core when None. The result does not depend on it.

    Returns:
        Edges with a probability of `LEAST` or more, in order of tiles; more than one for a side where the evidence does not decide. Tiles
        of equal borders (copies) are joined by "same" to the first of them, which alone has other edges. Sides without contrast have none.
    """
    matches, twins = candidates(read, shapes, workers=workers)
    edges = [Edge(first, twin, "same", 1.0) for twin, first in twins.items()]
    for found, probability in zip(matches, judge(matches, len(shapes)), strict=True):
        for k in np.flatnonzero(probability >= LEAST).tolist():
            edges.append(Edge(int(found.pairs[k, 0]), int(found.pairs[k, 1]), found.side, round(float(probability[k]), 6)))
    return sorted(edges, key=lambda edge: (edge.a, edge.b, edge.side))


def candidates(
    read: Callable[[int], np.ndarray], shapes: Sequence[tuple[int, int]], *, workers: int | None = None
) -> tuple[list[Matches], dict[int, int]]:
    """The candidates that `find_neighbours` judges, and the copies among the tiles, each with its original."""
    facings, out, into = read_borders(read, shapes, workers=workers)
    twins = _twins(facings)
    facings = [_without(facing, twins) for facing in facings]
    facings = [facing for facing in facings if len(facing.tiles) > 1]
    seam = _learn_again(facings, out, into, workers)
    matches = [match(facing, seam, workers=workers) for facing in facings] if len(seam.correlation) else []
    return matches, twins


def from_places(grids: Sequence[Grid | None]) -> list[Edge]:
    """Edges between tiles with a place on earth: certain, and in no need of pixels.

    Args:
        grids: The grid of each tile; None, or one without a CRS, where it has no place.

    Returns:
        Edges of probability 1: right and below where tiles of one resolution lie in step, up to `GAP` pixels apart; "same" where they
        overlap, or touch out of step.
    """
    edges = []
    by_crs: dict[str, list[int]] = defaultdict(list)
    for i, grid in enumerate(grids):
        if grid is not None and grid.crs is not None and grid.is_georeferenced:
            by_crs[grid.crs.to_wkt()].append(i)
    for tiles in by_crs.values():
        placed = [(i, grid) for i in tiles if (grid := grids[i]) is not None]
        outlines = [shapely.Polygon([grid.transform @ corner for corner in _corners(grid)]) for _, grid in placed]
        tree = shapely.STRtree(outlines)
        reach = [GAP * abs(grid.transform.determinant) ** 0.5 for _, grid in placed]
        for (a, first), (b, second) in ((placed[i], placed[j]) for i, j in tree.query(outlines, "dwithin", reach).T.tolist() if i != j):
            side = _relation(first, second)
            if side is not None and (side != "same" or a < b):
                edges.append(Edge(a, b, side, 1.0))
    return sorted(edges, key=lambda edge: (edge.a, edge.b, edge.side))


def match(facing: Facing, seam: Seam, rows: np.ndarray | None = None, workers: int | None = None) -> Matches:
    """Match the sides of a facing: a search over all pairs, then the full comparison of the best.

    Args:
        facing: The sides.
        seam: What makes them fit.
        rows: The out sides to begin from, for a sample; all when None.
        workers: Threads; every core when None.
    """
    count = len(facing.tiles)
    out, into = seam.features(facing.out), seam.features(facing.into)
    (seek_out, found_out), (seek_into, found_into) = (seam.descriptors(side, PER_PIECE) for side in (out, into))
    forward = nearest(seek_out, found_into, CANDIDATES, rows, workers)
    columns = None if rows is None else np.unique(forward[:, 1])
    backward = nearest(seek_into, found_out, CANDIDATES, columns, workers)
    pairs = np.unique(np.concatenate([forward, backward[:, ::-1]]), axis=0)
    fit, strangers = seam.fit(out, into, pairs)
    chance = [
        _chance(side, strips, seam, those, workers) for side, strips, those in ((out, facing.out, rows), (into, facing.into, columns))
    ]
    i, j = pairs.T
    weight = out.values.shape[1] * out.values.shape[2]
    margin = (fit - np.maximum(_others(fit, i, count), _others(fit, j, count))) * weight
    lead = (fit - np.maximum(np.maximum(chance[0][i], chance[1][j]), strangers)) * weight
    speaks = (fit - strangers) * weight > SPEAKS
    speaks &= has_contrast(facing.out)[i] & has_contrast(facing.into)[j]
    return Matches(facing.side, facing.tiles[pairs[speaks]], fit[speaks], margin[speaks], lead[speaks])


def _chance(side: Features, strips: np.ndarray, seam: Seam, rows: np.ndarray | None, workers: int | None) -> np.ndarray:
    """The best fit of each of these sides with one that it cannot face: of the same side of other tiles, or, of few tiles, turned round."""
    seek, found = seam.descriptors(side, PER_PIECE)
    best = np.full(len(strips), -np.inf, np.float32)
    others = [(side, found)]
    if len(strips) < FEW:
        turned = seam.features(strips[:, ::-1])
        others.append((turned, seam.descriptors(turned, PER_PIECE)[1]))
    for other, descriptors in others:
        pairs = nearest(seek, descriptors, RIVALS, rows, workers)
        np.maximum.at(best, pairs[:, 0], seam.fit(side, other, pairs)[0])
    return best


def nearest(first: np.ndarray, second: np.ndarray, count: int, rows: np.ndarray | None = None, workers: int | None = None) -> np.ndarray:
    """For rows of `first` (all when `rows` is None) the `count` rows of `second` of least product, not the row itself: (m, 2)."""
    number = len(second)
    wanted = np.arange(len(first)) if rows is None else rows
    count = min(count + 1, number)  # one more, because the row itself may be among them

    def search(start: int) -> np.ndarray:
        mine = wanted[start : start + _ROWS]
        block = first[mine]
        row, column, value = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
        limit = np.full(len(mine), np.inf, np.float32)
        for left in range(0, number, _COLUMNS):
            product = block @ second[left : left + _COLUMNS].T
            if left == 0 and product.shape[1] > count:
                limit = np.nextafter(np.partition(product, count - 1, axis=1)[:, count - 1], np.float32(np.inf))
            r, c = np.nonzero(product < limit[:, None])
            row, column, value = np.r_[row, r], np.r_[column, c + left], np.r_[value, product[r, c]]
            order = np.lexsort((column, value, row))
            row, column, value = row[order], column[order], value[order]
            place = np.arange(len(row)) - np.searchsorted(row, row)
            kept = place < count
            row, column, value, place = row[kept], column[kept], value[kept], place[kept]
            limit[row[place == count - 1]] = value[place == count - 1]
        found = np.column_stack([mine[row], column])
        return np.asarray(found[found[:, 0] != found[:, 1]])

    starts = range(0, len(wanted), _ROWS)
    found = list(progress(parallel_map(search, starts, workers=workers), "matching borders", len(starts), "blocks"))
    return np.concatenate(found) if found else np.zeros((0, 2), np.int64)


def judge(matches: Sequence[Matches], count: int) -> list[np.ndarray]:
    """The probability of each candidate of a data set of `count` tiles: (m,) float64 for each of `matches`."""
    return [1 / (1 + np.exp(-(found * WEIGHTS).sum(axis=1))) for found in evidence(matches, count)]


def evidence(matches: Sequence[Matches], count: int) -> list[np.ndarray]:
    """What `WEIGHTS` weigh: a candidate's own evidence, and whether the tiles round its corners agree; (m, 7) for each of `matches`."""
    best = {side: np.full((2, count), -1) for side in ("right", "below")}
    for found in matches:
        a, b = found.pairs[found.margin > 0].T
        best[found.side][0, a], best[found.side][1, b] = b, a
    result = []
    for found in matches:
        own, other = best[found.side], best["below" if found.side == "right" else "right"]
        a, b = found.pairs.T
        closed, against = np.zeros(len(a), int), np.zeros(len(a), bool)
        for turn in other:
            # The next tile beside a and the next beside b must be neighbours as a and b are.
            c, d = turn[a], turn[b]
            known = (c >= 0) & (d >= 0)
            agree = known & (own[0, c] == d)
            closed += agree
            against |= known & ~agree & ((own[0, c] >= 0) | (own[1, d] >= 0))
        own_evidence = [np.clip(v, -MOST_NATS, MOST_NATS) for v in (found.margin, found.lead)]
        columns = [np.ones(len(a)), *own_evidence, np.clip(found.fit, -0.6, 0), closed >= 1, closed >= 2, against]
        result.append(np.column_stack(columns).astype(np.float64))
    return result


def _learn_again(facings: Sequence[Facing], out: np.ndarray, into: np.ndarray, workers: int | None) -> Seam:
    """Learn the seam from inner cuts, and again from what is surely matched by it; inner cuts fill up where that is little."""
    seam = Seam(out, into)
    if not (facings and len(seam.correlation)):
        return seam
    sides: list[list[np.ndarray]] = [[], []]
    total = sum(len(facing.tiles) for facing in facings)
    for facing in facings:
        n = len(facing.tiles)
        rows = np.unique(np.linspace(0, n - 1, min(n, max(1, LEARN_FROM * n // total))).round().astype(int))
        found = match(facing, seam, rows, workers)
        sure = found.pairs[(found.margin > SURE) & (found.lead > SURE)]
        at = np.searchsorted(facing.tiles, sure)
        for k, strips in enumerate((facing.out, facing.into)):
            cut = pieces(strips[at[:, k]])
            sides[k].append(cut.reshape(-1, *cut.shape[2:]))
    count = sum(len(cut) for cut in sides[0])
    log.info("neighbours: %s sure matches of pieces to learn from", f"{count:,}")
    fill = np.unique(np.linspace(0, len(out) - 1, max(0, ENOUGH - count)).round().astype(int)) if len(out) else np.zeros(0, int)
    first, second = (np.concatenate([*side, inner[fill]]) for side, inner in zip(sides, (out, into), strict=True))
    return Seam(first, second)


def _others(fit: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    """For each entry the best fit among the other entries of its row; -inf where it is alone."""
    order = np.lexsort((np.arange(len(fit)), -fit, rows))
    is_first = np.r_[True, rows[order][1:] != rows[order][:-1]][: len(order)]
    is_second = np.r_[False, is_first[:-1]] & ~is_first
    best, next_best = (np.full(count, -np.inf, np.float32) for _ in range(2))
    best[rows[order[is_first]]] = fit[order[is_first]]
    next_best[rows[order[is_second]]] = fit[order[is_second]]
    leads = np.zeros(len(fit), bool)
    leads[order[is_first]] = True
    return np.asarray(np.where(leads, next_best[rows], best[rows]))


def _twins(facings: Sequence[Facing]) -> dict[int, int]:
    """Tiles whose borders equal those of an earlier tile → that tile; borders of one value are left alone."""
    digests: dict[int, list[bytes]] = defaultdict(list)
    flat: dict[int, bool] = defaultdict(lambda: True)
    for facing in facings:
        for i, out, into in zip(facing.tiles.tolist(), facing.out, facing.into, strict=True):
            digests[i] += [xxhash.xxh3_128_digest(strip.tobytes()) for strip in (out, into)]
            flat[i] &= bool((out == out[:1]).all() and (into == into[:1]).all())
    first: dict[tuple[bytes, ...], int] = {}
    twins = {}
    for i in sorted(digests):
        if not flat[i]:
            original = first.setdefault(tuple(digests[i]), i)
            if original != i:
                twins[i] = original
    return twins


def _without(facing: Facing, twins: dict[int, int]) -> Facing:
    if not twins:
        return facing
    kept = np.array([i not in twins for i in facing.tiles.tolist()])
    return Facing(facing.side, facing.tiles[kept], facing.out[kept], facing.into[kept])


def _corners(grid: Grid) -> Iterator[tuple[int, int]]:
    yield from ((0, 0), (grid.width, 0), (grid.width, grid.height), (0, grid.height))


def _relation(first: Grid, second: Grid) -> Side | None:
    """How the second lies to the first: measured in pixels of the first."""
    step = ~first.transform @ second.transform
    (left, top), (right, bottom) = step @ (0, 0), step @ (second.width, second.height)
    in_step = np.allclose((step.a, step.b, step.d, step.e), (1, 0, 0, 1), atol=1e-3)
    half = 0.5
    if in_step and abs(top) <= half and -half <= left - first.width <= GAP:
        return "right"
    if in_step and abs(left) <= half and -half <= top - first.height <= GAP:
        return "below"
    touches = max(left, -half) <= first.width + half and right >= -half and top <= first.height + half and bottom >= -half
    corner_only = not (min(right, first.width) - max(left, 0) > half or min(bottom, first.height) - max(top, 0) > half)
    return "same" if touches and not corner_only else None
