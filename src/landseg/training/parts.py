"""Which pixels make one image of a batch: a part of a tile, and what is copied into it of others. It draws nothing."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from landseg.core.stopwatch import Stopwatch
from landseg.data.pack import READ_BYTES, READING, TileStore
from landseg.training.mixing import paste
from landseg.training.pace import MIXING


class Part:
    """A rectangle of a tile as large as the images of a batch, or all of a smaller tile. Pixels are read when they are asked for.

    Args:
        store: The tiles.
        tile: Number of the tile in the store.
        shape: (height, width) of the images.
        watch: Counts what reading takes.

    Attributes:
        row: First row of the tile that is taken; 0 until it is set.
        col: First column.
        height: Rows that are taken.
        width: Columns.
        pastes: What is copied into it, in this order: another part, and which of its pixels, (height, width) bool of that part.
    """

    def __init__(self, store: TileStore, tile: int, shape: tuple[int, int], watch: Stopwatch) -> None:
        entry = store.entries[tile]
        self.tile, self.row, self.col = tile, 0, 0
        self.height, self.width = min(shape[0], entry.height), min(shape[1], entry.width)
        self.pastes: list[tuple[Part, np.ndarray]] = []
        self._store, self._watch = store, watch

    @cached_property
    def whole_label(self) -> np.ndarray:
        """(H, W) uint8 ids of all of the tile; decoded once, where the store decodes."""
        with self._watch.of(READING):
            return self._store.label(self.tile)

    @property
    def label(self) -> np.ndarray:
        """(height, width) uint8 ids; not to be written to."""
        return self.whole_label[self._place]

    def fill(self, image: np.ndarray, label: np.ndarray) -> None:
        """Write the part, and what is copied into it, into an image and a label of zeros and of the ignore index.

        Args:
            image: (H, W, C), contiguous; a smaller part goes into its first rows and columns.
            label: (H, W).
        """
        self._read(image[: self.height, : self.width], label[: self.height, : self.width])
        for other, is_copied in self.pastes:
            with self._watch.of(MIXING):
                paste(image, label, other._image(), other.label, is_copied)

    @property
    def _place(self) -> tuple[slice, slice]:
        return slice(self.row, self.row + self.height), slice(self.col, self.col + self.width)

    def _image(self) -> np.ndarray:
        with self._watch.of(READING):
            return self._store.image(self.tile)[self._place]

    def _read(self, image: np.ndarray, label: np.ndarray) -> None:
        with self._watch.of(READING):  # of a map: the disk is read where its pages are looked at
            image[:], label[:] = self._image(), self.label
        if self._store.is_mapped:
            self._watch.count(READ_BYTES, image.nbytes + label.nbytes)
