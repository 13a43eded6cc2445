"""A batch at the size that the network trains at. It reads and augments nothing; `engine` does the same to what is predicted."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from landseg.core.classes import IGNORE_INDEX
from landseg.network.sizes import fitted_shape
from landseg.network.torch_engine import fit, pad


def sized(images: Tensor, labels: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """A batch resized and filled up to the network's stride; labels keep their ids, and what is filled up is ignored.

    Args:
        images: (N, C, H, W) of any dtype.
        labels: (N, H, W) uint8.
        factor: By which both are made larger or smaller; 1 keeps their size.
    """
    height, width = fitted_shape(images.shape[-2], images.shape[-1], factor)
    if (height, width) != tuple(labels.shape[-2:]):
        images = fit(images, factor)
        labels = F.interpolate(labels[:, None].float(), (height, width), mode="nearest-exact")[:, 0].to(torch.uint8)
    images = pad(images)
    return images, F.pad(labels, (0, images.shape[-1] - width, 0, images.shape[-2] - height), value=IGNORE_INDEX)
