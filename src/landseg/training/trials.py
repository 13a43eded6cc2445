"""How fast this machine trains and copies to its device, measured on a few bare steps. It keeps nothing and judges nothing."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import median

import torch
import torch.nn.functional as F

from landseg.core.settings import ModelConfig
from landseg.network.build import build
from landseg.network.card import Normalisation
from landseg.network.torch_engine import has_bf16_units

FEWEST_STEPS, MOST_STEPS = 3, 50

_COPY_BYTES = 256_000_000
_LEARNING_RATE = 0.01  # any: the weights are thrown away


@dataclass(frozen=True)
class StepSpeed:
    """Images a second of the network's forward and backward pass and the optimiser's step, with nothing to wait for."""

    images_per_s: float
    edge: int
    batch: int
    precision: str


class BareStep:
    """A network of the default recipe on random images, in the arithmetic that training takes there by itself.

    Args:
        device: Where.
        bands: Of the images.
        classes: Of the labels.

    Raises:
        RuntimeError: torch cannot compute there.
    """

    def __init__(self, device: torch.device, bands: int = 3, classes: int = 5) -> None:
        settings = ModelConfig()
        normalisation = Normalisation((127.5,) * bands, (60.0,) * bands)
        network = build(settings.network, settings.encoder, bands, classes, normalisation)
        self._network = network.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self._optimiser = torch.optim.SGD(self._network.parameters(), _LEARNING_RATE, momentum=0.9)
        self._device, self._bands, self._classes = device, bands, classes
        self._is_half = has_bf16_units(device)

    def speed(self, edge: int, batch: int, limit_s: float) -> StepSpeed:
        """Measure steps for `limit_s` seconds, of `FEWEST_STEPS` to `MOST_STEPS`, after one that is not counted.

        On a GPU whose memory is too small the batch is halved.

        Raises:
            RuntimeError: torch cannot compute there, or not even one image fits.
        """
        while True:
            try:
                seconds = self._seconds(edge, batch, limit_s)
            except torch.OutOfMemoryError:
                if batch <= 2:  # batch normalisation wants two
                    raise
                batch //= 2
                torch.cuda.empty_cache()
                continue
            return StepSpeed(batch / seconds, edge, batch, "bf16" if self._is_half else "32 bits")

    def _seconds(self, edge: int, batch: int, limit_s: float) -> float:
        random = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (batch, self._bands, edge, edge), generator=random, dtype=torch.uint8).to(self._device)
        labels = torch.randint(0, self._classes, (batch, edge, edge), generator=random).to(self._device)
        times: list[float] = []
        begin = time.perf_counter()
        while len(times) <= FEWEST_STEPS or (time.perf_counter() - begin < limit_s and len(times) < MOST_STEPS):
            start = time.perf_counter()
            with torch.autocast("cuda", torch.bfloat16) if self._is_half else nullcontext():
                loss = F.cross_entropy(self._network(images), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimiser.step()
            self._optimiser.zero_grad()
            _wait(self._device)
            times.append(time.perf_counter() - start)
            if len(times) > 1 and time.perf_counter() - begin > 2 * limit_s:
                break
        return median(times[1:])


def copy_rate(device: torch.device) -> float:
    """Bytes a second from the host's memory to a device's, as the better of a few copies.

    Raises:
        RuntimeError: torch cannot copy there.
    """
    block = torch.zeros(_COPY_BYTES, dtype=torch.uint8)
    times = []
    for _ in range(4):
        start = time.perf_counter()
        block.to(device)
        _wait(device)
        times.append(time.perf_counter() - start)
    return _COPY_BYTES / min(times[1:])


def _wait(device: torch.device) -> None:
    """Until what was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
