"""A class raster against another, strip by strip: confusion matrices by block of ground. It forms no score and holds no raster whole."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from landseg.core.classes import IGNORE_INDEX
from landseg.core.earth import resolution_m
from landseg.core.errors import LandsegError
from landseg.core.grid import Window
from landseg.data.label_rasters import CODES, RasterLabels
from landseg.data.raster import open_scene
from landseg.product.classmap import STRIP_PIXELS, open_classes
from landseg.product.components import NOTHING
from landseg.scoring.confusion import confusion_matrix
from landseg.scoring.objects import BLOCKS, MOST_BLOCKS
from landseg.scoring.sides import Source, named_classes


def classes_of(path: str) -> Source:
    """The classes that a raster names or has, without its objects; read strip by strip.

    Raises:
        LandsegError: It is no class raster.
    """
    with open_classes(path) as source:
        seen = np.zeros(NOTHING + 1, bool)
        for strip in source.strips():
            seen |= np.bincount(strip.reshape(-1), minlength=NOTHING + 1) > 0
        classes = named_classes(source.classes(np.flatnonzero(seen).astype(np.uint8)))
        return Source(path, True, np.zeros(0, object), np.zeros(0, np.int64), classes, source.crs)


def block_matrices(
    map_path: str, reference: str, of_map: Mapping[int, int], of_reference: Mapping[int, int], classes: int,
    block_m: float | None = None, rows: int | None = None,
) -> np.ndarray:  # fmt: skip
    """Count reference against map on the map's grid: for each of its pixels the reference's nearest.

    Pixels where either says nothing are left out.

    Args:
        map_path: The map.
        reference: A class raster of any grid and CRS.
        of_map: Value in the map → class 0..K-1.
        of_reference: Value in the reference → class 0..K-1.
        classes: K.
        block_m: Edge of the blocks in metres; None for an eighth of the map's longer side.
        rows: Read at a time; changes no result.

    Returns:
        (B, K, K) int64, rows = reference, columns = map.

    Raises:
        LandsegError: A raster is damaged, or there are too many classes or blocks.
    """
    if classes > IGNORE_INDEX:
        raise LandsegError(reference, f"{classes} classes together with the map's", f"{IGNORE_INDEX} at most", "score fewer: score.classes")
    table = np.full(CODES, IGNORE_INDEX, np.int64)
    table[list(of_reference)] = list(of_reference.values())
    lookup = np.full(NOTHING + 1, IGNORE_INDEX, np.uint8)
    lookup[list(of_map)] = list(of_map.values())
    with open_classes(map_path) as source, open_scene(reference, is_stored=True) as raster:
        labels = RasterLabels(raster, source.grid, table)
        edge = _edge(source.grid.shape, block_m, resolution_m(source.grid), map_path)
        down, across = (math.ceil(length / edge) for length in source.grid.shape)
        matrices = np.zeros((down, across, classes, classes), np.int64)
        row = 0
        for strip in source.strips(rows or max(1, min(edge, STRIP_PIXELS // source.grid.width))):
            pred = lookup[strip]
            label = labels.read(Window(row, 0, *strip.shape))
            label[pred == IGNORE_INDEX] = IGNORE_INDEX
            for top in range(row // edge, (row + len(strip) - 1) // edge + 1):
                part = slice(max(top * edge - row, 0), min((top + 1) * edge - row, len(strip)))
                for left in range(across):
                    there = slice(left * edge, (left + 1) * edge)
                    matrices[top, left] += confusion_matrix(label[part, there], pred[part, there], classes)
            row += len(strip)
    return matrices.reshape(-1, classes, classes)


def _edge(shape: tuple[int, int], block_m: float | None, metres: float | None, path: str) -> int:
    """Pixels along the edge of a block."""
    if block_m is None or metres is None:
        return math.ceil(max(shape) / BLOCKS)
    edge = max(1, round(block_m / metres))
    if math.ceil(shape[0] / edge) * math.ceil(shape[1] / edge) > MOST_BLOCKS:
        found = f"{block_m:g} m, which are more than {MOST_BLOCKS:,} blocks in {path}"
        raise LandsegError("score.block_m", found, "larger blocks", "raise it")
    return edge
