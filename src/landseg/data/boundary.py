"""Outlines of polygons → a class of their own, over the classes that `burn` draws, so that objects of one class that touch stay apart.

A pixel becomes boundary where an outline of a polygon passes within half the width of its centre, on either side alike: the middle of the
line is where the object ends, whatever lies beyond. Three rules:

- However narrow the width, a line is one pixel wide: without a gap across which two pixels of different polygons, or of a polygon and of
  labelled ground beside it, would share an edge.
- Features lie over one another as `burn` draws them: of outlines only what is seen counts. The edge of the scene is no outline.
- What is unlabelled stays so. Unlabelled polygons hide outlines and have none.

Lines or points with a width have outlines like polygons, on what lies beside them alone: they keep all their own pixels, for many are
hardly wider than a boundary.

Source: interior, boundary and background as the three classes of field maps: Kerner et al., Fields of The World, 2024 (arXiv:2409.16252).
"""

from __future__ import annotations

import numpy as np
import shapely

from landseg.core.classes import IGNORE_INDEX
from landseg.core.earth import pixel_frame_m
from landseg.core.grid import Grid, Window
from landseg.data.burn import Burner, draw

NAME = "boundary"
"""What the class is called."""

COLOURS = ("#d81b8c", "#1b1b1b", "#00e5ff")
"""Its colour on maps: the first that no other class has; classes of land have none of these by themselves."""

_OPEN, _KEPT = 0, 1
"""Whether a pixel may become boundary."""

_SLACK = 1.01
"""A centre on the very edge of an outline's width counts, whatever the rounding of coordinates."""


class OutlinedLabels:
    """Polygons and their outlines on one grid, ready to be drawn window by window.

    Args:
        burner: The features, on the grid of the tiles.
        width_m: Of an outline in true metres; less than a pixel is one pixel.
        boundary: The class id of outlines.

    Raises:
        LandsegError: The grid has no place on the globe.
    """

    def __init__(self, burner: Burner, width_m: float, boundary: int) -> None:
        self._burner, self._boundary = burner, boundary
        frame = pixel_frame_m(burner.grid)
        reach_m = _SLACK * max(width_m, pixel_m(burner.grid)) / 2
        is_unknown = burner.ids == IGNORE_INDEX
        self._kinds = np.where(is_unknown | burner.is_thin, _KEPT, _OPEN).astype(np.uint8)
        # Pixels that the circle of this radius may reach, whatever the directions of the grid's axes on the ground.
        self._reach = reach_m / float(np.linalg.svd(frame, compute_uv=False)[-1])
        bands = np.full(burner.features, shapely.Polygon(), object)
        bands[~is_unknown] = _bands(burner.shapes[~is_unknown], burner.grid, frame, reach_m, self._reach)
        self._bands = bands

    @property
    def grid(self) -> Grid:
        """The grid of the windows."""
        return self._burner.grid

    def read(self, window: Window) -> np.ndarray:
        """Class ids (H, W) uint8 of a window of the grid, inside of it."""
        chosen = self._burner.within(window, self._reach)
        kept = np.full((window.height, window.width), _KEPT if self._burner.background == IGNORE_INDEX else _OPEN, np.uint8)
        draw(self._burner.shapes[chosen], self._kinds[chosen], window, kept)
        # Each feature wipes out what it covers before its own outline is drawn.
        layers = np.stack([self._burner.shapes[chosen], self._bands[chosen]], 1).ravel()
        values = np.tile(np.array([0, 1], np.uint8), len(chosen))
        is_drawn = ~shapely.is_empty(layers)
        band = np.zeros_like(kept)
        draw(layers[is_drawn], values[is_drawn], window, band)
        label = self._burner.read(window)
        label[(band == 1) & (kept == _OPEN)] = self._boundary
        return label


def pixel_m(grid: Grid) -> float:
    """The longer side of a pixel in metres on the ground: a line so wide has no gap."""
    return float(np.hypot(*pixel_frame_m(grid)).max())


def _bands(shapes: np.ndarray, grid: Grid, frame: np.ndarray, reach_m: float, reach: float) -> np.ndarray:
    """What lies within `reach_m` of the outlines of each shape, holes included, in pixels; empty where no outline comes near the grid."""
    parts, owners = shapely.get_parts(shapes, return_index=True)
    parts, nested = shapely.get_parts(parts, return_index=True)  # of a multipolygon in a collection
    rings, of_part = shapely.get_rings(parts, return_index=True)
    lines = np.full(len(shapes), shapely.MultiLineString(), object)
    if len(rings):
        found = owners[nested][of_part]
        lines[np.unique(found)] = shapely.multilinestrings(rings, indices=np.unique(found, return_inverse=True)[1])
    near = shapely.clip_by_rect(lines, -reach, -reach, grid.width + reach, grid.height + reach)
    on_ground = shapely.transform(near, lambda points: points @ frame.T)
    return np.asarray(shapely.transform(shapely.buffer(on_ground, reach_m), lambda points: points @ np.linalg.inv(frame).T))
