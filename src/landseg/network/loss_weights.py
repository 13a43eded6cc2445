"""How much a labelled pixel weighs in the loss: by its class and by how near a border between classes is. It lowers nothing itself."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from landseg.core.classes import IGNORE_INDEX
from landseg.core.errors import LandsegError
from landseg.core.settings import LossConfig

_REACH = 2.5
"""Where a border's extra weight is cut off, in multiples of `loss.boundary_px`: 0.2 % of it are left there."""


def class_weights(settings: LossConfig, classes: int, class_pixels: Sequence[int] | None) -> Tensor | None:
    """The weight of each class, (K,) float32, or None where all weigh alike.

    The weights `inverse` and `effective` are normalised so that the mean over the labelled pixels is 1, which leaves the learning rate
    its meaning. A class without a pixel weighs 1, as the mean pixel does: there is nothing to weigh it by.

    Args:
        settings: `loss.class_weights`.
        classes: Number of classes K.
        class_pixels: Labelled pixels a class of the train part, in the order of the ids; needed for `inverse` and `effective` alone.

    Raises:
        LandsegError: The list is not K numbers, none negative, not all zero.
        ValueError: Pixels are needed and were not counted.

    Source: Cui et al. 2019, "Class-balanced loss based on effective number of samples": 1 / E(n), E(n) = (1 - beta^n) / (1 - beta), with
    beta = (N - 1) / N for N distinct samples. Neighbouring pixels show the same, so N is not the number of pixels; it is taken as the
    pixels that a class has on average, n / K. Then E depends on the classes' shares alone, not on the resolution or on the size of the
    set: a rare class weighs as with `inverse`, and frequent ones hardly differ.
    """
    given = settings.class_weights
    if given == "none":
        return None
    if not isinstance(given, str):
        if len(given) != classes or min(given) < 0 or max(given) == 0:
            raise LandsegError(
                "loss.class_weights",
                f"{list(given)}",
                f"{classes} number{'s' * (classes > 1)}, none negative, not all zero",
                "one a class, in the order of the ids",
            )
        return torch.tensor(given, dtype=torch.float32)
    if class_pixels is None or len(class_pixels) != classes:
        raise ValueError(f"the pixels of {classes} classes must be counted for loss.class_weights={given}, found {class_pixels}")
    pixels, present = sum(class_pixels), sum(count > 0 for count in class_pixels)
    effective = [_effective(count, pixels / max(present, 1)) if given == "effective" else float(count) for count in class_pixels]
    weighed = sum(count / number for count, number in zip(class_pixels, effective, strict=True) if count)
    return torch.tensor([pixels / weighed / number if number else 1.0 for number in effective], dtype=torch.float32)


def _effective(count: int, distinct: float) -> float:
    """The effective number of `count` pixels, with beta = 1 - 1 / `distinct`."""
    if not count or distinct <= 1:
        return float(count > 0)
    return -math.expm1(count * math.log1p(-1 / distinct)) * distinct


def border_weights(labels: Tensor, strength: float, distance_px: float) -> Tensor:
    """1 + strength * exp(-(d / distance_px)^2), d being the distance to the nearest pixel that touches another class.

    Args:
        labels: (N, H, W) ids. The ignore index is no class: it makes no border, and distances reach across it.
        strength: Extra weight on the border itself.
        distance_px: Pixels at which it has fallen to 1/e.

    Returns:
        (N, H, W) float32. Distances are Euclidean, exact up to 2.5 * `distance_px`, from where on the weight is 1.

    Source: Ronneberger et al. 2015, "U-Net", equation 2, with one distance instead of two. A Gaussian is a product of one along the rows
    and one along the columns, so the largest over all border pixels is found in two passes and needs no distance transform.
    """
    near = _touches_another(labels).float()
    for axis in (1, 2):
        near = _spread(near, axis, distance_px)
    return 1 + strength * near


def _touches_another(labels: Tensor) -> Tensor:
    """(N, H, W) bool: a side is shared with a pixel of another class."""
    found = torch.zeros_like(labels, dtype=torch.bool)
    for axis in (1, 2):
        length = labels.shape[axis] - 1
        before, after = labels.narrow(axis, 0, length), labels.narrow(axis, 1, length)
        differs = (before != after) & (before != IGNORE_INDEX) & (after != IGNORE_INDEX)
        for start in (0, 1):
            found.narrow(axis, start, length).logical_or_(differs)
    return found


def _spread(near: Tensor, axis: int, distance_px: float) -> Tensor:
    """The largest of the values along an axis, each fallen with its distance."""
    most, length = near.clone(), near.shape[axis]
    for step in range(1, min(math.floor(_REACH * distance_px) + 1, length)):
        fallen = near * math.exp(-((step / distance_px) ** 2))
        for start, there in ((0, step), (step, 0)):
            place = most.narrow(axis, start, length - step)
            torch.maximum(place, fallen.narrow(axis, there, length - step), out=place)
    return most
