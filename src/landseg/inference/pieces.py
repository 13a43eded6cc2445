"""An image of any size through a network, piece by piece, in bounded memory. It blends no borders and knows no files.

Vocabulary: a *piece* is what the network sees at once, its *core* the part of its result that is kept; around the core lies a *margin* of
context, but for where the image ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from landseg.core.grid import Window
from landseg.core.progress import parallel_map, progress

EDGE = 1024
"""Edge length in pixels of a piece, where tiles of training were no larger: an image up to this goes through the network whole."""

MARGIN = 1 / 8
"""Of a piece's edge that is context on either side; the cores of 1,024 pixel pieces are 768 pixels wide, so 1.8 times the work."""

Run = Callable[[np.ndarray], np.ndarray]
"""(N, H, W, C) images → (N, …, H, W): class ids, or logits."""


@dataclass(frozen=True)
class Piece:
    """What the network sees, and the core of it; both are windows of the image."""

    seen: Window
    core: Window

    def kept(self, found: np.ndarray) -> np.ndarray:
        """The core of a result (…, H, W) for what was seen: a view."""
        row, col = self.core.row - self.seen.row, self.core.col - self.seen.col
        return found[..., row : row + self.core.height, col : col + self.core.width]


def piece_edge(tile_size: tuple[int, int], factor: float) -> int:
    """Edge length in pixels of the pieces for a model: a multiple of 32, so that a piece is not filled up for the network.

    Args:
        tile_size: (height, width) of the tiles it was trained on; pieces are not smaller, for it was never asked to do with less context.
        factor: By which the network makes images larger; pieces are smaller then, because its memory goes by its own pixels.
    """
    return 32 * math.ceil(max(*tile_size, EDGE / max(1.0, factor)) / 32)


def pieces(height: int, width: int, edge: int) -> list[Piece]:
    """The pieces of an image on a fixed grid; their cores cover every pixel once, and around each core lies the margin or the image's end.

    All pieces have the same size, `edge` a side or less: those at the far ends are moved back into the image. An image of at most `edge` a
    side is one piece.
    """
    rows, cols = _side(height, edge), _side(width, edge)
    return [Piece(Window(a.start, b.start, a.size, b.size), Window(a.begin, b.begin, a.kept, b.kept)) for a in rows for b in cols]


def by_pieces(run: Run, image: np.ndarray, edge: int, lanes: int = 1) -> Iterator[tuple[Window, np.ndarray]]:
    """Run a network over an image of any size; each piece by itself, so that no result depends on a batch.

    Args:
        run: The network.
        image: (H, W, C).
        edge: From `piece_edge`.
        lanes: Pieces at a time, on threads of their own: the engine's (`network.engine`).

    Yields:
        Windows that cover the image once, and the network's result there, (…, h, w).
    """
    todo = pieces(image.shape[0], image.shape[1], edge)

    def found(piece: Piece) -> tuple[Window, np.ndarray]:
        return piece.core, piece.kept(run(np.ascontiguousarray(image[piece.seen.slices])[None])[0])

    if len(todo) == 1:
        yield found(todo[0])
        return
    results = map(found, todo) if lanes == 1 else parallel_map(found, todo, workers=lanes, ahead=0)
    yield from progress(results, "pieces", len(todo), unit="pieces")


def class_ids(run: Run, image: np.ndarray, edge: int, lanes: int = 1) -> np.ndarray:
    """(H, W) uint8 ids of an image (H, W, C); `run` gives ids."""
    ids = np.zeros(image.shape[:2], np.uint8)
    for window, found in by_pieces(run, image, edge, lanes):
        ids[window.slices] = found
    return ids


class _Span(NamedTuple):
    """A piece along one side: where it starts, how long it is, where its core begins, how long that is."""

    start: int
    size: int
    begin: int
    kept: int


def _side(length: int, edge: int) -> list[_Span]:
    if length <= edge:
        return [_Span(0, length, 0, length)]
    margin = int(edge * MARGIN)
    count = math.ceil((length - 2 * margin) / (edge - 2 * margin))
    # As long as that many pieces must be, and a multiple of 32: an image of 1,040 pixels needs no two pieces of 1,024.
    size = min(edge, 32 * math.ceil((length + (count - 1) * 2 * margin) / count / 32))
    spans: list[_Span] = []
    step, begin = size - 2 * margin, 0
    while begin < length:
        start = min(len(spans) * step, length - size)
        end = length if start + size == length else start + size - margin
        spans.append(_Span(start, size, begin, end - begin))
        begin = end
    return spans
