"""Where an image shows no ground: nodata and transparency, told by their traces. It knows no labels and reads no file.

Vocabulary: *nodata* is ground without an image: large areas of one saturated value, of NaN or of transparency.
"""

from __future__ import annotations

import cv2
import numpy as np

LEAST_NODATA = 0.03
"""Share of a tile from which on a flat saturated area counts as nodata: smaller ones are roofs and shadows."""

_TWO_VALUES = 0.995  # of an alpha band; the rest is JPEG's
_NEAR, _FAR = np.ones((13, 13), np.uint8), np.ones((25, 25), np.uint8)  # 6 to 12 pixels outside: beyond what JPEG smears
_SHARP_STEP, _SHARP_SHARE = 12, 0.85  # of 255, and of the ring. Real dark water and bright sand: 0.01 to 0.8 of the ring


def nodata_areas(image: np.ndarray, alpha: np.ndarray | None, histograms: np.ndarray | None) -> dict[str, np.ndarray]:
    """Where an image shows no ground.

    Args:
        image: (H, W, C).
        alpha: (H, W), 0 where transparent; None where everything is opaque.
        histograms: `copies.band_histograms` of 8-bit images.

    Returns:
        Kind (``white``, ``black``, ``fill``, ``NaN``, ``transparent``) → (H, W) bool; kinds that do not occur are absent. A saturated area
        counts when it is flat, connected and large; NaN and transparency count wherever they are.
    """
    areas: dict[str, np.ndarray] = {}
    least = LEAST_NODATA * image.shape[0] * image.shape[1]
    kinds: dict[str, float] = {"black": 0}
    if image.dtype.kind in "iu":
        kinds["white"] = int(np.iinfo(image.dtype).max)
    if image.dtype.kind in "if":
        kinds |= {"fill": -9999, "lowest": int(np.iinfo(image.dtype).min) if image.dtype.kind == "i" else float(np.finfo(image.dtype).min)}
    for kind, value in kinds.items():
        if histograms is not None and histograms[:, int(value)].min() < least:
            continue
        area = _bare((image == np.asarray(value).astype(image.dtype)).all(2), image, value, least)
        if area is not None:
            areas["fill" if kind == "lowest" else kind] = area
    if image.dtype.kind == "f":
        bad = ~np.isfinite(image).all(2)
        if bad.any():
            areas["NaN"] = bad
    if alpha is not None and (alpha == 0).any():
        areas["transparent"] = alpha == 0
    return areas


def has_alpha(image: np.ndarray) -> bool:
    """Whether the last band of (H, W, C) is no measurement: 0 and its highest value alone, as transparency is written into a TIFF."""
    if image.shape[2] not in (2, 4) or image.dtype.kind != "u":
        return False
    last = image[:, :, -1]
    high = last.max()
    return bool(high > 0 and np.count_nonzero((last == 0) | (last == high)) >= _TWO_VALUES * last.size)


def _bare(area: np.ndarray, image: np.ndarray, value: float, least: float) -> np.ndarray | None:
    """The parts of a saturated area that are nodata: large, solid, reaching the tile's edge, and ending sharply. None where there are none.

    Dark water and bright sand saturate too, but fade into what lies around them.
    """
    if np.count_nonzero(area) < least:
        return None
    solid = cv2.morphologyEx(area.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    count, parts, stats, _ = cv2.connectedComponentsWithStats(solid, connectivity=4)
    result = np.zeros(area.shape, bool)
    edge = np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])
    for part in range(1, count):
        if stats[part, cv2.CC_STAT_AREA] < least or part not in edge:
            continue
        inside = (parts == part).astype(np.uint8)
        ring = cv2.dilate(inside, _FAR).astype(bool) & ~cv2.dilate(inside, _NEAR).astype(bool) & ~area
        apart = np.abs(image[ring].astype(np.float64) - value)
        limit = _SHARP_STEP * (np.iinfo(image.dtype).max / 255 if image.dtype.kind == "u" else 0)
        if not len(apart) or np.count_nonzero((apart > limit).any(1)) >= _SHARP_SHARE * len(apart):
            result |= parts == part
    return result if result.any() else None
