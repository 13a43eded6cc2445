"""Connected areas of one class in a raster of any size: runs of pixels, and which of them belong together.

A *run* is a stretch of one row with one value. A raster is read strip by strip into its runs; all else works on them, so memory grows with
the length of the borders, not with the pixels, and nothing depends on where one strip ended. It draws no polygons.

Vocabulary: the *frame* is the raster with one pixel of nothing around it; a *position* counts the pixels of the frame row by row; pixels
are connected by their edges (four neighbours), never by corners.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

NOTHING = 255
"""The value of pixels that belong to no parcel. Source: the contract's nodata of class rasters."""

OUTSIDE = -1
"""The label of pixels that belong to no parcel."""

_RUNS_AT_ONCE = 1 << 21
"""Runs whose neighbours are found at a time; bounds memory, changes no result."""


@dataclass(frozen=True)
class Runs:
    """The runs of a framed raster, in the order of their positions; each row of the frame begins a run.

    Args:
        start: (N,) int64, ascending positions.
        value: (N,) uint8 class ids, or int32 labels.
        height: Rows of the frame: the raster's and two.
        width: Columns of the frame.
    """

    start: np.ndarray
    value: np.ndarray
    height: int
    width: int

    @property
    def lengths(self) -> np.ndarray:
        """(N,) int64: pixels of each run."""
        return np.diff(self.start, append=self.height * self.width)

    @property
    def rows(self) -> np.ndarray:
        """(N,) int64: the row of each run in the frame."""
        return np.asarray(self.start // self.width)

    def with_labels(self, labels: np.ndarray) -> Runs:
        """The runs of `labels` ((N,), one a run): neighbours in a row that have the same label become one run."""
        keep = np.ones(len(labels), bool)
        keep[1:] = (labels[1:] != labels[:-1]) | (self.start[1:] % self.width == 0)
        return Runs(self.start[keep], labels[keep], self.height, self.width)

    def picture(self, height: int, width: int) -> np.ndarray:
        """(height, width) of `value`: the raster reduced, or enlarged, to that many pixels, each the value in its middle."""
        rows, cols = (
            ((np.arange(length) + 0.5) * framed / length).astype(np.int64) + 1
            for length, framed in ((height, self.height - 2), (width, self.width - 2))
        )
        shown = np.empty((height, width), self.value.dtype)
        for i, row in enumerate(rows):
            shown[i] = self.value[np.searchsorted(self.start, row * self.width + cols, "right") - 1]
        return shown


class Contacts(NamedTuple):
    """Where runs of two neighbouring rows touch, from left to right and downwards; each row of the frame but the first begins a contact.

    Args:
        position: (M,) int64: position of the first pixel below the contact.
        above: (M,) int64: index of the run above.
        below: (M,) int64: index of the run below.
        length: (M,) int64: pixels.
    """

    position: np.ndarray
    above: np.ndarray
    below: np.ndarray
    length: np.ndarray


def find_runs(
    strips: Iterable[np.ndarray], height: int, width: int, nothing: int = NOTHING, dtype: type[np.integer[Any]] = np.uint8
) -> Runs:
    """The runs of a class raster, or of one of labels.

    Args:
        strips: (rows, width) of `dtype` each, from top to bottom, together `height` rows.
        height: Rows of the raster.
        width: Columns of the raster.
        nothing: The value of the frame.
        dtype: np.uint8, or np.int32 for labels.
    """
    framed_width, row = width + 2, 1
    starts, values = [np.zeros(1, np.int64)], [np.full(1, nothing, dtype)]
    for strip in strips:
        framed = np.full((len(strip), framed_width), nothing, dtype)
        framed[:, 1:-1] = strip
        begins = np.ones(framed.shape, bool)
        np.not_equal(framed[:, 1:], framed[:, :-1], out=begins[:, 1:])
        places = np.flatnonzero(begins)
        starts.append(places + row * framed_width)
        values.append(framed.reshape(-1)[places])
        row += len(strip)
    if row != height + 1:
        raise ValueError(f"{row - 1} rows came of {height}")
    starts.append(np.array([row * framed_width]))
    values.append(np.full(1, nothing, dtype))
    return Runs(np.concatenate(starts), np.concatenate(values), height + 2, framed_width)


def contacts(runs: Runs) -> Iterator[Contacts]:
    """Every contact of runs in neighbouring rows of the frame, some rows at a time."""
    firsts = np.searchsorted(runs.start, np.arange(runs.height + 1) * runs.width)
    row = 0
    while row < runs.height - 1:
        last = max(row + 1, min(int(np.searchsorted(firsts, firsts[row] + _RUNS_AT_ONCE, "right")) - 1, runs.height - 1))
        above, below = slice(firsts[row], firsts[last]), slice(firsts[row + 1], firsts[last + 1])
        places = np.concatenate([runs.start[above] + runs.width, runs.start[below]])
        order = np.argsort(places, kind="stable")  # two ascending halves: one merge
        places = places[order]
        is_above = order < above.stop - above.start
        # Of two runs that begin at one column, the second makes the contact: both counts include them then.
        keep = np.ones(len(places), bool)
        keep[:-1] = places[1:] != places[:-1]
        upper = (np.cumsum(is_above) - 1 + above.start)[keep]
        lower = (np.cumsum(~is_above) - 1 + below.start)[keep]
        kept = places[keep]
        yield Contacts(kept, upper, lower, np.diff(kept, append=(last + 1) * runs.width))
        row = last


def label(runs: Runs) -> tuple[np.ndarray, int]:
    """Connected areas of one class, counted in the order of their first pixels.

    Returns:
        (N,) int32 label of each run, `OUTSIDE` where there is nothing; and how many areas there are.
    """
    pairs = []
    for touch in contacts(runs):
        value = runs.value[touch.above]
        same = (value == runs.value[touch.below]) & (value != NOTHING)
        pairs.append(np.stack([touch.above[same], touch.below[same]]).astype(np.int32))
    labels = join(len(runs.start), np.concatenate(pairs, axis=1))
    is_inside = runs.value != NOTHING
    # Those of nothing are taken out of the count; the others stay in order.
    heads = np.zeros(int(labels.max()) + 1, bool)
    heads[labels[is_inside]] = True
    numbers = np.where(heads, np.cumsum(heads) - 1, OUTSIDE).astype(np.int32)
    return numbers[labels], int(heads.sum())


def join(count: int, pairs: np.ndarray) -> np.ndarray:
    """Groups of things that are joined by pairs.

    Args:
        count: How many things.
        pairs: (2, M) indices.

    Returns:
        (count,) int32: the group of each, counted in the order of their first members.
    """
    graph = coo_array((np.ones(pairs.shape[1], np.bool_), (pairs[0], pairs[1])), shape=(count, count))
    total, groups = connected_components(graph, directed=False)
    first = np.empty(total, np.int64)
    first[groups[::-1]] = np.arange(count - 1, -1, -1)
    rank = np.empty(total, np.int32)
    rank[np.argsort(first)] = np.arange(total, dtype=np.int32)
    return np.asarray(rank[groups])
