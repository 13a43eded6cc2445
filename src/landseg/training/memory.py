"""What fits in memory: how a batch is cut into micro-batches, how large they may be, what an error of memory is. It trains nothing.

A *batch* is what one step of the optimiser sees; a *micro-batch* is what of it the network sees at once.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from landseg.core import machine
from landseg.core.errors import LandsegError
from landseg.core.files import human_bytes

SHARE = 0.9
"""Of the free memory that a step may take."""

FASTER = 1.05
"""How much faster twice as many tiles at once must be, on a CPU, to be taken for speed's sake."""

ENOUGH = 16
"""Tiles at once, below which speed is no reason to take fewer: batch normalisation learns less from smaller ones. Source: Wu and He 2018,
"Group normalization", figure 1: its error is flat from 32 down to 16, and rises below."""

_PEAK = 1.5
"""What a step takes at its peak, in multiples of what the forward pass keeps for the gradients. Measured on a CPU at 128 to 256 pixels:
1.25 (DeepLabV3+ with MobileNetV3), 1.3 (U-Net with ResNet-18, with MobileNetV3), 1.5 (FPN with ResNet-50)."""

_SAID = (
    "out of memory",  # "CUDA out of memory", "CUDA error: out of memory", "MPS backend out of memory"
    "can't allocate memory",  # torch's allocator of the CPU, on Linux and macOS
    "not enough memory: you tried to allocate",  # the same on Windows
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "unable to find an engine to execute this computation",  # cuDNN, when no algorithm's workspace can be had
)
"""Source: c10/core/impl/alloc_cpu.cpp, c10/cuda/CUDACachingAllocator.cpp, aten/src/ATen/native/cudnn/Conv_v8.cpp of PyTorch."""


def is_out_of_memory(error: BaseException) -> bool:
    """True where an operation failed because it was not given memory, on any device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _SAID)


def first_line(error: BaseException) -> str:
    """The first line of an error, cut short: torch goes on with advice and addresses."""
    text = str(error).strip().partition("\n")[0] or type(error).__name__
    return text if len(text) <= 120 else f"{text[:117]}…"


def no_room(tried: int, found: str, when: str) -> LandsegError:
    """The four-part error for memory that does not hold the fewest tiles there can be.

    Args:
        tried: So many at once.
        found: What the allocator said.
        when: ``training`` or ``validation``.
    """
    return LandsegError(
        "train.batch",
        f"out of memory in {when} with {tried} tile{'s' * (tried > 1)} at once, the fewest there can be ({found})",
        "memory for that many",
        "end other programs that hold memory, or use less: --set train.crop=256, --set train.size=256, or a smaller model.encoder",
    )


def cut(count: int, most: int) -> list[int]:
    """How many tiles each micro-batch of a batch has: as few micro-batches as need be, of nearly equal size.

    Args:
        count: Tiles of the batch.
        most: Tiles at most at once; but a batch of three is not cut for two, nor any other into a single tile, unless one is asked
            for: batch normalisation may need two.
    """
    parts = math.ceil(count / most)
    if most > 1:
        parts = max(1, min(parts, count // 2))
    return [len(part) for part in np.array_split(np.arange(count), parts)]


def halved(most: int) -> int:
    """The next smaller micro-batch to try; 0 after 1."""
    return (most + 1) // 2 if most > 3 else most // 2


def release(device: torch.device) -> None:
    """Hand back what is no longer referred to; to be called outside the handler of the error, whose traceback refers to the tensors."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def rehearse(optimiser: torch.optim.Optimizer) -> None:
    """Ask for the memory that the optimiser's step will take, and let it go again to the allocator, which keeps it.

    So a step that does not fit fails before it has changed a weight, and can be repeated: the state of each parameter is made at its
    first step, and steps that are not fused need room for a tensor or two besides.
    """
    blocks, largest = [], torch.empty(0)
    for group in optimiser.param_groups:
        states = 2 if "betas" in group else int(group["momentum"] > 0)
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            if not optimiser.state.get(parameter):
                blocks += [torch.empty_like(parameter) for _ in range(states)]
            if not group["fused"] and parameter.numel() > largest.numel():
                largest = parameter
    blocks += [torch.empty_like(largest) for _ in range(2)]


@torch.inference_mode()
def normalises_single_values(network: nn.Module, images: Tensor) -> bool:
    """True where a batch normalisation sees one value a channel of a single image, from which it has no variance to learn.

    DeepLabV3+'s pooling of the whole image does, as does any layer whose map is one pixel.

    Args:
        network: Left in its mode, with its statistics as they are.
        images: (1, C, H, W).
    """
    found: list[bool] = []

    def note(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.append(inputs[0].numel() == inputs[0].shape[1])

    layers = [layer for layer in network.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        network(images)
    finally:
        for hook in hooks:
            hook.remove()
        for module, is_training in modes:
            module.training = is_training
    return any(found)


@dataclass(frozen=True)
class Probe:
    """What a step on so many tiles took: bytes at its peak beyond what there was before it, and seconds."""

    tiles: int
    bytes: float
    seconds: float


@dataclass(frozen=True)
class Choice:
    """Tiles at once, the bytes they are expected to take of those that are free, and about how many images a second that makes."""

    micro: int
    bytes: float
    free: int | None
    images_per_s: float

    def as_text(self, batch: int) -> str:
        """``micro-batch 16 of 16: 1.1 GB of 9.8 GB free, 8 images/s``."""
        free = "an unknown amount" if self.free is None else f"{human_bytes(self.free)} free"
        return f"micro-batch {self.micro} of {batch}: {human_bytes(self.bytes)} of {free}, {self.images_per_s:.3g} images/s"


def choose_micro(probe: Callable[[int], Probe | None], batch: int, free: int | None, *, for_speed: bool) -> Choice:
    """How many tiles of a batch to show the network at once: as many as fit in `SHARE` of the free memory.

    A step takes ``a + b n`` bytes for n tiles at once, which steps of 2, 3, 4, 8 … tiles tell; each is only tried when those before
    it say that it fits.

    Args:
        probe: Takes a step of so many tiles that changes nothing; None where it ran out of memory.
        batch: Tiles of the batch.
        free: Bytes; None where nobody knows, and all of the batch is taken.
        for_speed: As on a CPU: more than `ENOUGH` are only taken where twice as many are `FASTER`.
    """
    room, most = math.inf if free is None else SHARE * free, max(2, batch)
    done: list[Probe] = []
    probe(2)  # the first step of all is slow
    for tiles in _tried(most, for_speed=for_speed):
        found = None if done and _expected(done, tiles) > room else probe(tiles)
        is_no_faster = found is not None and for_speed and tiles > ENOUGH and _rate(found) < FASTER * _rate(done[-1])
        if found is None or is_no_faster:
            most = min(most, tiles - 1) if found is None else done[-1].tiles
            break
        done.append(found)
    if not done:
        return Choice(2, 0.0, free, 0.0)
    best = max((tiles for tiles in range(2, most + 1) if _expected(done, tiles) <= room), default=2)
    micro = max(cut(max(2, batch), best))  # the parts are even: what it will be
    return Choice(micro, _expected(done, micro), free, _rate(done[-1]))


def free_bytes(device: torch.device) -> int | None:
    """Memory that a step may still have on a device; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return max(0, torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    room = machine.memory()
    return None if room is None else room.free


class Measured:
    """Within, a step's memory is measured: `bytes` says afterwards how much it took at its peak.

    A GPU's allocator counts. On a CPU, where it keeps what it once had, what the forward pass keeps for the gradients is counted instead.
    """

    def __init__(self, device: torch.device, parameters: Iterable[Tensor]) -> None:
        self._device, self._parameters = device, list(parameters)
        self._kept: dict[int, int] = {}
        self._own = {parameter.untyped_storage().data_ptr() for parameter in self._parameters}
        self.bytes = 0.0

    def __enter__(self) -> Measured:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = torch.cuda.memory_allocated(self._device)
        else:
            self._hooks = torch.autograd.graph.saved_tensors_hooks(self._note, _as_it_is)
            self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        if self._device.type == "cuda":
            self.bytes = float(torch.cuda.max_memory_allocated(self._device) - self._before)
        else:
            self._hooks.__exit__(*error)
            gradients = sum(parameter.nbytes for parameter in self._parameters if parameter.requires_grad)
            self.bytes = _PEAK * sum(self._kept.values()) + gradients

    def _note(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._own:
            self._kept[storage.data_ptr()] = storage.nbytes()
        return tensor


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _tried(batch: int, *, for_speed: bool) -> list[int]:
    """2, 3, 4, 8 … and the batch; for speed from `ENOUGH` on, and two below it for the memory."""
    sizes = sorted({2, min(3, batch), batch, *(2**k for k in range(2, batch.bit_length()) if 2**k < batch)})
    return [size for size in sizes if not for_speed or size <= 3 or (size >= ENOUGH and batch > ENOUGH)]


def _expected(done: list[Probe], tiles: int) -> float:
    """The bytes of a step on so many tiles, by the line through the last two that were measured; of one alone, no fewer than it took."""
    last, before = done[-1], done[-2 if len(done) > 1 else -1]
    slope = max(0.0, (last.bytes - before.bytes) / max(1, last.tiles - before.tiles))
    return last.bytes + slope * (tiles - last.tiles)


def _rate(probe: Probe) -> float:
    return probe.tiles / max(probe.seconds, 1e-9)
