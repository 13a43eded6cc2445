"""What one tile file looks like: class ids, a picture in few colours, or a photograph. It decides nothing: `sources` does, from many."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from landseg.data.colours import count_colours, nearest_colours
from landseg.data.tiles import UnreadableTile, decode_image, decode_label, read_bytes, read_header

MAX_CODES = 64
"""Distinct values in the labels of one heap; a photograph of 64 × 64 pixels has more."""

_PAINTED, _JPEG_OFF = 0.6, 12
"""Share of the pixels that have a class's colour in a label: the rest is unlabelled, or soft edges; and steps of a band that JPEG adds."""

_MOST = 1e9  # a float's nodata is larger


@dataclass(frozen=True)
class Look:
    """What one file looks like.

    Args:
        pixels: How many; 1 for a JPEG, which is not decoded for it.
        codes: Its values, when they may be class ids.
        few_colours: It is painted in few colours.
        is_lossy: It is a JPEG.
        is_painted: Most of it has the classes' colours.
        is_grey: It has one band.
    """

    pixels: int
    codes: frozenset[int] | None = None
    few_colours: bool = False
    is_lossy: bool = False
    is_painted: bool = False
    is_grey: bool = False


def look_at(path: Path, colours: np.ndarray) -> Look | None:
    """Look at one file.

    Args:
        path: Of the file.
        colours: (K, 3) uint8, the classes' colours; none where nobody gave them.

    Returns:
        None when it cannot be read.
    """
    try:
        data = read_bytes(path)
        if data[:2] == b"\xff\xd8":
            is_painted = len(colours) > 0 and _is_painted(decode_image(data), colours, _JPEG_OFF)
            return Look(1, is_lossy=True, is_painted=is_painted, is_grey=read_header(data).bands == 1)
        picture = decode_label(data)
    except UnreadableTile:
        return None
    pixels = picture.shape[0] * picture.shape[1]
    if picture.ndim == 3 and (picture.shape[2] not in (3, 4) or (picture[:, :, 1:3] != picture[:, :, :1]).any()):
        if picture.dtype != np.uint8 or picture.shape[2] not in (3, 4):
            return Look(pixels)
        few = len(count_colours(picture)) <= MAX_CODES
        return Look(pixels, few_colours=few, is_painted=len(colours) > 0 and _is_painted(picture, colours, 0))
    return Look(pixels, _codes(picture if picture.ndim == 2 else picture[:, :, 0]), is_grey=True)


def _codes(picture: np.ndarray) -> frozenset[int] | None:
    """The values of one band when they may be class ids: few whole numbers. What is no number, or a float's nodata, does not count."""
    values = np.flatnonzero(np.bincount(picture.ravel())) if picture.dtype in (np.uint8, np.uint16) else np.unique(picture)
    if values.dtype.kind == "f":
        values = values[np.isfinite(values) & (abs(values) < _MOST)]
        if (values != values.round()).any():
            return None
    return frozenset(map(int, values)) if len(values) <= MAX_CODES else None


def _is_painted(image: np.ndarray, colours: np.ndarray, within: int) -> bool:
    """Most pixels have the colour of a class."""
    if image.shape[2] not in (3, 4):
        return False
    found = count_colours(image)
    values = np.fromiter(found, np.uint32, len(found))
    near = nearest_colours(values, colours, within) >= 0
    counts = np.fromiter(found.values(), np.int64, len(found))
    return bool(counts[near].sum() >= _PAINTED * counts.sum())
