"""Geometry of augmentation: symmetries of the square, and one affine map a tile, of image and label together. It changes no colour.

A map is in pixels about the tile's centre, so tiles that are not square keep their shapes. Images are read bilinearly, labels by the
nearest pixel; ground that no pixel shows is mirrored in the image and the ignore index in the label.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from landseg.core.classes import IGNORE_INDEX
from landseg.core.settings import AugmentConfig
from landseg.training.choices import Choices
from landseg.training.upload import floats, put


def symmetries(images: Tensor, labels: Tensor, settings: AugmentConfig, choices: Choices) -> tuple[Tensor, Tensor]:
    """Flips and quarter turns: one of the eight symmetries of the square a tile (four, where it is not square); dtypes stay."""
    turns = np.zeros(len(choices.keys), np.int64)
    is_flipped = np.zeros((2, len(choices.keys)), bool)
    if settings.quarter_turns:
        turns = choices.whole(4, "turns")
        turns = turns if images.shape[-1] == images.shape[-2] else turns // 2 * 2
    if settings.flips:
        is_flipped = np.stack([choices.happens(0.5, side) for side in ("left-right", "up-down")])
    # Up-down after left-right is half a turn: eight codes hold all sixteen draws, and a code without tiles costs nothing.
    codes = (turns + 2 * is_flipped[1]) % 4 + 4 * (is_flipped[0] ^ is_flipped[1])
    if not codes.any():
        return images, labels
    new_images, new_labels = images.clone(), labels.clone()
    for code in np.unique(codes[codes > 0]):
        index = put(np.flatnonzero(codes == code), images.device)
        new_images[index] = _symmetry(images[index], int(code))
        new_labels[index] = _symmetry(labels[index], int(code))
    return new_images, new_labels


def warps(settings: AugmentConfig, choices: Choices, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw the maps of a batch.

    Returns:
        Which tiles are warped, (N,) bool: none where nothing is set. Their maps, (N, 2, 3) float64: where in the tile (col, row, in
        pixels from its centre, rows downwards) lies what a place of the result shows.
    """
    count = len(choices.keys)
    is_neutral = settings.scale == (1.0, 1.0) and settings.aspect == 1.0
    if is_neutral and not any((settings.rotation_deg, settings.shear_deg, settings.shift)):
        return np.zeros(count, bool), np.zeros((count, 2, 3))
    angle = np.radians(choices.either_way(settings.rotation_deg, "rotation"))
    shear = np.tan(np.radians(choices.either_way(settings.shear_deg, "shear")))
    scale = choices.factor(*settings.scale, "scale")
    stretch = np.sqrt(choices.factor(1 / settings.aspect, settings.aspect, "aspect"))
    shift = np.stack(
        [width * choices.either_way(settings.shift, "shift right"), height * choices.either_way(settings.shift, "shift down")], 1
    )
    return choices.happens(settings.warp, "warp"), affine(angle, scale, stretch, shear, shift)


def affine(angle: np.ndarray, scale: np.ndarray, stretch: np.ndarray, shear: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Maps that stretch, scale, shear, turn and shift, in this order.

    Args:
        angle: (N,) radians, anticlockwise.
        scale: (N,) how much larger the ground is shown.
        stretch: (N,) factor of the width and divisor of the height.
        shear: (N,) pixels to the right a pixel downwards.
        shift: (N, 2) pixels to the right and downwards.

    Returns:
        (N, 2, 3) float64 from places in the result to places in the tile.
    """
    cos, sin, zero, one = np.cos(angle), np.sin(angle), np.zeros_like(angle), np.ones_like(angle)
    turn = _matrices(cos, sin, -sin, cos)  # rows run downwards
    linear = turn @ _matrices(one, shear, zero, one) @ _matrices(scale * stretch, zero, zero, scale / stretch)
    back = np.linalg.inv(linear)
    return np.concatenate((back, -back @ shift[:, :, None]), 2)


def warp(images: Tensor, labels: Tensor, maps: np.ndarray) -> tuple[Tensor, Tensor]:
    """Warp each tile by its map.

    Args:
        images: (N, C, H, W) of any dtype. A value interpolated with a missing one (NaN) is missing.
        labels: (N, H, W) uint8.
        maps: (N, 2, 3), see `affine`.

    Returns:
        Images float32, bilinear, mirrored where nothing is known; labels uint8, nearest, ignore index there.
    """
    height, width = images.shape[-2:]
    grid = torch.empty(len(images), height, width, 2, device=images.device)
    cols, rows = np.arange(width) - (width - 1) / 2, np.arange(height) - (height - 1) / 2
    for axis, length in enumerate((width, height)):
        # grid_sample counts from -1 to 1 along each side. One sum a pixel, so no product's rounding depends on the batch.
        along_row = maps[:, axis, :1] * cols * (2 / length)
        down = (maps[:, axis, 1:2] * rows + maps[:, axis, 2:]) * (2 / length)
        torch.add(floats(along_row, images)[:, None, :], floats(down, images)[:, :, None], out=grid[..., axis])
    warped = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    # Zero is what grid_sample puts outside, so the ignore index travels as zero.
    moved = F.grid_sample((labels.float() - IGNORE_INDEX)[:, None], grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return warped, (moved[:, 0] + IGNORE_INDEX).to(torch.uint8)


def _matrices(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
    return np.stack((np.stack((a, b), 1), np.stack((c, d), 1)), 1)


def _symmetry(values: Tensor, code: int) -> Tensor:
    flipped = values.flip(-1) if code >= 4 else values
    return torch.rot90(flipped, code % 4, (-2, -1))
