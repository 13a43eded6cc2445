"""A tile under its class map, as a picture for people. It predicts nothing.

Each parcel is tinted with its class's colour and outlined in it, a pixel on either side of a border; the ground stays legible.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from landseg.core.classes import LandClass, paint

_TINT = 0.36
"""Share of the class's colour inside a parcel. Chosen by eye: roofs and furrows can still be told apart."""

_BORDER = 0.92
"""Share of the class's colour on its outline."""

_GREYED = 0.45
"""How much of the image's own colour is taken away, so that it does not argue with the classes'."""

_QUALITY = 92


def overlay_jpeg(image: np.ndarray, ids: np.ndarray, bands: Sequence[str], classes: Sequence[LandClass]) -> bytes:
    """Draw class ids over an image.

    Args:
        image: (H, W, C) in its own dtype, as the model sees it.
        ids: (H, W) uint8 class ids.
        bands: Names of the image's bands; red, green and blue are found by name.
        classes: Ids and colours.

    Returns:
        A JPEG file without chroma subsampling, which would smear the outlines.
    """
    ground = rgb_picture(image, bands).astype(np.float32)
    grey = ground @ np.asarray([0.299, 0.587, 0.114], np.float32)  # Source: ITU-R BT.601 luma
    ground += _GREYED * (grey[:, :, None] - ground)
    share = np.where(_is_border(ids), np.float32(_BORDER), np.float32(_TINT))[:, :, None]
    drawn = ground + share * (paint(ids, classes) - ground)
    picture = np.ascontiguousarray((drawn + 0.5).astype(np.uint8)[:, :, ::-1])
    options = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    return bytes(cv2.imencode(".jpg", picture, options)[1])


def rgb_picture(image: np.ndarray, bands: Sequence[str]) -> np.ndarray:
    """Any image as an RGB picture (H, W, 3) uint8.

    Red, green and blue by name where the image has them, else its first three bands, else the first as grey. Eight-bit colours are shown as
    they are; anything else is stretched band by band from its 2nd to its 98th percentile.
    """
    named = [name.lower() for name in bands]
    is_colour = {"red", "green", "blue"} <= set(named)
    chosen = [0, 1, 2] if image.shape[2] >= 3 else [0, 0, 0]
    if is_colour:
        chosen = [named.index(name) for name in ("red", "green", "blue")]
    picture: np.ndarray = image[:, :, chosen]
    if picture.dtype == np.uint8 and (is_colour or image.shape[2] == 1):
        return picture
    stretched = np.zeros(picture.shape, np.uint8)
    for band in range(3):
        values = picture[:, :, band].astype(np.float32)
        usable = values[np.isfinite(values)]
        if not usable.size:
            continue
        low, high = np.percentile(usable, (2, 98))
        scaled = (np.nan_to_num(values, nan=low, posinf=high, neginf=low) - low) / max(high - low, 1e-12) * 255
        stretched[:, :, band] = np.clip(scaled, 0, 255) if high > low else 128
    return stretched


def _is_border(ids: np.ndarray) -> np.ndarray:
    """True where a pixel's class differs from that of a neighbour above, below, left or right."""
    border = np.zeros(ids.shape, bool)
    across, down = ids[:, 1:] != ids[:, :-1], ids[1:] != ids[:-1]
    border[:, 1:] |= across
    border[:, :-1] |= across
    border[1:] |= down
    border[:-1] |= down
    return border
