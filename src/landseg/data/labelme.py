"""LabelMe JSON (a file a picture) → a sheet. It opens no image.

Drawn in the file's order, as LabelMe's own export does: what was drawn later lies on top. Lines and points have no area. ``__ignore__`` is
LabelMe's name for what neither trains nor scores, ``_background_`` its name for the first class.

Source: labelme, label_file.py and utils/shape.py; ``rotation`` is X-AnyLabeling's turned rectangle.
"""

from __future__ import annotations

import base64
import binascii
import math
from pathlib import Path
from typing import Any

import numpy as np

from landseg.core.errors import LandsegError
from landseg.data.documents import Faults, name_of, numbers, parse_json, read_text, size_of
from landseg.data.masks import Mask, runs
from landseg.data.shapes import Document, Shape, Sheet, ellipse, measure, ring
from landseg.data.tiles import UnreadableTile, decode_codes, read_header

MARKS = ('"shapes"', '"imagePath"')
"""Texts that stand in each such file."""

IGNORE = "__ignore__"
BACKGROUND = "_background_"

MAX_MASK_PIXELS = 1 << 26
"""Of a mask inside the JSON, a PNG: its size may be a lie."""


def is_labelme(document: Any) -> bool:
    """True for a LabelMe file."""
    return isinstance(document, dict) and isinstance(document.get("shapes"), list) and "imagePath" in document


def read_labelme(document: dict[str, Any], path: Path) -> Document:
    """Read a parsed document for which `is_labelme` holds. Its shapes are counted, not kept: `read_shapes` reads them to draw them."""
    result = Document(path)
    shapes = _shapes(document, result.faults)
    measure(shapes, result.faults)
    result.names = sorted({shape.name for shape in shapes})
    file_name = name_of(document["imagePath"]) or path.stem
    result.sheets = [Sheet(file_name, size_of(document.get("imageHeight"), document.get("imageWidth")), source=path)]
    return result


def read_shapes(path: Path) -> list[Shape]:
    """The shapes of a file, in the order of drawing.

    Raises:
        UnreadableTile: The file is not what it was.
    """
    try:
        document = parse_json(read_text(path), path)
    except LandsegError as error:
        raise UnreadableTile(error.found) from error
    if not is_labelme(document):
        raise UnreadableTile(f"{path.name} is no LabelMe file any more")
    return _shapes(document, Faults())


def _shapes(document: dict[str, Any], faults: Faults) -> list[Shape]:
    shapes: list[Shape] = []
    for entry in document["shapes"]:
        name = name_of(entry.get("label")) if isinstance(entry, dict) else ""
        if not name:
            faults["shapes without a label"] += 1
            continue
        kind = entry.get("shape_type") or "polygon"
        points = numbers(entry.get("points"))
        if kind in ("point", "points", "line", "linestrip"):
            faults["points and lines: they have no area"] += 1
        elif kind == "mask":
            mask = _mask(entry.get("mask"), points, faults)
            if mask is not None:
                shapes.append(Shape(name, mask=mask))
        elif kind in ("polygon", "rotation", "rectangle", "circle"):
            data = ring(_outline(kind, points), faults)
            if data is not None:
                shapes.append(Shape(name, (data,)))
        else:
            faults[f"shapes of the kind {name_of(kind)[:20] or 'unknown'}"] += 1
    return shapes


def _outline(kind: str, points: np.ndarray | None) -> np.ndarray | None:
    if kind in ("polygon", "rotation") or points is None or points.shape != (2, 2):
        return points
    (x, y), (far_x, far_y) = points.tolist()
    if kind == "circle":
        radius = math.hypot(far_x - x, far_y - y)
        return ellipse(x, y, radius, radius)
    return np.array([[x, y], [far_x, y], [far_x, far_y], [x, far_y]])


def _mask(picture: object, points: np.ndarray | None, faults: Faults) -> Mask | None:
    """A mask shape: a PNG in base 64 whose upper left pixel is the first point."""
    try:
        if not isinstance(picture, str) or points is None or points.ndim != 2 or points.shape[1] != 2:
            raise UnreadableTile("no picture or no corner")
        col, row = points[0].tolist()
        if not (0 <= col < 1e6 and 0 <= row < 1e6):
            raise UnreadableTile("no corner")
        data = base64.b64decode(picture)
        header = read_header(data)
        if header.height * header.width > MAX_MASK_PIXELS:
            raise UnreadableTile("too large")
        pixels = decode_codes(data).ravel() != 0
    except (UnreadableTile, binascii.Error, ValueError):
        faults["masks that do not decode"] += 1
        return None
    starts = np.flatnonzero(np.diff(pixels, prepend=False))
    counts = np.diff(starts, prepend=0)
    counts = np.append(counts, len(pixels) - counts.sum())
    return runs(counts.astype(np.float64), (header.height, header.width), faults, corner=(round(row), round(col)))
