"""What the training loop draws from: shuffled batches of tiles or crops of one shape, read ahead on a thread.

It changes no pixel value; which tiles come is decided in `sampling`, which are made of two in `mixing`.
"""

from __future__ import annotations

import math
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
import torch

from landseg.core.classes import IGNORE_INDEX
from landseg.core.progress import parallel_map
from landseg.core.settings import AugmentConfig, SampleConfig
from landseg.core.stopwatch import Stopwatch
from landseg.data.pack import Files, TileStore
from landseg.training.draws import tile_keys, uniform
from landseg.training.mixing import pastes
from landseg.training.pace import CUTTING, MIXING
from landseg.training.parts import Part
from landseg.training.ranks import Share
from landseg.training.residency import Residence
from landseg.training.sampling import copies, factors, with_labels
from landseg.training.transfer import Arrays, Batch, Drawn, Lane, blank

T = TypeVar("T")

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


class Batches:
    """Batches of a part, drawn anew each epoch.

    All images have one shape. A smaller tile is filled up with the ignore index. Of a larger one, each epoch takes as many crops as fit
    into its area, each at a place drawn for (seed, epoch, tile, number of the crop): the first of a few where labels lie at least half as
    dense as in the whole tile, so that sparse labels are met and dense ones are met evenly. Batches of an epoch differ in size by one at
    most, so that nothing is left out and no batch is too small for batch normalisation.

    Where tiles of rare classes come more often, an epoch is as long as without; each further time is another draw of everything: of the
    crop's place, of what is mixed into it, of how it is augmented.

    Args:
        store: The tiles.
        indices: Which of them.
        size: Tiles or crops a batch; at most, but for a batch of three where two are asked for and they are odd in number.
        seed: Of order and crops.
        workers: Threads that decode, where the store decodes at each reading; every core when None.
        crop: Edge length in pixels of the crops; see `crop_shape`.
        sample: Which tiles an epoch has; every one once when None.
        augment: Its `class_mix` and `cut_mix` are done here; nothing is mixed when None.
        watch: Counts what the threads spend their time on.

    Attributes:
        count: Batches an epoch, the same in each.
        fewest: Tiles of the smallest batch.
        dropped: Tiles that never come, because nothing in them is labelled.
    """

    def __init__(
        self,
        store: TileStore,
        indices: Sequence[int],
        size: int,
        seed: int,
        workers: int | None = None,
        crop: int | None = None,
        sample: SampleConfig | None = None,
        augment: AugmentConfig | None = None,
        watch: Stopwatch | None = None,
    ) -> None:
        self._store, self._seed, self._watch = store, seed, watch or Stopwatch()
        if isinstance(store, Files):
            store.watch = self._watch
        kept = indices if sample is None else with_labels(store.entries, indices, sample)
        self.dropped = len(indices) - len(kept)
        sizes = np.array([(store.entries[i].height, store.entries[i].width) for i in kept], np.int64)
        self.shape = crop_shape(sizes, crop)
        counts = sizes.prod(1) // np.minimum(sizes, self.shape).prod(1)
        self._indices = np.repeat(np.asarray(kept, np.int64), counts)
        # The first crop has the tile's own key; no tile's name holds a zero byte.
        self._crops = np.concatenate([np.arange(count) for count in counts])
        self._keys = tile_keys([self._name(at, crop) for at, crop in zip(self._indices.tolist(), self._crops.tolist(), strict=True)])
        is_repeated = sample is not None and sample.repeat > 1
        self._wanted = np.repeat(factors(store.entries, kept, sample), counts) if sample is not None and is_repeated else None
        if len(self._indices) == 1:  # one image makes no variance for batch normalisation: it comes twice
            self._indices, self._keys, self._wanted = self._indices.repeat(2), self._keys.repeat(2), None
        self._mixing = augment if augment is not None and augment.class_mix + augment.cut_mix > 0 else None
        self._by_key = np.argsort(self._keys, kind="stable")  # a partner is drawn whatever the order of the indices
        # As few as hold `size` at most (what the memory was found to hold), of two at least.
        self.count = max(1, min(math.ceil(len(self._indices) / size), len(self._indices) // 2))
        self.fewest = len(self._indices) // self.count
        self._workers = workers
        self._home: Residence | None = None
        self._lane: Lane | None = None
        self._own: Callable[[int], slice] | None = None

    def reside(self, setting: str, device: torch.device) -> None:
        """Decide where the tiles shall lie; `settle`, or the first epoch, brings them there.

        Args:
            setting: `data.residency`.
            device: That trains.

        Raises:
            LandsegError: They do not fit where they must.
        """
        self._home = Residence(self._store, np.unique(self._indices).tolist(), setting, device, self._workers)
        self._lane = Lane(device) if device.type == "cuda" else None

    def divide(self, own: Callable[[int], slice]) -> None:
        """Of several processes, make no more than this one's share of each batch: which of so many tiles, `own` says."""
        self._own = own

    def settle(self) -> None:
        """Bring the tiles to where they shall lie, once.

        Raises:
            LandsegError: They cannot be had there.
        """
        if self._home is not None:
            self._home.settle()

    def leave_device(self) -> bool:
        """Give back the memory of the device that the tiles take; False where they take none. Batches stay the same."""
        return self._home is not None and self._home.leave_device()

    @property
    def where(self) -> str:
        """Where the tiles are: device, host or disk."""
        return "disk" if self._home is None else self._home.where

    @property
    def images(self) -> int:
        """Tiles and crops an epoch."""
        return len(self._indices)

    def often(self, epoch: int) -> dict[int, float]:
        """How often an epoch shows each tile, by its number in the store: 1 is once, or in as many crops as cover it."""
        units, _ = self._drawn(epoch)
        whole, shown = np.bincount(self._indices), np.bincount(self._indices[units], minlength=int(self._indices.max()) + 1)
        return {int(i): float(shown[i] / whole[i]) for i in np.flatnonzero(whole)}

    def tiles(self, epoch: int, keys: np.ndarray) -> list[str]:
        """The names of the tiles that an epoch's images with these keys are of."""
        units, drawn = self._drawn(epoch)
        return [self._store.entries[i].name for i in self._indices[units[np.isin(drawn, keys)]].tolist()]

    def samples(self, epoch: int, tiles: Sequence[int]) -> tuple[list[int], Arrays]:
        """What an epoch makes of some tiles, for a look: those of them that come in it, and the first image of each as a batch."""
        units, keys = self._drawn(epoch)
        found = self._indices[units]
        firsts = {tile: int(places[0]) for tile in tiles if len(places := np.flatnonzero(found == tile))}
        chosen = list(firsts.values())
        return list(firsts), self._make(epoch, units[chosen], keys[chosen])

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from batch `start` on, in the epoch's own order, made ahead of their use."""
        units, keys = self._drawn(epoch)
        order = np.argsort(uniform(self._seed, epoch, keys, "order"), kind="stable")
        pixels = math.ceil(len(order) / self.count) * self.shape[0] * self.shape[1]
        size = pixels * (self._store.bands * np.dtype(self._store.dtype).itemsize + 1)
        ahead = max(1, min(_AHEAD, _AHEAD_BYTES // size))
        chosen = np.array_split(order, self.count)[start:]
        self.settle()
        own, lane = self._own, self._lane
        mine = chosen if own is None else [part[own(len(part))] for part in chosen]
        made = (self._made(epoch, units[part], keys[part]) for part in mine)
        batches = _read_ahead(made, ahead) if lane is None else map(lane.receive, _read_ahead(map(lane.send, made), ahead))
        yield from batches if own is None else (Share(batch, keys[part]) for batch, part in zip(batches, chosen, strict=True))

    def _name(self, index: int, crop: int, again: int = 0) -> str:
        """What a tile's or crop's key is made of. No two are equal: one zero byte stands before a crop, two before a further time."""
        name = self._store.entries[index].name
        return f"{name}\0{crop}\0{again}" if again else f"{name}\0{crop}" if crop else name

    def _drawn(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Which tile or crop, by its number, and which key each image of an epoch has."""
        if self._wanted is None:
            return np.arange(len(self._keys)), self._keys
        often = copies(self._wanted, self._seed, epoch, self._keys)
        units = np.repeat(np.arange(len(often)), often)
        again = np.arange(len(units)) - np.repeat(np.cumsum(often) - often, often)
        keys, further = self._keys[units], np.flatnonzero(again)
        if len(further):
            parts = (self._indices[units[further]], self._crops[units[further]], again[further])
            keys[further] = tile_keys([self._name(*part) for part in zip(*(part.tolist() for part in parts), strict=True)])
        return units, keys

    @property
    def _source(self) -> TileStore:
        return self._store if self._home is None else self._home.store

    def _made(self, epoch: int, units: np.ndarray, keys: np.ndarray) -> Batch:
        """A batch, of tiles on the device where they are there."""
        home = self._home
        if home is None or home.resident is None:
            return self._make(epoch, units, keys)
        parts = [self._part(unit, epoch, keys[n : n + 1]) for n, unit in enumerate(units)]
        return Drawn(keys, parts, home, blank(keys[:0], self.shape, self._store.bands, self._store.dtype))

    def _make(self, epoch: int, units: np.ndarray, keys: np.ndarray) -> Arrays:
        batch = blank(keys, self.shape, self._store.bands, self._store.dtype, self._lane)

        def fill(n: int) -> None:
            self._part(units[n], epoch, keys[n : n + 1]).fill(batch.images[n], batch.labels[n])

        for _ in parallel_map(fill, range(len(keys)), workers=1 if self._source.is_mapped else self._workers):
            pass
        return batch

    def _part(self, unit: int, epoch: int, key: np.ndarray) -> Part:
        """What an image is made of: a tile, or the crop of it that the key draws, with what is mixed into it."""
        part = self._cropped(unit, epoch, key)
        if self._mixing is not None:
            partner = partial(self._partner, unit, epoch, key)
            with self._watch.of(MIXING):
                part.pastes += pastes(partner, lambda other: other.label, self._mixing, seed=self._seed, epoch=epoch, key=key)
        return part

    def _partner(self, unit: int, epoch: int, key: np.ndarray, purpose: str) -> Part:
        """A tile or crop, drawn for (seed, epoch, tile) from all others of the part, as the epoch has it."""
        chosen = self._by_key[int(uniform(self._seed, epoch, key, f"{purpose} partner")[0] * (len(self._by_key) - 1))]
        if chosen == unit:  # the last one is not among those drawn from, and stands in for the tile itself
            chosen = self._by_key[-1]
        return self._cropped(chosen, epoch, self._keys[chosen : chosen + 1])

    def _cropped(self, unit: int, epoch: int, key: np.ndarray) -> Part:
        part = Part(self._source, int(self._indices[unit]), self.shape, self._watch)
        with self._watch.of(CUTTING):
            part.row, part.col = self._place(part, epoch, key)
        return part

    def _place(self, part: Part, epoch: int, key: np.ndarray) -> tuple[int, int]:
        """Which row and column of its tile are a part's first."""
        entry, (height, width) = self._store.entries[part.tile], self.shape
        if entry.height <= height and entry.width <= width:
            return 0, 0
        free = max(0, entry.height - height), max(0, entry.width - width)
        area, whole = part.height * part.width, entry.height * entry.width
        labelled = sum(entry.class_pixels)
        wanted = labelled / whole * area / 2 if labelled < whole else 0.0  # wherever it lies, a crop of a labelled tile is labelled
        best, most = (0, 0), -1
        for k in range(_PLACES):
            purposes = [f"crop {side} {k}" if k else f"crop {side}" for side in ("row", "col")]
            row, col = (int(uniform(self._seed, epoch, key, word)[0] * (room + 1)) for word, room in zip(purposes, free, strict=True))
            taken = slice(row, row + height), slice(col, col + width)
            found = int(np.count_nonzero(part.whole_label[taken] != IGNORE_INDEX)) if wanted else 0
            if found > most:
                best, most = (row, col), found
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


def _read_ahead(batches: Iterator[T], ahead: int) -> Iterator[T]:
    """Make batches on a thread while the loop computes; what goes wrong there comes out here."""
    ready: queue.Queue[T | BaseException | None] = queue.Queue(ahead)
    is_over = threading.Event()

    def put(item: T | BaseException | None) -> bool:
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
