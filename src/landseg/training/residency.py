"""Where the pixels of the training tiles lie while a run goes, on its device, in memory or on the disk. It draws no batch.

The numbers of a batch are the same wherever they lie; what differs is what has to be copied for each step, and from where.

Vocabulary: tiles *reside* where a step's pixels are collected from; a tile is *stored* as torch can hold it (`stored`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from landseg.core import machine
from landseg.core.classes import IGNORE_INDEX
from landseg.core.errors import LandsegError
from landseg.core.files import human_bytes
from landseg.core.processes import here
from landseg.core.progress import parallel_map, progress
from landseg.data.pack import TileStore
from landseg.data.packing import Entry
from landseg.network.torch_engine import to_tensor
from landseg.training.memory import free_bytes, is_out_of_memory, release
from landseg.training.parts import Part
from landseg.training.upload import put

log = logging.getLogger("landseg")

Where = Literal["device", "host", "disk"]

SHARE = 0.5
"""Of what is free, on the device or in memory, that tiles may take: steps need the rest, and so do other programs."""

_LOAD_BYTES = 32_000_000
"""Read at a time."""


@dataclass(frozen=True)
class Choice:
    """Where tiles shall reside, and why, in one line."""

    where: Where
    words: str


def choose(setting: str, need: int, device: torch.device, free: int | None, memory: int | None) -> Choice:
    """Where tiles shall reside.

    On a CPU the system's cache holds what fits of the pack, and gives it back to whoever needs it: `auto` leaves it to that. On Apple's
    GPUs, which share the memory of the machine, it does too.

    Args:
        setting: `data.residency`.
        need: Bytes of the tiles.
        device: That trains.
        free: Bytes that are free on it; None where nobody knows.
        memory: The same of the machine's memory.

    Raises:
        LandsegError: `device`, and they do not fit there.
    """
    size = human_bytes(need)
    fits_device, fits_memory = (room is not None and need <= SHARE * room for room in (free, memory))
    on_device, in_memory = f"{_free(free)} on {device}", f"{_free(memory)} in memory"
    if setting == "device":
        if free is not None and not fits_device:
            raise LandsegError(
                "data.residency", f"device, but the training tiles take {size} and {on_device}",
                f"{human_bytes(round(need / SHARE))}: twice what the tiles take, so that steps have room beside them",
                "--set data.residency=auto, which takes memory or the disk where the device is too small",
            )  # fmt: skip
        return Choice("device", f"tiles: on {device}, {size} ({on_device})")
    if setting == "auto" and device.type == "cuda" and fits_device:
        return Choice("device", f"tiles: on {device}, {size} ({on_device})")
    if (setting == "host" or (setting == "auto" and device.type == "cuda")) and fits_memory:
        why = f"; {on_device}, of which they may take half" if setting == "auto" else ""
        return Choice("host", f"tiles: in memory, {size} ({in_memory}{why})")
    if setting == "disk":
        return Choice("disk", f"tiles: on the disk, {size}")
    if setting == "auto" and device.type != "cuda":
        return Choice("disk", f"tiles: on the disk, {size}; the system holds in memory what fits ({in_memory})")
    why = f"{on_device}, {in_memory}" if setting == "auto" else in_memory
    return Choice("disk", f"tiles: on the disk, {size} ({why}, of which they may take half)")


def size_of(store: TileStore, tiles: Sequence[int]) -> int:
    """Bytes of some tiles with their labels, as they are stored."""
    value = stored(np.empty(0, store.dtype)).itemsize
    return sum(store.entries[i].height * store.entries[i].width for i in tiles) * (store.bands * value + 1)


def stored(values: np.ndarray) -> np.ndarray:
    """Values as torch can hold them, in no more bytes: 16 bits without a sign as those with one, what becomes float32 anyway as that."""
    if values.dtype == np.uint16:
        return values.view(np.int16)
    kind = to_tensor(np.empty((1, 1, 1, 1), values.dtype), torch.device("cpu")).dtype
    return values if kind != torch.float32 else values.astype(np.float32, copy=False)


def is_lossless(dtype: str) -> bool:
    """Whether what is stored of a dtype is its own bits."""
    return dtype == "uint16" or stored(np.empty(0, dtype)).dtype == dtype


def widened(values: Tensor, dtype: str) -> Tensor:
    """Stored values of a dtype → what `to_tensor` makes of that dtype, to the bit."""
    return values.to(torch.int32) & 0xFFFF if dtype == "uint16" else values


class Residence:
    """Where tiles reside by now.

    Args:
        store: All tiles.
        tiles: Numbers of those that a run draws from.
        setting: `data.residency`.
        device: That trains.
        workers: Threads that decode, where the store decodes.

    Attributes:
        where: Device, host or disk.
        words: Why, in a line.
        store: What is not on the device is read from here.
        resident: The tiles on the device; None where they are elsewhere, or not there yet.

    Raises:
        LandsegError: They do not fit where they must.
    """

    def __init__(self, store: TileStore, tiles: Sequence[int], setting: str, device: torch.device, workers: int | None) -> None:
        room = machine.memory()
        memory = None if room is None else room.free // here()  # each of several processes holds its own
        self._tiles, self._is_asked = np.unique(np.asarray(tiles, np.int64)), setting == "device"
        self._need, self._device, self._workers = size_of(store, self._tiles.tolist()), device, workers
        choice = choose(setting, self._need, device, free_bytes(device), memory)
        self.where, self.words, self.store = choice.where, choice.words, store
        self.resident: Resident | None = None
        self._is_settled = False

    def settle(self) -> None:
        """Bring the tiles to where they shall reside, once, and say so.

        Raises:
            LandsegError: A tile is damaged, or the device, which was asked for, has no room after all.
        """
        if self._is_settled:
            return
        self._is_settled = True
        log.info("%s", self.words)
        if self.where == "device":
            self._to_device()
        if self.where == "host":
            self._to_memory()

    def leave_device(self) -> bool:
        """Give the device's memory back: the tiles move to the host's, or are read from the disk. False where they are not there."""
        resident, self.resident = self.resident, None
        if resident is None:
            return False
        room = machine.memory()
        fits = room is not None and self._need <= SHARE * room.free // here()
        held = resident.held(self.store) if fits else None
        self.where, self.store = ("disk", self.store) if held is None else ("host", held)
        del resident
        release(self._device)
        place = "memory" if held is not None else "the disk"
        log.warning("out of memory: the training tiles leave %s for %s, which frees %s", self._device, place, human_bytes(self._need))
        return True

    def _to_device(self) -> None:
        try:
            self.resident = Resident(self.store, self._tiles, self._device, self._workers)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            found = str(error).partition("\n")[0]
        if self.resident is None:
            release(self._device)
            if self._is_asked:
                raise LandsegError(
                    "data.residency", f"device, but {human_bytes(self._need)} could not be had on {self._device} ({found})",
                    "room for the training tiles", "end other programs that hold its memory, or --set data.residency=auto",
                )  # fmt: skip
            log.warning("tiles: %s could not be had on %s; in memory instead", human_bytes(self._need), self._device)
            self.where = "host"
        elif not self.store.is_mapped:  # labels say where crops are cut: they are decoded once
            self.store = Held(self.store, self._tiles, self._workers, with_images=False)

    def _to_memory(self) -> None:
        try:
            self.store = Held(self.store, self._tiles, self._workers)
        except MemoryError:
            log.warning("tiles: %s of memory could not be had; they are read from the disk", human_bytes(self._need))
            self.where = "disk"


class Held:
    """Tiles that lie in memory, one after the other; others, and what is not held of them, come from the store that they are of."""

    is_mapped = True

    def __init__(
        self,
        store: TileStore,
        tiles: np.ndarray,
        workers: int | None = None,
        *,
        with_images: bool = True,
        given: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        self.entries, self.bands, self.dtype = store.entries, store.bands, store.dtype
        self._store = store
        self._starts, pixels = _starts(store.entries, tiles)
        if given is not None:
            self._images, self._labels = given
            return
        self._images = np.empty((pixels if with_images else 0, self.bands), self.dtype)
        self._labels = np.empty(pixels, np.uint8)
        for span, images, labels in _read(store, tiles, workers, with_images=with_images):
            self._labels[span] = labels
            if with_images:
                self._images[span] = images

    def image(self, i: int) -> np.ndarray:
        """Image of entry `i`, (H, W, C); not to be written to."""
        if self._starts[i] < 0 or not len(self._images):
            return self._store.image(i)
        return self._images[self._span(i)].reshape(self.entries[i].height, self.entries[i].width, self.bands)

    def label(self, i: int) -> np.ndarray:
        """Label of entry `i`, (H, W) uint8; not to be written to."""
        if self._starts[i] < 0:
            return self._store.label(i)
        return self._labels[self._span(i)].reshape(self.entries[i].height, self.entries[i].width)

    def _span(self, i: int) -> slice:
        start = int(self._starts[i])
        return slice(start, start + self.entries[i].height * self.entries[i].width)


class Resident:
    """Tiles that lie on a device as they are stored, one after the other; batches of them are collected there.

    Args:
        store: All tiles.
        tiles: (T,) int64, rising: those that are to lie there.
        device: Where; a CPU does as a GPU would.
        workers: Threads that decode, where the store decodes.

    Raises:
        LandsegError: A tile is damaged.
        RuntimeError: There is no room.
    """

    def __init__(self, store: TileStore, tiles: np.ndarray, device: torch.device, workers: int | None = None) -> None:
        self._entries, self._tiles, self._dtype, self._device = store.entries, tiles, store.dtype, device
        self._starts, pixels = _starts(store.entries, tiles)
        kind = torch.from_numpy(stored(np.empty(0, store.dtype))).dtype
        self._images = torch.empty((pixels, store.bands), dtype=kind, device=device)
        self._labels = torch.empty(pixels, dtype=torch.uint8, device=device)
        shapes = {(store.entries[i].height, store.entries[i].width) for i in tiles.tolist()}
        self._shape = shapes.pop() if len(shapes) == 1 else None
        for span, images, labels in _read(store, tiles, workers):
            self._images[span].copy_(torch.from_numpy(stored(images)))
            self._labels[span].copy_(torch.from_numpy(labels))

    def collected(self, parts: Sequence[Part], shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W), in channels-last order, and labels (N, H, W) uint8 of a batch, as `to_tensor` would bring them there.

        Args:
            parts: What each image is made of.
            shape: (height, width) of the images; smaller parts are filled up with zeros and the ignore index.
        """
        images, labels = self._taken(parts, shape)
        for k in range(max((len(part.pastes) for part in parts), default=0)):
            self._paste(images, labels, [(n, *part.pastes[k]) for n, part in enumerate(parts) if len(part.pastes) > k])
        return widened(images, self._dtype).permute(0, 3, 1, 2), labels

    def held(self, store: TileStore) -> Held | None:
        """The same tiles in the memory of the machine; None where what is stored says less than the tiles, or memory cannot be had."""
        if not is_lossless(self._dtype):
            return None
        try:
            images, labels = self._images.cpu().numpy(), self._labels.cpu().numpy()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None
        return Held(store, self._tiles, given=(images.view(self._dtype), labels))

    def _taken(self, parts: Sequence[Part], shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """(N, H, W, C) as stored, and (N, H, W)."""
        height, width = shape
        starts = self._starts[[part.tile for part in parts]]
        if self._shape == shape:  # whole tiles: each is one row
            index = put(starts // (height * width), self._device)
            return tuple(values.view(-1, *shape, *values.shape[1:]).index_select(0, index) for values in (self._images, self._labels))  # type: ignore[return-value]
        strides = np.array([self._entries[part.tile].width for part in parts])
        firsts = starts + np.array([part.row for part in parts]) * strides + np.array([part.col for part in parts])
        heights, widths = (np.array([getattr(part, side) for part in parts]) for side in ("height", "width"))
        numbers = put(np.stack([firsts, strides, heights, widths])[..., None, None], self._device)
        first, stride, rows, cols = numbers
        row, col = torch.arange(height, device=self._device)[:, None], torch.arange(width, device=self._device)
        places = first + row * stride + col
        is_whole = bool((heights == height).all() and (widths == width).all())
        outside = None if is_whole else (row >= rows) | (col >= cols)
        if outside is not None:
            places.masked_fill_(outside, 0)
        images = self._images.index_select(0, places.flatten()).view(*places.shape, -1)
        labels = self._labels.index_select(0, places.flatten()).view(places.shape)
        if outside is not None:
            images.masked_fill_(outside[..., None], 0)
            labels.masked_fill_(outside, IGNORE_INDEX)
        return images, labels

    def _paste(self, images: Tensor, labels: Tensor, pastes: Sequence[tuple[int, Part, np.ndarray]]) -> None:
        """Copy pixels of others into some images of a batch, in place."""
        shape = images.shape[1], images.shape[2]
        is_copied = np.zeros((len(pastes), *shape), bool)
        for copied, (_, _, chosen) in zip(is_copied, pastes, strict=True):
            copied[: chosen.shape[0], : chosen.shape[1]] = chosen
        index, where = put(np.array([n for n, _, _ in pastes]), self._device), put(is_copied, self._device)
        other_images, other_labels = self._taken([part for _, part, _ in pastes], shape)
        images.index_copy_(0, index, torch.where(where[..., None], other_images, images.index_select(0, index)))
        labels.index_copy_(0, index, torch.where(where, other_labels, labels.index_select(0, index)))


def _starts(entries: Sequence[Entry], tiles: np.ndarray) -> tuple[np.ndarray, int]:
    """The first pixel of each tile by its number, -1 of those that are not among them; and the pixels of all."""
    sizes = np.array([entries[i].height * entries[i].width for i in tiles.tolist()], np.int64)
    starts = np.full(len(entries), -1, np.int64)
    starts[tiles] = np.cumsum(sizes) - sizes
    return starts, int(sizes.sum())


def _read(
    store: TileStore, tiles: np.ndarray, workers: int | None, *, with_images: bool = True
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Tiles in their order, some at a time: which pixels they are of all, images (P, C) in the store's dtype, labels (P,) uint8."""
    starts, pixels = _starts(store.entries, tiles)
    size = max(1, size_of(store, tiles.tolist()) // max(1, len(tiles)))
    chunks = [chunk.tolist() for chunk in np.array_split(tiles, max(1, min(len(tiles), size * len(tiles) // _LOAD_BYTES)))]
    ends = [*(int(starts[chunk[0]]) for chunk in chunks[1:]), pixels]

    def read(chunk: list[int]) -> tuple[np.ndarray, np.ndarray]:
        labels = np.concatenate([store.label(i).reshape(-1) for i in chunk])
        images = [store.image(i).reshape(-1, store.bands) for i in chunk] if with_images else [np.empty((0, store.bands), store.dtype)]
        return np.concatenate(images), labels

    found = parallel_map(read, chunks, workers=1 if store.is_mapped else workers, ahead=2)
    for chunk, end, (images, labels) in zip(chunks, ends, progress(found, "loading tiles", len(chunks), unit="blocks"), strict=True):
        yield slice(int(starts[chunk[0]]), end), images, labels


def _free(room: int | None) -> str:
    return "an unknown amount free" if room is None else f"{human_bytes(room)} free"
