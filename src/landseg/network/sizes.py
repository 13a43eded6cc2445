"""Images at a size that a network takes, and logits back at the images' own, in numpy. It runs no network and knows no torch.

What `network.torch_engine` does on a device, for engines that do without torch; both give the same to the last digits of float32.
"""

from __future__ import annotations

import numpy as np

STRIDE = 32
"""Images are padded to a multiple of this. Source: the deepest stage of an encoder of five stages has stride 2^5."""


def fitted_shape(height: int, width: int, factor: float) -> tuple[int, int]:
    """(height, width) after `fit`."""
    return max(1, round(height * factor)), max(1, round(width * factor))


def fit(images: np.ndarray, factor: float) -> np.ndarray:
    """Images resized by a factor: averaged when made smaller, bilinear when made larger.

    Missing values (not finite) do not spread: a pixel is NaN where more than half of what it is made of is missing, else made of the rest.

    Args:
        images: (N, H, W, C) of any dtype.
        factor: 1 keeps their own size, and the array itself.

    Returns:
        (N, h, w, C), float32 where the size changed.
    """
    shape = fitted_shape(images.shape[1], images.shape[2], factor)
    if shape == images.shape[1:3]:
        return images
    resized = _averaged if factor < 1 else _bilinear
    values = images.astype(np.float32, copy=False)
    if not np.issubdtype(images.dtype, np.floating):
        return resized(resized(values, 1, shape[0]), 2, shape[1])
    known = np.isfinite(values)
    if known.all():
        return resized(resized(values, 1, shape[0]), 2, shape[1])
    weight = resized(resized(known.astype(np.float32), 1, shape[0]), 2, shape[1])
    rest = resized(resized(np.where(known, values, np.float32(0)), 1, shape[0]), 2, shape[1])
    return np.where(weight >= 0.5, rest / np.maximum(weight, np.float32(0.5)), np.float32(np.nan))


def pad(images: np.ndarray) -> np.ndarray:
    """Repeat the last row and column of (N, H, W, C) until height and width are multiples of the network's stride."""
    below, right = (-edge % STRIDE for edge in images.shape[1:3])
    return np.pad(images, ((0, 0), (0, below), (0, right), (0, 0)), "edge") if below or right else images


def enlarged(logits: np.ndarray, height: int, width: int) -> np.ndarray:
    """Logits (N, K, h, w) at another size, bilinear; the array itself where it is theirs."""
    if logits.shape[2:] == (height, width):
        return logits
    return _bilinear(_bilinear(logits, 2, height), 3, width)


def _averaged(values: np.ndarray, axis: int, length: int) -> np.ndarray:
    """Each new pixel is the mean of the old ones that it touches, as torch's `area` has it: these windows may overlap by one."""
    old = values.shape[axis]
    index = np.arange(length)
    first, last = index * old // length, -(-(index + 1) * old // length)
    counts = last - first
    shape = tuple(length if a == axis else 1 for a in range(values.ndim))
    total: np.ndarray = values.take(first, axis)
    for step in range(1, int(counts.max())):
        total += values.take(np.minimum(first + step, old - 1), axis) * (counts > step).astype(np.float32).reshape(shape)
    total /= counts.astype(np.float32).reshape(shape)
    return total


def _bilinear(values: np.ndarray, axis: int, length: int) -> np.ndarray:
    """Pixels' centres stay where they are on the image, and its border pixels reach to its end (torch's ``align_corners=False``)."""
    old = values.shape[axis]
    if old == length:
        return values
    place = np.maximum((np.arange(length, dtype=np.float32) + 0.5) * np.float32(old / length) - 0.5, 0)
    first = np.minimum(place.astype(np.int64), old - 1)
    share = (place - first).astype(np.float32).reshape(tuple(length if a == axis else 1 for a in range(values.ndim)))
    lower: np.ndarray = values.take(first, axis)
    upper = values.take(np.minimum(first + 1, old - 1), axis)
    upper -= lower
    upper *= share
    lower += upper
    return lower
