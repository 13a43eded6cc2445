"""What the training loop draws from: shuffled batches of equal shape, read ahead on a thread. It changes no pixel value."""

from __future__ import annotations

import math
import queue
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from landseg.core.classes import IGNORE_INDEX
from landseg.core.progress import parallel_map
from landseg.data.pack import TileStore
from landseg.training.draws import tile_keys, uniform

_AHEAD = 3
"""Batches that may wait for the loop."""


@dataclass(frozen=True)
class Batch:
    """Tiles of one step: their keys (N,), images (N, H, W, C) in the store's dtype, labels (N, H, W) uint8."""

    keys: np.ndarray
    images: np.ndarray
    labels: np.ndarray


class Batches:
    """Batches of a part, drawn anew each epoch.

    Tiles come in the shape that most tiles of the part have; larger ones are cropped at a place drawn for (seed, epoch, tile), smaller ones
    are filled with the ignore index. Batches of an epoch differ in size by one tile at most, so that no tile is left out and no batch is
    too small for batch normalisation.

    Args:
        store: The tiles.
        indices: Which of them.
        size: Tiles a batch; at most, but for a batch of three where two are asked for and the tiles are odd in number.
        seed: Of order and crops.
        workers: Threads that decode, where the store decodes at each reading; every core when None.
    """

    def __init__(self, store: TileStore, indices: Sequence[int], size: int, seed: int, workers: int | None = None) -> None:
        self._store, self._seed = store, seed
        # One tile makes no variance for batch normalisation: it comes twice.
        self._indices = np.asarray(indices if len(indices) > 1 else [*indices, *indices], np.int64)
        self._keys = tile_keys([store.entries[i].name for i in self._indices])
        self.shape = Counter((store.entries[i].height, store.entries[i].width) for i in self._indices).most_common(1)[0][0]
        # As few as hold `size` tiles at most (what the memory was found to hold), of two tiles at least.
        self.count = max(1, min(math.ceil(len(self._indices) / size), len(self._indices) // 2))
        self._workers = 1 if store.is_mapped else workers

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from batch `start` on, in the epoch's own order, made ahead of their use."""
        order = np.argsort(uniform(self._seed, epoch, self._keys, "order"), kind="stable")
        yield from _read_ahead(self._make(epoch, chosen) for chosen in np.array_split(order, self.count)[start:])

    def _make(self, epoch: int, chosen: np.ndarray) -> Batch:
        keys = self._keys[chosen]
        places = np.stack([uniform(self._seed, epoch, keys, side) for side in ("crop row", "crop col")], 1)
        images = np.zeros((len(chosen), *self.shape, self._store.bands), self._store.dtype)
        labels = np.full((len(chosen), *self.shape), IGNORE_INDEX, np.uint8)

        def fill(n: int) -> None:
            i = int(self._indices[chosen[n]])
            entry = self._store.entries[i]
            (row, to_row), (col, to_col) = (
                _overlap(have, want, float(place))
                for have, want, place in zip((entry.height, entry.width), self.shape, places[n], strict=True)
            )
            images[n][to_row, to_col] = self._store.image(i)[row, col]
            labels[n][to_row, to_col] = self._store.label(i)[row, col]

        for _ in parallel_map(fill, range(len(chosen)), workers=self._workers):
            pass
        return Batch(keys, images, labels)


def _overlap(have: int, want: int, place: float) -> tuple[slice, slice]:
    """Along one side: which pixels of the tile are taken, and where they go."""
    if have >= want:
        start = int(place * (have - want + 1))
        return slice(start, start + want), slice(0, want)
    return slice(0, have), slice(0, have)


def _read_ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Make batches on a thread while the loop computes; what goes wrong there comes out here."""
    ready: queue.Queue[Batch | BaseException | None] = queue.Queue(_AHEAD)
    is_over = threading.Event()

    def put(item: Batch | BaseException | None) -> bool:
        while not is_over.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def make() -> None:
        try:
            for batch in batches:
                if not put(batch):
                    return
            put(None)
        except BaseException as error:  # noqa: BLE001 - handed to the loop, which raises it
            put(error)

    thread = threading.Thread(target=make, name="landseg-batches", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        is_over.set()
        thread.join()
