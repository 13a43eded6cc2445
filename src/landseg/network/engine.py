"""Batch → logits with a trained model, whatever its tiles' size. It reads no files of tiles and takes no argmax.

A batch is (N, H, W, C) in the images' own dtype, as tiles are decoded; logits are (N, K, H, W) float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from landseg.core.errors import LandsegError
from landseg.network.build import STRIDE, Network
from landseg.network.checkpoint import ModelCard, load_model
from landseg.network.probs import mean_logits

_TRAVELS_AS = {"uint16": "int32", "uint32": "float32", "uint64": "float32", "float64": "float32"}


class Engine(Protocol):
    """Something that turns a batch of images into logits."""

    card: ModelCard

    def logits(self, images: np.ndarray, scale: float = 1.0) -> np.ndarray:
        """(N, H, W, C) → (N, K, H, W) float32; the network sees the images larger by `scale` than it otherwise would."""
        ...

    def preds(self, images: np.ndarray) -> np.ndarray:
        """(N, H, W, C) → (N, H, W) uint8 class ids."""
        ...


class TorchEngine:
    """A network run by PyTorch on one device."""

    def __init__(self, network: Network, card: ModelCard, device: torch.device) -> None:
        self.card = card
        self.device = device
        self._network = network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    def logits(self, images: np.ndarray, scale: float = 1.0) -> np.ndarray:
        """(N, H, W, C) → (N, K, H, W) float32."""
        with torch.inference_mode():
            return self._logits(images, scale).float().cpu().numpy()

    def preds(self, images: np.ndarray) -> np.ndarray:
        """(N, H, W, C) → (N, H, W) uint8 class ids."""
        with torch.inference_mode():
            return self._logits(images).argmax(1).to(torch.uint8).cpu().numpy()

    def _logits(self, images: np.ndarray, scale: float = 1.0) -> Tensor:
        # The two factors as one: an image is resampled once, from all of its pixels.
        return full_size_logits(self._network, to_tensor(images, self.device), self.card.factor * scale)


class Ensemble:
    """Several engines whose probabilities are averaged; its logits are the logarithms of the mean.

    They share classes, bands and type; networks, training sizes and tile sizes are their own.
    """

    def __init__(self, engines: Sequence[Engine]) -> None:
        self.card = _joint_card([engine.card for engine in engines])
        self.engines = tuple(engines)

    def logits(self, images: np.ndarray, scale: float = 1.0) -> np.ndarray:
        """(N, H, W, C) → (N, K, H, W) float32."""
        return mean_logits(engine.logits(images, scale) for engine in self.engines)

    def preds(self, images: np.ndarray) -> np.ndarray:
        """(N, H, W, C) → (N, H, W) uint8 class ids."""
        return np.asarray(self.logits(images).argmax(1), np.uint8)


def load_engine(models: Sequence[Path], device: str = "auto") -> Engine:
    """Load one model, or several as an ensemble.

    Raises:
        LandsegError: None is named, no model there, or models of an ensemble that differ in classes or bands.
    """
    if not models:
        raise LandsegError("MODEL", "nothing is named", "a run folder or a model folder", "name at least one")
    place = choose_device(device, "predict.device")
    engines = [TorchEngine(*load_model(path), place) for path in models]
    first = engines[0].card
    for path, engine in zip(models, engines, strict=True):
        for what in ("class_names", "bands", "dtype"):
            mine, theirs = getattr(engine.card, what), getattr(first, what)
            if mine != theirs:
                raise LandsegError(
                    path, f"its {what} are {mine}", f"an ensemble shares them ({models[0]}: {theirs})", "leave one of the models out"
                )
    return engines[0] if len(engines) == 1 else Ensemble(engines)


def choose_device(name: str, key: str) -> torch.device:
    """The torch device of a setting; ``auto`` takes a GPU when there is one.

    Args:
        name: auto | cpu | cuda | cuda:N | mps.
        key: The setting's dotted name, for the message.

    Raises:
        LandsegError: There is no such device here.
    """
    has_mps = torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise LandsegError(key, f"{name!r}", "auto, cpu, cuda, cuda:N or mps", f"--set {key}=auto") from error
    count = {"cuda": torch.cuda.device_count(), "mps": int(has_mps), "cpu": 1}.get(device.type, 0)
    if (device.index or 0) >= count:
        raise LandsegError(key, f"{name!r}, but this machine has {count} such devices", "a device that is here", f"--set {key}=auto")
    return device


def to_tensor(images: np.ndarray, device: torch.device) -> Tensor:
    """(N, H, W, C) → (N, C, H, W) on the device; a view in channels-last order where the dtype allows.

    torch computes in no unsigned numbers beyond uint8, so such images travel as others; the network computes in float32 anyway.
    """
    batch = images.astype(_TRAVELS_AS.get(images.dtype.name, images.dtype), copy=False)
    if not batch.flags.c_contiguous or not batch.flags.writeable or min(batch.strides) < 0:
        # torch has neither read-only tensors nor negative steps, which numpy takes for contiguous along an axis of length 1.
        batch = batch.copy()
    return torch.from_numpy(batch).permute(0, 3, 1, 2).to(device, non_blocking=True)


def full_size_logits(network: torch.nn.Module, images: Tensor, factor: float) -> Tensor:
    """Logits at the images' own size, whatever the network's stride and the size it was trained at.

    Args:
        network: (N, C, H, W) → (N, K, H, W) for multiples of `STRIDE`.
        images: (N, C, H, W).
        factor: By which images are made larger or smaller for the network; 1 keeps their own size.
    """
    height, width = images.shape[-2:]
    images = fit(images, factor)
    logits: Tensor = network(pad(images))[..., : images.shape[-2], : images.shape[-1]]
    if logits.shape[-2:] != (height, width):
        logits = F.interpolate(logits.float(), (height, width), mode="bilinear", align_corners=False)
    return logits


def fit(images: Tensor, factor: float) -> Tensor:
    """Images resized by a factor: averaged when made smaller, bilinear when made larger.

    Missing values (not finite) do not spread: a pixel is NaN where more than half of what it is made of is missing, else made of the rest.
    """
    shape = fitted_shape(images.shape[-2], images.shape[-1], factor)
    if shape == tuple(images.shape[-2:]):
        return images

    def resized(values: Tensor) -> Tensor:
        if factor < 1:
            return F.interpolate(values, shape, mode="area")
        return F.interpolate(values, shape, mode="bilinear", align_corners=False)

    values = images.float()
    known = values.isfinite() if images.is_floating_point() else None
    if known is None or bool(known.all()):
        return resized(values)
    weight = resized(known.float())
    return torch.where(weight >= 0.5, resized(values.where(known, 0.0)) / weight.clamp(min=0.5), torch.nan)


def fitted_shape(height: int, width: int, factor: float) -> tuple[int, int]:
    """(height, width) after `fit`."""
    return max(1, round(height * factor)), max(1, round(width * factor))


def pad(images: Tensor) -> Tensor:
    """Repeat the last row and column until height and width are multiples of the network's stride."""
    height, width = images.shape[-2:]
    below, right = -height % STRIDE, -width % STRIDE
    if not (below or right):
        return images
    return F.pad(images.float(), (0, right, 0, below), mode="replicate")


def _joint_card(cards: Sequence[ModelCard]) -> ModelCard:
    """The first model's card, with a tile size and a factor for all: the tiles of the model whose network sees the most pixels of one,
    at the factor of the model that enlarges most. So neither pieces of large images nor batches take any model's network beyond
    what one of them asks for alone, whatever the pair; a model that was trained on longer tiles sees less around a pixel than it did."""
    first = cards[0]
    if all((card.tile_size, card.size) == (first.tile_size, first.size) for card in cards):
        return first
    factor = max(card.factor for card in cards)
    most = max(cards, key=lambda card: card.tile_size[0] * card.tile_size[1] * card.factor**2)
    height, width = (max(1, int(edge * (most.factor / factor))) for edge in most.tile_size)
    return first.model_copy(update={"tile_size": (height, width), "size": round(factor * max(height, width))})
