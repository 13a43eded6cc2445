"""Parcels as few bytes, for a page that draws them: rounded to parts of a picture's pixel, the largest first, as many as a bound allows.

It draws nothing. Rounding moves both sides of a shared border alike, so no gap opens.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import shapely

from landseg.product.map_frame import MapFrame
from landseg.product.parcels import Parcels

LEAST = 0.5
"""Pixels of the picture that a parcel must cover to be outlined in it: what is smaller is a dot. A pixel of the map's own always is."""

CONFIDENCE_STEPS, UNKNOWN = 200, 255
"""Confidences are counted in half per cents, as in a confidence raster, and what is said where none is known."""

LEVEL = 6
"""How hard zlib packs: at 9 it takes fourteen times as long for a tenth less."""


@dataclass(frozen=True)
class Shapes:
    """Outlines and attributes of the largest parcels, packed.

    Args:
        data: zlib's stream of columns, one after the other, little-endian: area_m2 and perimeter_m (float32, one a parcel), number of
            rings (uint32, one a parcel), number of vertices (uint32, one a ring, not closed), dx and dy (int16, one a vertex: steps from
            the vertex before, of the ring before too; the first from 0), class id and confidence (uint8, one a parcel).
        steps: In a pixel of the picture.
        parcels: How many.
        rings: Of these, shells before holes.
        vertices: Of these.
        left_out: How many parcels are too small to be among them.
        left_out_m2: The largest of those.
    """

    data: bytes
    steps: int
    parcels: int
    rings: int
    vertices: int
    left_out: int
    left_out_m2: float


def pack_shapes(parcels: Parcels, frame: MapFrame, most_bytes: int) -> Shapes:
    """Pack the largest parcels.

    Args:
        parcels: Of the frame's map.
        frame: The picture.
        most_bytes: Of the packed data; smaller parcels are left out until it is kept.
    """
    steps = 4 if frame.is_reduced else 8
    order = np.argsort(-parcels.area_m2, kind="stable")
    order = order[parcels.area_m2[order] >= LEAST * frame.pixel_m**2]
    rings, counts, places = _rounded(parcels.polygons[order], frame, steps)
    order, rings = order[rings > 0], rings[rings > 0]
    while True:
        kept, vertices = int(rings.sum()), int(counts[: int(rings.sum())].sum())
        data = _packed(parcels, order, rings, counts[:kept], places[:vertices])
        if len(data) <= most_bytes:
            break
        left = int(len(order) * most_bytes / len(data) * 0.95)
        order, rings = order[:left], rings[:left]
    is_shown = np.zeros(len(parcels.area_m2), bool)
    is_shown[order] = True
    missing = parcels.area_m2[~is_shown]
    return Shapes(data, steps, len(order), kept, vertices, len(missing), float(missing.max(initial=0.0)))


def _packed(parcels: Parcels, order: np.ndarray, rings: np.ndarray, counts: np.ndarray, places: np.ndarray) -> bytes:
    moves = np.diff(places, axis=0, prepend=np.zeros((1, 2), places.dtype))
    sure = np.full(len(order), np.nan) if parcels.confidence is None else parcels.confidence[order]
    confidence = np.where(np.isnan(sure), UNKNOWN, np.rint(np.nan_to_num(sure) * CONFIDENCE_STEPS))
    columns = [
        parcels.area_m2[order].astype("<f4"), parcels.perimeter_m[order].astype("<f4"), rings.astype("<u4"), counts.astype("<u4"),
        moves[:, 0].astype("<i2"), moves[:, 1].astype("<i2"), parcels.class_id[order], confidence.astype(np.uint8),
    ]  # fmt: skip
    return zlib.compress(b"".join(column.tobytes() for column in columns), LEVEL)


def _rounded(polygons: np.ndarray, frame: MapFrame, steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Polygons on the lattice of the picture.

    Returns:
        Rings of each polygon, 0 where nothing of its shell is left; vertices of each ring; and the vertices, (V, 2) int64.
    """
    if not len(polygons):
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 2), np.int64)
    _, coordinates, offsets = shapely.to_ragged_array(polygons)
    back = ~frame.transform
    x, y = (
        back.a * coordinates[:, 0] + back.b * coordinates[:, 1] + back.c,
        back.d * coordinates[:, 0] + back.e * coordinates[:, 1] + back.f,
    )
    places = np.rint(np.stack([x, y], 1) * steps).astype(np.int64)
    starts, shells = np.asarray(offsets[0], np.int64), np.asarray(offsets[1], np.int64)
    ring = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    is_open = np.ones(len(places), bool)
    is_open[starts[1:] - 1] = False  # the first again
    places, ring = places[is_open], ring[is_open]
    before, _ = _steps(places, ring)
    moves = (before != 0).any(1)
    places, ring = places[moves], ring[moves]
    before, after = _steps(places, ring)
    bends = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    places, ring = places[bends], ring[bends]
    counts = np.bincount(ring, minlength=len(starts) - 1)
    owner = np.repeat(np.arange(len(polygons)), np.diff(shells))
    is_left = (counts >= 3) & (counts[shells[:-1]] >= 3)[owner]
    return np.bincount(owner[is_left], minlength=len(polygons)), counts[is_left], places[is_left[ring]]


def _steps(places: np.ndarray, ring: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each vertex, the way to it from the one before in its ring, and from it to the one after."""
    index = np.arange(len(ring))
    heads = np.flatnonzero(np.diff(ring, prepend=-1))
    last = np.append(heads[1:], len(ring))[: len(heads)] - 1
    before, after = index - 1, index + 1
    before[heads], after[last] = last, heads
    return places - places[before], places[after] - places
