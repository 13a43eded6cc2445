"""An image as a picture for people, and under its class map. It predicts nothing.

Each parcel is tinted with its class's colour and outlined in it, a pixel on either side of a border; the ground stays legible.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

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

_STRIP = 1 << 20
"""Pixels drawn at a time: a picture of a large tile shall not take many times its memory."""

_LOOKED_AT = 1 << 20
"""Pixels of an image that tell its percentiles."""

_JPEG_SIDE = 65_500
"""Longest side of a JPEG. Source: ITU-T T.81 counts it in 16 bits; libjpeg keeps a few to itself."""

Scaling = Sequence[tuple[float, float]]
"""(low, high) a band: what is shown black and what white."""


def overlay_jpeg(
    image: np.ndarray, ids: np.ndarray, bands: Sequence[str], classes: Sequence[LandClass], scaling: Scaling | None = None
) -> bytes:
    """Draw class ids over an image.

    Args:
        image: (H, W, C) in its own dtype, as the model sees it.
        ids: (H, W) uint8 class ids.
        bands: Names of the image's bands; red, green and blue are found by name.
        classes: Ids and colours.
        scaling: (low, high) a band, as `rgb_picture` takes it.

    Returns:
        A JPEG file without chroma subsampling, which would smear the outlines; of more than 65,500 pixels a side, every second pixel, or
        every third and so on.
    """
    step = math.ceil(max(ids.shape) / _JPEG_SIDE)
    image, ids = image[::step, ::step], ids[::step, ::step]
    picture = rgb_picture(image, bands, scaling)
    border = is_border(ids)
    drawn = np.empty(picture.shape, np.uint8)
    for rows in _strips(ids.shape):
        ground = picture[rows].astype(np.float32)
        grey = ground @ np.asarray([0.299, 0.587, 0.114], np.float32)  # Source: ITU-R BT.601 luma
        ground += _GREYED * (grey[:, :, None] - ground)
        share = np.where(border[rows], np.float32(_BORDER), np.float32(_TINT))[:, :, None]
        ground += share * (paint(ids[rows], classes) - ground)
        drawn[rows] = (ground + 0.5).astype(np.uint8)[:, :, ::-1]
    options = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    return bytes(cv2.imencode(".jpg", drawn, options)[1])


def rgb_picture(image: np.ndarray, bands: Sequence[str], scaling: Scaling | None = None) -> np.ndarray:
    """Any image as an RGB picture (H, W, 3) uint8.

    Red, green and blue by name where the image has them, else its first three bands, else the first as grey. With `scaling`, each band is
    stretched from its low to its high, so that tiles compare. Without, eight-bit colours are shown as they are; anything else is stretched
    band by band from its 2nd to its 98th percentile. A NaN is shown black.

    Args:
        image: (H, W, C) of any dtype.
        bands: Names of its C bands.
        scaling: (low, high) of its C bands, where the data set or the model states them.
    """
    named = [name.lower() for name in bands]
    is_colour = {"red", "green", "blue"} <= set(named)
    chosen = [0, 1, 2] if image.shape[2] >= 3 else [0, 0, 0]
    if is_colour:
        chosen = [named.index(name) for name in ("red", "green", "blue")]
    if scaling is None and image.dtype == np.uint8 and (is_colour or image.shape[2] == 1):
        return image[:, :, chosen]
    picture = np.empty((*image.shape[:2], 3), np.uint8)
    for place, band in enumerate(chosen):
        low, high = scaling[band] if scaling is not None else _usual(image[:, :, band])
        if not low < high:  # one value throughout, or none
            picture[:, :, place] = 128 if low == high else 0
            continue
        for rows in _strips(picture.shape):
            values = np.nan_to_num(image[rows, :, band].astype(np.float32), nan=low, posinf=high, neginf=low)
            picture[rows, :, place] = np.clip((values - low) / max(high - low, 1e-12) * 255, 0, 255)
    return picture


def _usual(band: np.ndarray) -> tuple[float, float]:
    """The 2nd and 98th percentile of (H, W) values; NaN where none is finite."""
    step = max(1, math.isqrt(band.size // _LOOKED_AT))
    values = band[::step, ::step].astype(np.float32)
    usable = values[np.isfinite(values)]
    if not usable.size:
        return math.nan, math.nan
    low, high = np.percentile(usable, (2, 98))
    return float(low), float(high)


def _strips(shape: tuple[int, ...]) -> Iterator[slice]:
    """Rows of (H, W, …), `_STRIP` pixels at a time."""
    step = max(1, _STRIP // max(1, shape[1]))
    return (slice(row, row + step) for row in range(0, shape[0], step))


def is_border(ids: np.ndarray) -> np.ndarray:
    """True where a pixel's class differs from that of a neighbour above, below, left or right."""
    border = np.zeros(ids.shape, bool)
    across, down = ids[:, 1:] != ids[:, :-1], ids[1:] != ids[:-1]
    border[:, 1:] |= across
    border[:, :-1] |= across
    border[1:] |= down
    border[:-1] |= down
    return border
