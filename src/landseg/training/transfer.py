"""The tiles of one step on their way to the device: arrays, pinned memory that it fetches by itself, or parts of what lies there already.

A batch decides nothing about a step. Vocabulary: memory is *pinned* when the system may not move it, so that a GPU can copy from it while
the program goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from landseg.core.classes import IGNORE_INDEX
from landseg.network.torch_engine import to_tensor
from landseg.training.memory import is_out_of_memory
from landseg.training.parts import Part
from landseg.training.residency import Residence, is_lossless, stored, widened

_SENT_BYTES = 250_000_000
"""A larger batch is not sent ahead: it is copied micro-batch by micro-batch, so that it takes less of the device's memory."""


class Batch(Protocol):
    """Tiles or crops of one step."""

    @property
    def keys(self) -> np.ndarray:
        """(N,) uint64."""
        ...

    @property
    def images(self) -> np.ndarray:
        """(N, H, W, C) in the store's dtype."""
        ...

    @property
    def labels(self) -> np.ndarray:
        """(N, H, W) uint8."""
        ...

    def part(self, taken: slice) -> Batch:
        """Some of its tiles, without a copy."""
        ...

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) as `to_tensor` gives them, and labels (N, H, W), on a device."""
        ...


@dataclass(frozen=True)
class Arrays:
    """A batch whose pixels lie in the machine's memory.

    Attributes:
        held: The same pixels as tensors, as they are stored, where their memory is pinned or the device's.
    """

    keys: np.ndarray
    images: np.ndarray
    labels: np.ndarray
    held: tuple[Tensor, Tensor] | None = field(default=None, repr=False, compare=False)

    def part(self, taken: slice) -> Arrays:
        """Some of its tiles, without a copy."""
        held = None if self.held is None else (self.held[0][taken], self.held[1][taken])
        return Arrays(self.keys[taken], self.images[taken], self.labels[taken], held)

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) as `to_tensor` gives them, and labels (N, H, W), on a device."""
        if self.held is None:
            return to_tensor(self.images, device), torch.from_numpy(self.labels).to(device)
        images, labels = (tensor.to(device, non_blocking=True) for tensor in self.held)
        return widened(images, self.images.dtype.name).permute(0, 3, 1, 2), labels


@dataclass(frozen=True)
class Drawn:
    """A batch whose pixels lie on the device, and are collected there when a step asks for them.

    Once the tiles have left the device, its pixels are read from the store that they came from.

    Args:
        keys: (N,) uint64.
        parts: What each image is made of.
        home: Where the tiles reside.
        blank: A batch without tiles, of the shape and dtype.
    """

    keys: np.ndarray
    parts: Sequence[Part]
    home: Residence
    blank: Arrays

    @property
    def images(self) -> np.ndarray:
        """(N, H, W, C) in the store's dtype."""
        return self._arrays.images

    @property
    def labels(self) -> np.ndarray:
        """(N, H, W) uint8."""
        return self._arrays.labels

    def part(self, taken: slice) -> Drawn:
        """Some of its tiles, without a copy."""
        return Drawn(self.keys[taken], self.parts[taken], self.home, self.blank)

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) as `to_tensor` gives them, and labels (N, H, W), on a device."""
        resident = self.home.resident
        if resident is None:
            return self._arrays.on(device)
        _, height, width = self.blank.labels.shape
        images, labels = resident.collected(self.parts, (height, width))
        return images.to(device), labels.to(device)

    @cached_property
    def _arrays(self) -> Arrays:
        made = blank(self.keys, self.blank.labels.shape[1:], self.blank.images.shape[3], self.blank.images.dtype.name)
        for part, image, label in zip(self.parts, made.images, made.labels, strict=True):
            part.fill(image, label)
        return made


def blank(keys: np.ndarray, shape: Sequence[int], bands: int, dtype: str, lane: Lane | None = None) -> Arrays:
    """A batch of zeros and of the ignore index, to be written to; in memory that a lane can copy from while the device computes."""
    sizes = (len(keys), *shape, bands), (len(keys), *shape)
    held = None if lane is None else lane.reserved(*sizes, dtype)
    if held is None:
        return Arrays(keys, np.zeros(sizes[0], dtype), np.full(sizes[1], IGNORE_INDEX, np.uint8))
    held[0].zero_(), held[1].fill_(IGNORE_INDEX)
    return Arrays(keys, held[0].numpy().view(dtype), held[1].numpy(), held)


@dataclass(frozen=True)
class Sent:
    """A batch whose copy may still be under way, what is being written, and what says when it is done: nothing where none waits."""

    batch: Batch
    copies: tuple[Tensor, ...] = ()
    done: Any = None


class Lane:
    """Copies batches to a device while it computes, from pinned memory, on a queue of its own. A CPU has neither, and needs none."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._is_gpu = device, device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self._is_gpu else None  # type: ignore[no-untyped-call]

    def reserved(self, images: tuple[int, ...], labels: tuple[int, ...], dtype: str) -> tuple[Tensor, Tensor] | None:
        """Tensors of these sizes to be written to; None where torch cannot hold the dtype bit by bit, or no more memory can be pinned."""
        if not is_lossless(dtype):
            return None
        kind = torch.from_numpy(stored(np.empty(0, dtype))).dtype
        try:
            return torch.empty(images, dtype=kind, pin_memory=self._is_gpu), torch.empty(labels, dtype=torch.uint8, pin_memory=self._is_gpu)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return None

    def send(self, batch: Batch) -> Sent:
        """Begin to copy a batch, from any thread. One that is large, or for which there is no room, is left to the step: that knows what to
        do where memory is short."""
        if not isinstance(batch, Arrays) or batch.held is None or sum(tensor.nbytes for tensor in batch.held) > _SENT_BYTES:
            return Sent(batch)
        try:
            with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
                images, labels = (tensor.to(self._device, non_blocking=True) for tensor in batch.held)
                done = None if self._stream is None else self._stream.record_event()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return Sent(batch)
        return Sent(replace(batch, held=(images, labels)), (images, labels), done)

    def receive(self, sent: Sent) -> Batch:
        """The batch, for the thread that computes: what it asks of the device from here on waits there for the copy, not here."""
        if sent.done is not None:
            here = torch.cuda.current_stream(self._device)
            here.wait_event(sent.done)
            for tensor in sent.copies:
                tensor.record_stream(here)  # its memory is not used again before what is computed with it is done
        return sent.batch
