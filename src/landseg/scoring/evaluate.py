"""A model over a part: one confusion matrix a tile. Scores and intervals come from these matrices, elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from landseg.core.progress import progress
from landseg.data.pack import TileStore
from landseg.inference.folder import STEP_VALUES
from landseg.inference.pieces import EDGE, by_pieces
from landseg.scoring.confusion import confusion_matrix

MAX_PIXELS = 4_194_304
"""Of a batch, 16 tiles of 512²: large tiles come fewer at a time, so that their logits fit in memory."""

Predict = Callable[[np.ndarray], np.ndarray]
"""(N, H, W, C) images → (N, H, W) uint8 class ids."""


def tile_matrices(
    predict: Predict,
    store: TileStore,
    indices: Sequence[int],
    classes: int,
    batch: int,
    what: str = "evaluating",
    edge: int = EDGE,
    lanes: int = 1,
) -> np.ndarray:
    """Predict the tiles of a part and count label against prediction.

    Args:
        predict: The model; sees batches of tiles of one shape.
        store: The tiles.
        indices: Which of them.
        classes: Number of classes K.
        batch: Tiles a batch.
        what: Word before the progress bar.
        edge: Tiles longer than this a side are predicted in pieces (`inference.pieces.piece_edge`).
        lanes: Pieces of them at a time, on threads of their own.

    Returns:
        (N, K, K) int64 in the order of `indices`; rows are labels, columns predictions.
    """
    matrices = np.zeros((len(indices), classes, classes), np.int64)
    places = {index: place for place, index in enumerate(indices)}
    batches = list(_batches(store, indices, batch, edge))
    for chosen in progress(batches, what, len(batches), unit="batches"):
        first = store.entries[chosen[0]]
        if max(first.height, first.width) > edge:
            label = store.label(chosen[0])
            for window, pred in by_pieces(predict, store.image(chosen[0]), edge, lanes):
                matrices[places[chosen[0]]] += confusion_matrix(label[window.slices], pred, classes)
            continue
        preds = predict(np.stack([store.image(i) for i in chosen]))
        for i, pred in zip(chosen, preds, strict=True):
            matrices[places[i]] = confusion_matrix(store.label(i), pred, classes)
    return matrices


def grouped(matrices: np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """Sum the matrices of each group's tiles: (N, K, K) → (G, K, K), groups in the order of their first tile."""
    numbers: dict[str, int] = {}
    index = np.array([numbers.setdefault(group, len(numbers)) for group in groups], np.int64)
    sums = np.zeros((len(numbers), *matrices.shape[1:]), np.int64)
    np.add.at(sums, index, matrices)
    return sums


def _batches(store: TileStore, indices: Sequence[int], batch: int, edge: int) -> Iterator[list[int]]:
    """Tiles of one shape at a time, in the order of `indices`; those longer than `edge` one by one."""
    shapes: dict[tuple[int, int], list[int]] = {}
    for i in indices:
        entry = store.entries[i]
        shapes.setdefault((entry.height, entry.width), []).append(i)
    for (height, width), same in shapes.items():
        pixels = height * width
        count = 1 if max(height, width) > edge else max(1, min(batch, MAX_PIXELS // pixels, STEP_VALUES // (pixels * store.bands)))
        for start in range(0, len(same), count):
            yield same[start : start + count]
