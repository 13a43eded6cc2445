"""What the training loop draws from: shuffled batches of tiles or crops of one shape, read ahead on a thread. It changes no pixel value."""

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

_AHEAD_BYTES = 1_000_000_000
"""Fewer wait where they are larger than this together: 224 bands are."""

LONGEST = 1024
"""Pixels a side of the tiles that are trained on whole where no crop is set."""

CROP = 512
"""Edge length of the crops of larger ones. Source: the custom of the field; 16 of them are what a GPU of 16 GB bears."""

_PLACES = 8
"""Places that are drawn for a crop, until labels are found there: where a tenth of all places have some, half of the crops do."""


@dataclass(frozen=True)
class Batch:
    """Tiles or crops of one step: their keys (N,), images (N, H, W, C) in the store's dtype, labels (N, H, W) uint8."""

    keys: np.ndarray
    images: np.ndarray
    labels: np.ndarray


class Batches:
    """Batches of a part, drawn anew each epoch.

    All images have one shape. A smaller tile is filled up with the ignore index. Of a larger one, each epoch takes as many crops as fit
    into its area, each at a place drawn for (seed, epoch, tile, number of the crop): the first of a few where labels lie at least half as
    dense as in the whole tile, so that sparse labels are met and dense ones are met evenly. Batches of an epoch differ in size by one at
    most, so that nothing is left out and no batch is too small for batch normalisation.

    Args:
        store: The tiles.
        indices: Which of them.
        size: Tiles or crops a batch; at most, but for a batch of three where two are asked for and they are odd in number.
        seed: Of order and crops.
        workers: Threads that decode, where the store decodes at each reading; every core when None.
        crop: Edge length in pixels of the crops; see `crop_shape`.
    """

    def __init__(
        self, store: TileStore, indices: Sequence[int], size: int, seed: int, workers: int | None = None, crop: int | None = None
    ) -> None:
        self._store, self._seed = store, seed
        sizes = np.array([(store.entries[i].height, store.entries[i].width) for i in indices], np.int64)
        self.shape = crop_shape(sizes, crop)
        counts = sizes.prod(1) // np.minimum(sizes, self.shape).prod(1)
        self._indices = np.repeat(np.asarray(indices, np.int64), counts)
        names = [store.entries[i].name for i in indices]
        # The first crop has the tile's own key; no tile's name holds a zero byte.
        self._keys = tile_keys([f"{name}\0{k}" if k else name for name, count in zip(names, counts, strict=True) for k in range(count)])
        if len(self._indices) == 1:  # one image makes no variance for batch normalisation: it comes twice
            self._indices, self._keys = self._indices.repeat(2), self._keys.repeat(2)
        # As few as hold `size` at most (what the memory was found to hold), of two at least.
        self.count = max(1, min(math.ceil(len(self._indices) / size), len(self._indices) // 2))
        self._workers = 1 if store.is_mapped else workers

    @property
    def images(self) -> int:
        """Tiles and crops an epoch."""
        return len(self._indices)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from batch `start` on, in the epoch's own order, made ahead of their use."""
        order = np.argsort(uniform(self._seed, epoch, self._keys, "order"), kind="stable")
        pixels = math.ceil(len(order) / self.count) * self.shape[0] * self.shape[1]
        size = pixels * (self._store.bands * np.dtype(self._store.dtype).itemsize + 1)
        ahead = max(1, min(_AHEAD, _AHEAD_BYTES // size))
        yield from _read_ahead((self._make(epoch, chosen) for chosen in np.array_split(order, self.count)[start:]), ahead)

    def _make(self, epoch: int, chosen: np.ndarray) -> Batch:
        keys = self._keys[chosen]
        images = np.zeros((len(chosen), *self.shape, self._store.bands), self._store.dtype)
        labels = np.full((len(chosen), *self.shape), IGNORE_INDEX, np.uint8)

        def fill(n: int) -> None:
            i = int(self._indices[chosen[n]])
            label = self._store.label(i)
            taken = self._place(i, label, epoch, keys[n : n + 1])
            height, width = label[taken].shape
            images[n, :height, :width] = self._store.image(i)[taken]
            labels[n, :height, :width] = label[taken]

        for _ in parallel_map(fill, range(len(chosen)), workers=self._workers):
            pass
        return Batch(keys, images, labels)

    def _place(self, i: int, label: np.ndarray, epoch: int, key: np.ndarray) -> tuple[slice, slice]:
        """Which part of tile `i` is taken."""
        entry, (height, width) = self._store.entries[i], self.shape
        if entry.height <= height and entry.width <= width:
            return slice(None), slice(None)
        free = max(0, entry.height - height), max(0, entry.width - width)
        area, whole = min(height, entry.height) * min(width, entry.width), entry.height * entry.width
        labelled = sum(entry.class_pixels)
        wanted = labelled / whole * area / 2 if labelled < whole else 0.0  # wherever it lies, a crop of a labelled tile is labelled
        best, most = (slice(None), slice(None)), -1
        for k in range(_PLACES):
            purposes = [f"crop {side} {k}" if k else f"crop {side}" for side in ("row", "col")]
            row, col = (int(uniform(self._seed, epoch, key, word)[0] * (room + 1)) for word, room in zip(purposes, free, strict=True))
            taken = slice(row, row + height), slice(col, col + width)
            found = int(np.count_nonzero(label[taken] != IGNORE_INDEX)) if wanted else 0
            if found > most:
                best, most = taken, found
            if found >= wanted:
                break
        return best


def crop_shape(sizes: np.ndarray, crop: int | None) -> tuple[int, int]:
    """The shape (height, width) of what is trained on.

    Args:
        sizes: (N, 2) heights and widths of the tiles.
        crop: Edge length in pixels of a square, which is as long as the longest tile at most; None for the shape that most tiles have,
            or, where not even a quarter share one, a square as long as the median tile's shorter side; `CROP` where that is longer than
            `LONGEST`.
    """
    if crop is not None:
        height, width = np.minimum(sizes.max(0), crop).tolist()
        return height, width
    (shape, count), *_ = Counter(map(tuple, sizes.tolist())).most_common(1)
    if 4 * count < len(sizes):
        shape = (int(np.median(sizes.min(1))),) * 2
    return shape if max(shape) <= LONGEST else (min(shape[0], CROP), min(shape[1], CROP))


def _read_ahead(batches: Iterator[Batch], ahead: int) -> Iterator[Batch]:
    """Make batches on a thread while the loop computes; what goes wrong there comes out here."""
    ready: queue.Queue[Batch | BaseException | None] = queue.Queue(ahead)
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
