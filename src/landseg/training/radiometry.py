"""What air, light and sensor do to an image: haze, shadow, blur, sharpening, noise, a band that failed. It moves no pixel.

A function here takes (n, C, H, W) float32 and parameters of one number a tile, and may change its argument.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from landseg.training.choices import Choices
from landseg.training.upload import floats, put

BLUR_SIGMA = (0.5, 1.5)
"""Pixels. Weaker changes nothing that a network sees, stronger erases the buildings of a 2 m image."""

SHARPEN = (0.5, 1.5)
"""How many times the difference from a blurred image (sigma 1 pixel) is added."""

NOISE_STD = (0.02, 0.2)
"""Standard deviation of the noise, in those of the band."""

HAZE = (0.2, 0.6)
"""Share of the haze's own brightness where it is densest."""

SHADOW = (0.3, 0.7)
"""Share of the light that a shadow takes."""

EDGE_PX = 4.0
"""Over which a shadow sets in."""

_RADIUS = 4
"""Of the blur, in pixels: 2.7 deviations of the strongest."""

_GRID = 4
"""Knots a side of the smooth field of haze."""


def blend_blurred(images: Tensor, sigmas: np.ndarray, shares: np.ndarray) -> Tensor:
    """Move images towards their blurred selves: by a share of 1 they are blurred, by a negative one sharpened.

    Args:
        images: (n, C, H, W) float32.
        sigmas: (n,) of the Gaussian, in pixels.
        shares: (n,).
    """
    offsets = np.arange(_RADIUS + 1)
    weights = np.exp(-(offsets**2) / (2 * sigmas[:, None] ** 2))
    weights = floats(weights / (2 * weights.sum(1, keepdims=True) - 1), images)[:, :, None, None, None]
    blurred = F.pad(images, (_RADIUS,) * 4, mode="replicate")
    for axis in (3, 2):  # sums of shifted images, as a convolution may round otherwise in another batch
        length = images.shape[axis]
        result = blurred.narrow(axis, _RADIUS, length) * weights[:, 0]
        for k in range(1, _RADIUS + 1):
            pair = blurred.narrow(axis, _RADIUS - k, length) + blurred.narrow(axis, _RADIUS + k, length)
            result.add_(pair.mul_(weights[:, k]))
        blurred = result
    if (shares == 1).all():
        return blurred
    return images.add_(blurred.sub_(images).mul_(floats(shares, images)[:, None, None, None]))


def cover(images: Tensor, density: Tensor, colour: np.ndarray) -> Tensor:
    """Cover images by a colour (C,), as densely as `density` (n, 1, H, W) says, 0 to 1."""
    return images.add_((floats(colour, images)[:, None, None] - images).mul_(density))


def haze_density(knots: np.ndarray, strengths: np.ndarray, like: Tensor) -> Tensor:
    """(n, 1, H, W): smooth fields through `knots` (n, rows, cols) of 0 to 1, times `strengths` (n,)."""
    field = F.interpolate(floats(knots, like)[:, None], like.shape[-2:], mode="bicubic", align_corners=True)
    return field.clamp_(0, 1).mul_(floats(strengths, like)[:, None, None, None])


def haze_knots(choices: Choices) -> np.ndarray:
    """(N, rows, cols) for `haze_density`."""
    return choices.field(_GRID, _GRID, "haze field")


def shadow_density(angles: np.ndarray, begins: np.ndarray, widths: np.ndarray, strengths: np.ndarray, like: Tensor) -> Tensor:
    """(n, 1, H, W): strips, or half-planes where the width is infinite.

    Args:
        angles: (n,) radians, of the direction across the strip.
        begins: (n,) where it begins along that direction, in pixels from the tile's centre.
        widths: (n,) pixels.
        strengths: (n,) density inside.
        like: A tensor of the wanted height, width and device.
    """
    height, width = like.shape[-2:]
    rows, cols = np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2
    across = floats(np.cos(angles)[:, None] * cols, like)[:, None, None, :]
    down = floats(np.sin(angles)[:, None] * rows - begins[:, None], like)[:, None, :, None]
    depth = across + down
    depth = torch.minimum(depth, floats(widths, like)[:, None, None, None] - depth)
    return depth.mul_(1 / EDGE_PX).add_(0.5).clamp_(0, 1).mul_(floats(strengths, like)[:, None, None, None])


def add_noise(images: Tensor, seeds: np.ndarray, stds: np.ndarray) -> Tensor:
    """Add noise that is nearly normal, drawn anew for each pixel and band.

    Args:
        images: (n, C, H, W) float32.
        seeds: (n,) int64 of 32 bits. The noise is a function of the seed and the number of the value, in whole numbers up to its scale:
            the same on every device.
        stds: (n, C) standard deviations, in the images' units.

    Source: the hash is lowbias32 (Wellons 2018, "Prospecting for hash functions"); the sum of four even numbers is nearly normal
    (Irwin-Hall; it ends 3.4 deviations from the mean).
    """
    numbers = torch.arange(images[0].numel(), dtype=torch.int32, device=images.device).view(images[0].shape)
    hashed = numbers + put(seeds.astype(np.int32), images.device)[:, None, None, None]
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        hashed = _hash_step(hashed, shift).mul_(factor if factor < 2**31 else factor - 2**32)
    hashed = _hash_step(hashed, 16)
    pairs = (hashed & 0x00FF00FF).add_((hashed >> 8).bitwise_and_(0x00FF00FF))
    total = (pairs & 0xFFFF).add_(pairs >> 16)
    spread = 2 * np.sqrt((256**2 - 1) / 12)
    return images.add_(total.float().sub_(510).mul_(floats(stds / spread, images)[:, :, None, None]))


def drop_band(images: Tensor, which: np.ndarray, mean: tuple[float, ...]) -> Tensor:
    """Replace one band of each image, of the number in `which` (n,), by its mean over the data set."""
    values = floats(np.array(mean)[which], images)[:, None, None]
    index = torch.arange(len(images), device=images.device)
    images[index, put(which, images.device)] = values
    return images


def _hash_step(values: Tensor, shift: int) -> Tensor:
    # torch's shift brings the sign along, which would lose bits.
    return (values >> shift).bitwise_and_((1 << (32 - shift)) - 1).bitwise_xor_(values)
