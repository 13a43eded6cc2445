"""What a network says of windows whose pixels are not square on the ground: it is shown square ones. It decides no scale: `plan` does.

Where height and width are scaled alike, the engine does it, in one step with its own size of training. Where they are not, windows are
stretched here, before the engine and its augmentation: a quarter turn then turns ground, not pixels that are twice as high as wide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from landseg.network.engine import Engine


def square_logits(engine: Engine, images: np.ndarray, scale: tuple[float, float]) -> np.ndarray:
    """Logits of windows at their own size, whatever the network saw of them.

    Args:
        engine: A model, with its augmentation around it.
        images: (N, H, W, C) uint8, uint16, int16 or float32.
        scale: By which the network shall see them higher and wider than it otherwise would.

    Returns:
        (N, K, H, W) float32.
    """
    down, across = scale
    if down == across:
        return engine.logits(images, down)
    height, width = images.shape[1:3]
    shape = max(1, round(height * down)), max(1, round(width * across))
    logits = engine.logits(np.stack([_image(image, shape) for image in images]), 1.0)
    return np.stack([[_plane(scores, (height, width)) for scores in window] for window in logits])


def _image(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(H, W, C) at another size, band by band: OpenCV averages four at once at most."""
    return np.stack([_plane(np.ascontiguousarray(image[:, :, band]), shape) for band in range(image.shape[2])], 2)


def _plane(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) at another size, in its own type: an axis that grows is interpolated, one that shrinks is averaged by area.

    One axis after the other: OpenCV averages both or none.
    """
    for axis in (0, 1):
        if values.shape[axis] != shape[axis]:
            size = (values.shape[1], shape[0]) if axis == 0 else (shape[1], values.shape[0])
            how = cv2.INTER_AREA if shape[axis] < values.shape[axis] else cv2.INTER_LINEAR
            values = np.asarray(cv2.resize(values, size, interpolation=how))
    return values
