"""Overlapping windows of a scene → seamless logits, in memory that does not grow with the scene's height. It runs no network.

Windows stand on a grid that follows from the scene's shape alone. Each pixel's logits are the weighted mean of what its windows say,
summed from left to right within a row of windows and then from top to bottom, whatever part of the scene is asked for; so a part has the
same bits as the whole.

Vocabulary: a *side* is the scene's height or width with the windows along it; a *strip* is the rows that are complete once a row of
windows is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from landseg.core.errors import LandsegError
from landseg.core.grid import Window

MOST_OVERLAP = 0.75
"""Of a window's edge; at this each pixel is predicted sixteen times."""

STRIDE = 32
"""A scene that is shorter than a window gets windows of the next multiple of this, which is what the network fills an image up to."""

CARRIED_BYTES = 64_000_000
"""Unfinished rows that stay in memory; those of wider scenes, or of more classes, wait in files."""


@dataclass(frozen=True)
class Side:
    """Windows along one side of a scene: the first begins where the scene does, the last ends where it ends, evenly between.

    Args:
        length: Of the scene in pixels.
        edge: Of a window in pixels; a shorter scene has one window, which may reach beyond its end.
        overlap: Share of the edge that two neighbours have in common at least, 0..0.75.

    Raises:
        LandsegError: No such overlap.
    """

    length: int
    edge: int
    overlap: float

    def __post_init__(self) -> None:
        if not 0 <= self.overlap <= MOST_OVERLAP or self.edge < 1 or self.length < 1:
            found = f"overlap {self.overlap:g} of windows of {self.edge} pixels on {self.length}"
            raise LandsegError("predict.overlap", found, f"a share of 0 to {MOST_OVERLAP:g}", "--set predict.overlap=0.25")

    @cached_property
    def size(self) -> int:
        """Edge length of every window along this side."""
        return self.edge if self.length >= self.edge else min(self.edge, STRIDE * math.ceil(self.length / STRIDE))

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Where each window begins."""
        if self.length <= self.size:
            return (0,)
        common = min(int(self.size * self.overlap), self.size - 1)
        steps = math.ceil((self.length - self.size) / (self.size - common))
        return tuple(round(i * (self.length - self.size) / steps) for i in range(steps + 1))

    @cached_property
    def bounds(self) -> tuple[int, ...]:
        """What is complete once window `i` is there ends at `bounds[i + 1]`, and began at `bounds[i]`."""
        return (*self.starts, self.length)

    def touching(self, begin: int, end: int) -> range:
        """The numbers of the windows that hold any of the pixels `begin`..`end`: all that these depend on."""
        held = [i for i, start in enumerate(self.starts) if start < end and start + self.size > begin]
        return range(held[0], held[-1] + 1)

    def weights(self, i: int) -> np.ndarray:
        """(size,) float32 of window `i`: a squared sine, above 0 everywhere, divided by the sum of all windows at each pixel.

        A pixel of a single window weighs exactly 1.
        """
        start = self.starts[i]
        return np.asarray(self._hill / self._total[start : start + self.size], np.float32)

    @cached_property
    def _hill(self) -> np.ndarray:
        return np.asarray(np.sin(np.pi * (np.arange(self.size) + 0.5) / self.size) ** 2)

    @cached_property
    def _total(self) -> np.ndarray:
        total = np.zeros(max(self.length, self.size))
        for start in self.starts:
            total[start : start + self.size] += self._hill
        return total


class Prediction(NamedTuple):
    """What is known of one window: which pixels are valid (height, width), and logits (K, height, width), None where no pixel is."""

    valid: np.ndarray
    logits: np.ndarray | None


class Block(NamedTuple):
    """Finished pixels: their window of the scene, what is valid in it, and their logits, None where no pixel is; views until the next."""

    window: Window
    valid: np.ndarray
    logits: np.ndarray | None


def windows(rows: Side, cols: Side, part: Window) -> Iterator[tuple[int, int]]:
    """The numbers (row, col) of the windows on which a part of the scene depends, row by row."""
    for row in rows.touching(part.row, part.row + part.height):
        for col in cols.touching(part.col, part.col + part.width):
            yield row, col


def blended(rows: Side, cols: Side, part: Window, predicted: Iterable[Prediction], spill: Path) -> Iterator[Block]:
    """Blend the windows of a part of a scene.

    Args:
        rows: The windows along the scene's height.
        cols: The windows along its width.
        part: What is asked for.
        predicted: One a window, in the order of `windows`. Their logits are weighted where they lie, and are of no use afterwards.
        spill: A folder for what waits where it is too much for memory; files in it are removed.

    Yields:
        Blocks that cover `part` once, strip by strip and from left to right.
    """
    carry = _Carry(spill)
    drawn = iter(predicted)
    across = cols.touching(part.col, part.col + part.width)
    down = rows.touching(part.row, part.row + part.height)
    for row in down:
        weights = rows.weights(row)[:, None]
        done = rows.bounds[row + 1] - rows.starts[row]
        waiting: np.ndarray | None = None
        for col in across:
            found = next(drawn)
            ready = cols.bounds[col + 1] - cols.starts[col]
            waiting = _plus(waiting, found.logits, weights * cols.weights(col))
            block, waiting = _divided(waiting, ready, axis=2)
            block = _stacked(carry.take(col), block)
            block, later = _divided(block, done, axis=1)
            if row + 1 < down.stop:
                carry.keep(col, None if later is None else later.copy(), len(across))  # a view would hold the whole window
            finished = _cut(Window(rows.starts[row], cols.starts[col], done, ready), part)
            if finished is not None:
                inside = Window(finished.row - rows.starts[row], finished.col - cols.starts[col], finished.height, finished.width)
                valid = found.valid[inside.slices]
                yield Block(finished, valid, None if block is None or not valid.any() else block[:, *inside.slices])


def _plus(total: np.ndarray | None, logits: np.ndarray | None, weights: np.ndarray) -> np.ndarray | None:
    """The weighted logits of a window, and in its first columns `total`, what other windows have said there."""
    weighted: np.ndarray
    if logits is not None:
        weighted = np.multiply(logits, weights, out=logits)
    elif total is not None:
        weighted = np.zeros((len(total), *weights.shape), np.float32)
    else:
        return None
    if total is not None:
        weighted[:, :, : total.shape[2]] += total
    return weighted


def _divided(total: np.ndarray | None, at: int, axis: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    """What lies before and from `at` along an axis, as views."""
    if total is None:
        return None, None
    return (total[:, :at], total[:, at:]) if axis == 1 else (total[:, :, :at], total[:, :, at:])


def _stacked(carried: np.ndarray | None, block: np.ndarray | None) -> np.ndarray | None:
    """The rows of `block` with those carried from above added to the first of them."""
    if carried is None or block is None:
        return carried if block is None else block
    block[:, : carried.shape[1]] += carried
    return block


def _cut(window: Window, part: Window) -> Window | None:
    """What two windows have in common."""
    row, col = max(window.row, part.row), max(window.col, part.col)
    end_row, end_col = min(window.row + window.height, part.row + part.height), min(window.col + window.width, part.col + part.width)
    return Window(row, col, end_row - row, end_col - col) if row < end_row and col < end_col else None


class _Carry:
    """Rows that wait for the windows below, a block a column of windows: in memory, or in files where they are many."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[int, np.ndarray] = {}
        self._filed: set[int] = set()

    def keep(self, col: int, block: np.ndarray | None, columns: int) -> None:
        """Hold a block until it is taken; `columns` of its size are expected."""
        if block is None or not block.size:
            return
        if block.nbytes * columns <= CARRIED_BYTES:
            self._held[col] = block
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        np.save(self._path(col), block)
        self._filed.add(col)

    def take(self, col: int) -> np.ndarray | None:
        """The block of a column, once."""
        if col in self._filed:
            self._filed.remove(col)
            block: np.ndarray = np.load(self._path(col))
            self._path(col).unlink()
            return block
        return self._held.pop(col, None)

    def _path(self, col: int) -> Path:
        return self._folder / f"carried-{col}.npy"
