"""Batch → logits with PyTorch on one device, and images as its tensors. Which engine runs a model `network.engine` chooses."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from landseg.core.errors import LandsegError
from landseg.network.build import Network
from landseg.network.card import ModelCard
from landseg.network.sizes import STRIDE, fitted_shape

_TRAVELS_AS = {"uint16": "int32", "uint32": "float32", "uint64": "float32", "float64": "float32"}

_BITS = {"32": None, "bf16": torch.bfloat16, "16": torch.float16}


class TorchEngine:
    """A network run by PyTorch on one device: a batch at a time, by all cores together.

    Args:
        network: In evaluation mode.
        card: What the model is.
        device: Where it runs.
        precision: ``32``, or ``bf16`` or ``16``: then the layers that bear it compute in 16 bits, as in training; weights stay as they are.

    Raises:
        LandsegError: The device does not compute so.
    """

    lanes = 1

    def __init__(self, network: Network, card: ModelCard, device: torch.device, precision: str = "32") -> None:
        _require_precision(precision, device)
        self.card = card
        self.runtime = f"torch {torch.__version__} on {device.type}{'' if precision == '32' else f' in {precision}'}"
        self.device = device
        self._dtype = _BITS[precision]
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
        with self._fewer_bits():
            logits = full_size_logits(self._network, to_tensor(images, self.device), self.card.factor * scale)
        if self._dtype is torch.float16 and not bool(logits.isfinite().all()):
            raise LandsegError(
                "predict.precision=16",
                "logits that are not finite: beyond its range, which ends at 65,504, or the model's own in 32 bits too",
                "bf16, whose range is float32's, or 32: what these do not mend is the model's", "--set predict.precision=bf16",
            )  # fmt: skip
        return logits

    def _fewer_bits(self) -> AbstractContextManager[object]:
        return nullcontext() if self._dtype is None else torch.autocast(self.device.type, self._dtype)


def _require_precision(precision: str, device: torch.device) -> None:
    if (precision, device.type) == ("bf16", "cuda"):
        is_here = has_bf16_units(device)
    else:
        is_here = precision == "32" or (precision, device.type) in (("16", "cuda"), ("bf16", "cpu"))
    if not is_here:
        raise LandsegError(
            "predict.precision", f"{precision} on {device.type}", "16, or bf16 where it has units for it, on an NVIDIA GPU; bf16 on a CPU",
            "--set predict.precision=32",
        )  # fmt: skip


def has_bf16_units(device: torch.device) -> bool:
    """Whether a device is a GPU that computes with bf16 itself: emulated, as before Ampere, it may take longer than 32 bits."""
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):  # the current one is asked
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


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


def pad(images: Tensor) -> Tensor:
    """Repeat the last row and column until height and width are multiples of the network's stride."""
    height, width = images.shape[-2:]
    below, right = -height % STRIDE, -width % STRIDE
    if not (below or right):
        return images
    return F.pad(images.float(), (0, right, 0, below), mode="replicate")
