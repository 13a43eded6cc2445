"""Random changes to a batch on its device; image and label move together, exposed pixels become the ignore index.

Labels are never interpolated. Every draw is a function of (seed, epoch, tile).
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from landseg.core.classes import IGNORE_INDEX
from landseg.core.config import AugmentConfig
from landseg.training.draws import uniform

_BLUR_SIGMA = (0.5, 1.5)
"""Pixels. Weaker changes nothing that a network sees, stronger erases the buildings of a 2 m image."""

_BLUR_RADIUS = 4


def augment(images: Tensor, labels: Tensor, settings: AugmentConfig, *, seed: int, epoch: int, keys: np.ndarray) -> tuple[Tensor, Tensor]:
    """Change a batch at random.

    Args:
        images: (N, C, H, W) of any dtype and any number of bands.
        labels: (N, H, W) uint8 ids.
        settings: Which changes, how strong.
        seed: Of the run.
        epoch: From 0.
        keys: (N,) uint64, the tiles' keys (`draws.tile_keys`).

    Returns:
        The changed batch; its images stay in their dtype unless they were rotated or blurred (then float32).
    """
    images, labels = _symmetries(images, labels, settings, seed, epoch, keys)
    if settings.rotation_deg > 0:
        angles = (2 * uniform(seed, epoch, keys, "rotation") - 1) * math.radians(settings.rotation_deg)
        images, labels = rotate(images, labels, torch.as_tensor(angles, dtype=torch.float32, device=images.device))
    if settings.blur > 0:
        chosen = np.flatnonzero(uniform(seed, epoch, keys, "blur") < settings.blur)
        if len(chosen):
            low, high = _BLUR_SIGMA
            sigmas = low + (high - low) * uniform(seed, epoch, keys[chosen], "sigma")
            index = torch.as_tensor(chosen, device=images.device)
            images = images.float().index_copy(
                0, index, blur(images[index], torch.as_tensor(sigmas, dtype=torch.float32, device=images.device))
            )
    return images, labels


def rotate(images: Tensor, labels: Tensor, angles: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate each tile about its centre.

    Args:
        images: (N, C, H, W).
        labels: (N, H, W) uint8.
        angles: (N,) radians, anticlockwise.

    Returns:
        Images float32, bilinear, mirrored into the corners that were exposed; labels uint8, nearest, ignore index there.
    """
    height, width = images.shape[-2:]
    cos, sin, zero = torch.cos(angles), torch.sin(angles), torch.zeros_like(angles)
    # Rotation happens in pixels; grid_sample's coordinates run from -1 to 1 along each side, so a side's length enters.
    theta = torch.stack((torch.stack((cos, -sin * height / width, zero), 1), torch.stack((sin * width / height, cos, zero), 1)), 1)
    grid = F.affine_grid(theta, [len(images), 1, height, width], align_corners=False)
    turned = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    # Zero is what grid_sample puts outside, so the ignore index travels as zero.
    shifted = F.grid_sample((labels.float() - IGNORE_INDEX)[:, None], grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return turned, (shifted[:, 0] + IGNORE_INDEX).round().to(torch.uint8)


def blur(images: Tensor, sigmas: Tensor) -> Tensor:
    """Gaussian blur of (N, C, H, W) with one sigma (pixels) a tile; float32."""
    count, bands, height, width = images.shape
    offsets = torch.arange(-_BLUR_RADIUS, _BLUR_RADIUS + 1, device=images.device, dtype=torch.float32)
    kernels = torch.exp(-(offsets**2) / (2 * sigmas[:, None] ** 2))
    kernels = (kernels / kernels.sum(1, keepdim=True)).repeat_interleave(bands, 0)
    radius = _BLUR_RADIUS
    flat = F.pad(images.float().reshape(1, count * bands, height, width), (radius, radius, radius, radius), mode="replicate")
    flat = F.conv2d(flat, kernels[:, None, None, :], groups=count * bands)
    return F.conv2d(flat, kernels[:, None, :, None], groups=count * bands).reshape(count, bands, height, width)


def _symmetries(images: Tensor, labels: Tensor, settings: AugmentConfig, seed: int, epoch: int, keys: np.ndarray) -> tuple[Tensor, Tensor]:
    """Flips and quarter turns: one of the eight symmetries of the square a tile (four, where it is not square)."""
    is_square = images.shape[-1] == images.shape[-2]
    turns = np.zeros(len(keys), np.int64)
    is_flipped = np.zeros((2, len(keys)), bool)
    if settings.quarter_turns:
        turns = (uniform(seed, epoch, keys, "turns") * 4).astype(np.int64)
        turns = turns if is_square else turns // 2 * 2
    if settings.flips:
        is_flipped = np.stack([uniform(seed, epoch, keys, side) < 0.5 for side in ("left-right", "up-down")])
    # Up-down after left-right is half a turn: eight codes hold all sixteen draws, and a code without tiles costs nothing.
    codes = (turns + 2 * is_flipped[1]) % 4 + 4 * (is_flipped[0] ^ is_flipped[1])
    new_images, new_labels = images.clone(), labels.clone()
    for code in np.unique(codes):
        if code:
            index = torch.as_tensor(np.flatnonzero(codes == code), device=images.device)
            new_images[index] = _symmetry(images[index], int(code))
            new_labels[index] = _symmetry(labels[index], int(code))
    return new_images, new_labels


def _symmetry(values: Tensor, code: int) -> Tensor:
    flipped = values.flip(-1) if code >= 4 else values
    return torch.rot90(flipped, code % 4, (-2, -1))
