"""Annotated areas in pixel coordinates → a label raster. It reads no annotation file and knows no tool.

Vocabulary: a *shape* is one annotated area of one class: rings of points, or a mask. A *sheet* is what one document says of one image.
Points are x to the right and y down from the image's upper left corner, which is (0, 0): the first pixel's centre is (0.5, 0.5). A pixel
belongs to a shape when its centre lies inside.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import shapely

from landseg.data.documents import Faults, numbers
from landseg.data.masks import Mask, count_pixels, paste

MAX_POINTS = 100_000
"""Points of one ring. The time to fill a ring that crosses itself everywhere grows with its points times the image's rows."""

FAR = 1e6
"""Coordinates are held within this many pixels of the image; beyond it no tile is concerned and arithmetic overflows."""

MAX_NESTED = 500
"""Rings of one shape that are looked at for holes; beyond it all rings are parts."""

_PROBES = 8


class Shape(NamedTuple):
    """One area of one class.

    Args:
        name: The class.
        rings: Each ring's points, not closed: float32 x, y pairs as bytes, so that a million of them fit in memory. A ring inside another
            is a hole; rings side by side are parts.
        mask: Instead of rings.
        area: Pixels, where shapes are drawn by it (COCO).
    """

    name: str
    rings: tuple[bytes, ...] = ()
    mask: Mask | None = None
    area: float = 0.0


class Segments(NamedTuple):
    """A picture whose colours are segment ids (COCO panoptic): its file name and the class of each id."""

    file_name: str
    names: dict[int, str]


@dataclass(frozen=True, slots=True)
class Sheet:
    """What a document says of one image.

    Args:
        file_name: The image, as the document writes it.
        size: Height and width that it was annotated at, where the document says so.
        shapes: In the order of drawing.
        segments: Drawn before them.
        source: The document to read the shapes from again when they are drawn, instead of keeping them.
    """

    file_name: str
    size: tuple[int, int] | None
    shapes: tuple[Shape, ...] = ()
    segments: Segments | None = None
    source: Path | None = None


@dataclass(slots=True)
class Document:
    """One annotation file: its classes in their order, their colours ``#rrggbb``, its sheets and its faults."""

    path: Path
    names: list[str] = field(default_factory=list)
    colours: dict[str, str] = field(default_factory=dict)
    sheets: list[Sheet] = field(default_factory=list)
    faults: Faults = field(default_factory=Counter)


def ring(points: object, faults: Faults) -> bytes | None:
    """Check the points of one ring.

    Args:
        points: ``[x, y, x, y, …]`` or ``[[x, y], …]``: a JSON list or an array.
        faults: Counts the reason when the ring cannot be used.

    Returns:
        Its points as `Shape` holds them, or None.
    """
    array = numbers(points)
    if array is None or array.size % 2 or (array.ndim == 2 and array.shape[1] != 2):
        faults["outlines whose coordinates are no pairs of numbers"] += 1
        return None
    array = array.reshape(-1, 2)
    if not np.isfinite(array).all():
        faults["outlines with coordinates that are NaN or infinite"] += 1
        return None
    if len(array) > MAX_POINTS:
        faults[f"outlines of more than {MAX_POINTS:,} points"] += 1
        return None
    if len(array) > 3 and (array[0] == array[-1]).all():
        array = array[:-1]
    if len(array) < 3:
        faults["outlines of fewer than three points"] += 1
        return None
    array = np.clip(array, -FAR, FAR).astype(np.float32)
    from_first = array[1:].astype(np.float64) - array[0]
    far = from_first[np.abs(from_first).sum(axis=1).argmax()]
    if not (from_first[:, 0] * far[1] != from_first[:, 1] * far[0]).any():
        faults["outlines without an area: all points on one line"] += 1
        return None
    return bytes(array.tobytes())


def rectangle(x: float, y: float, width: float, height: float, degrees: float = 0.0, *, about_centre: bool = False) -> np.ndarray:
    """The four corners of a rectangle, turned clockwise (as seen) about its first corner or its centre: (4, 2)."""
    left, top = (-width / 2, -height / 2) if about_centre else (0.0, 0.0)
    right, bottom = left + width, top + height
    return _placed([[left, top], [right, top], [right, bottom], [left, bottom]], degrees, x - left, y - top)


def ellipse(x: float, y: float, radius_x: float, radius_y: float, degrees: float = 0.0) -> np.ndarray:
    """An ellipse about (x, y), turned clockwise (as seen), as a ring of 72 points: (72, 2)."""
    angles = [2 * math.pi * i / 72 for i in range(72)]
    return _placed([[radius_x * math.cos(angle), radius_y * math.sin(angle)] for angle in angles], degrees, x, y)


def _placed(points: Sequence[Sequence[float]], degrees: float, x: float, y: float) -> np.ndarray:
    """Points about the origin, turned and moved. What is not finite stays so: `ring` refuses it."""
    turn = math.radians(degrees) if math.isfinite(degrees) else math.nan
    cos, sin = math.cos(turn), math.sin(turn)
    # y points down, so that this turns clockwise on the screen. Not in NumPy, which warns of what is not finite.
    return np.array([[a * cos - b * sin + x, a * sin + b * cos + y] for a, b in points], np.float64)


def measure(shapes: Sequence[Shape], faults: Faults) -> np.ndarray:
    """The area of each shape, (N,), and (into `faults`) how many rings cross themselves: those are filled by the even-odd rule."""
    owners = [i for i, shape in enumerate(shapes) for _ in shape.rings]
    areas = np.array([0 if shape.mask is None else count_pixels(shape.mask) for shape in shapes], np.float64)
    if owners:
        points = [_points(data) for shape in shapes for data in shape.rings]
        places = np.repeat(np.arange(len(points)), [len(item) for item in points])
        polygons = shapely.polygons(shapely.linearrings(np.concatenate(points).astype(np.float64), indices=places))
        np.add.at(areas, owners, shapely.area(polygons))
        crossing = int((~shapely.is_valid(polygons)).sum())
        if crossing:
            faults["outlines that cross or touch themselves, filled by the even-odd rule"] += crossing
    return areas


def draw(shapes: Iterable[Shape], ids: Mapping[str, int], label: np.ndarray) -> None:
    """Draw shapes into a label, later ones over earlier ones. Callable from threads.

    Args:
        shapes: In the order of drawing.
        ids: The id of each class.
        label: (H, W) uint8, changed in place.

    Raises:
        UnreadableTile: A mask is larger than the label.
    """
    waiting: list[tuple[dict[str, Any], int]] = []
    for shape in shapes:
        if shape.mask is None:
            waiting.append((_geometry(shape.rings), ids[shape.name]))
        else:
            _burn(waiting, label)
            waiting = []
            paste(shape.mask, ids[shape.name], label)
    _burn(waiting, label)


def draw_segments(colours: np.ndarray, names: Mapping[int, str], ids: Mapping[str, int], label: np.ndarray) -> None:
    """Draw a picture (H, W, 3) uint8 of segment ids (red + 256 green + 65536 blue) into a label of its size; other ids change nothing."""
    wide = colours.astype(np.int32)
    wide = wide[:, :, 0] + 256 * wide[:, :, 1] + 65536 * wide[:, :, 2]
    known = np.array(sorted(names), np.int64)
    values = np.array([ids[names[segment]] for segment in known.tolist()], np.uint8)
    places = np.minimum(np.searchsorted(known, wide), len(known) - 1)
    np.copyto(label, values[places], where=known[places] == wide)


def _burn(geometries: list[tuple[dict[str, Any], int]], label: np.ndarray) -> None:
    if not geometries:
        return
    # Imported here: GDAL takes a third of a second to load.
    from rasterio.errors import NotGeoreferencedWarning
    from rasterio.features import rasterize

    # rasterio opens its canvas inside `catch_warnings`, which swaps the filters of all threads.
    if not any(entry[2] is NotGeoreferencedWarning for entry in warnings.filters):
        warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
    rasterize(geometries, out=label)


def _points(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.float32).reshape(-1, 2)


def _geometry(rings: Sequence[bytes]) -> dict[str, Any]:
    """GeoJSON of a shape's rings: a polygon for each part with its holes. GDAL fills each by the even-odd rule, valid or not."""
    if len(rings) == 1:
        return {"type": "Polygon", "coordinates": [_closed(rings[0])]}
    rings = list(dict.fromkeys(rings))
    around = _around(rings)
    parts = {i: [_closed(data)] for i, data in enumerate(rings) if len(around[i]) % 2 == 0}
    for i, data in enumerate(rings):
        if i in parts:
            continue
        # A hole is cut from the innermost part around it: the one that lies inside most others.
        part = max((j for j in around[i] if j in parts), key=lambda j: len(around[j]), default=None)
        if part is not None:
            parts[part].append(_closed(data))
    return {"type": "MultiPolygon", "coordinates": list(parts.values())}


def _around(rings: Sequence[bytes]) -> list[list[int]]:
    """For each ring, the rings around it, which it may touch.

    By eight of its corners and the middles of eight edges: an overlay of shapes could take minutes on a hostile ring.
    """
    around: list[list[int]] = [[] for _ in rings]
    if len(rings) > MAX_NESTED:
        return around
    points = [_points(data) for data in rings]
    low, high = np.array([item.min(axis=0) for item in points]), np.array([item.max(axis=0) for item in points])
    probes = [_probes(item) for item in points]
    for j, outer in enumerate(points):
        is_inner = ((low >= low[j]) & (high <= high[j])).all(axis=1) & ((low > low[j]) | (high < high[j])).any(axis=1)
        inner = np.flatnonzero(is_inner)
        if not len(inner):
            continue
        area = shapely.Polygon(outer)
        shapely.prepare(area)
        tested = np.concatenate([probes[i] for i in inner])
        ends = np.cumsum([len(probes[i]) for i in inner])[:-1]
        is_inside = np.split(shapely.contains_xy(area, tested[:, 0], tested[:, 1]), ends)
        is_outside = np.split(~shapely.intersects_xy(area, tested[:, 0], tested[:, 1]), ends)
        for i, within, without in zip(inner, is_inside, is_outside, strict=True):
            if within.any() and not without.any():
                around[i].append(j)
    return around


def _probes(points: np.ndarray) -> np.ndarray:
    places = np.linspace(0, len(points) - 1, min(len(points), _PROBES)).astype(int)
    corners, after = points[places].astype(np.float64), points[(places + 1) % len(points)]
    return np.concatenate([corners, (corners + after) / 2])


def _closed(data: bytes) -> list[list[float]]:
    points: list[list[float]] = _points(data).tolist()
    return [*points, points[0]]
