"""Outlines of polygons → a class of their own, over the classes that `burn` draws, so that objects of one class that touch stay apart.

A pixel becomes boundary where an outline of a polygon passes within half the width of its centre, on either side alike: the middle of the
line is where the object ends, whatever lies beyond. Three rules:

- However narrow the width, a line is one pixel wide: without a gap across which two pixels of different polygons, or of a polygon and of
  labelled ground beside it, would share an edge.
- Features lie over one another as `burn` draws them: where one is seen, outlines of those below it do not count. The edge of the scene is
  no outline; that of a polygon just beyond it is one.
- What is unlabelled stays so. Unlabelled polygons have no outlines, and hide others where they are seen themselves: beside them, pixels
  within half the width of a hidden outline are boundary, for the object does end there.

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

_WHOLE, _RUN = 1000, 32
"""Rings of more edges are widened in runs of so many, those near a window alone: a tile is not to take the time of a coastline. Runs are
cut where the ring says, not where the window lies, for GEOS may round bends otherwise (by 1e-5 of the width) where a line begins elsewhere;
they are short, for an open line with many bends takes it long."""

_SLACK = 1.01
"""A centre on the very edge of an outline's width counts, whatever the rounding of coordinates."""


class OutlinedLabels:
    """Polygons and their outlines on one grid, ready to be drawn window by window.

    Nothing is kept but the features: what is near a window is widened when the window is read.

    Args:
        burner: The features, on the grid of the tiles; with those of `reach_px` beyond it, whose outlines reach into it.
        width_m: Of an outline in true metres; less than a pixel is one pixel.
        boundary: The class id of outlines.

    Raises:
        LandsegError: The grid has no place on the globe.
    """

    def __init__(self, burner: Burner, width_m: float, boundary: int) -> None:
        self._burner, self._boundary = burner, boundary
        self._frame = pixel_frame_m(burner.grid)
        self._reach_m = _reach_m(burner.grid, width_m)
        self._reach = reach_px(burner.grid, width_m)

    @property
    def grid(self) -> Grid:
        """The grid of the windows."""
        return self._burner.grid

    def read(self, window: Window) -> np.ndarray:
        """Class ids (H, W) uint8 of a window of the grid, inside of it."""
        burner = self._burner
        chosen = burner.within(window, self._reach)
        # Each feature lies over the outlines of those before it, so the last outline near a pixel tells whether one counts.
        seen = np.full((window.height, window.width), -1, np.int32)
        draw(burner.shapes[chosen], np.arange(len(chosen)), window, seen)
        outlined = np.full_like(seen, -2)
        draw(*self._bands(chosen, window), window, outlined)
        label = np.append(burner.ids[chosen], burner.background).astype(np.uint8)[seen]
        is_kept = np.append(burner.is_thin[chosen], False)[seen] | (label == IGNORE_INDEX)
        label[(outlined >= seen) & ~is_kept] = self._boundary
        return label

    def _bands(self, chosen: np.ndarray, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """What lies within reach of the outlines that come near a window, in pixels; the place in `chosen` that each is of, ascending."""
        places = np.flatnonzero(self._burner.ids[chosen] != IGNORE_INDEX)
        lines, owners = _rings(self._burner.shapes[chosen[places]])
        near = _near(lines, window, self._reach)
        lines, of_ring = _runs(lines[near])
        owners, near = owners[near][of_ring], _near(lines, window, self._reach)
        on_ground = shapely.transform(lines[near], lambda points: points @ self._frame.T)
        bands = shapely.transform(shapely.buffer(on_ground, self._reach_m), lambda points: points @ np.linalg.inv(self._frame).T)
        return np.asarray(bands), places[owners[near]]


def pixel_m(grid: Grid) -> float:
    """The longer side of a pixel in metres on the ground: a line so wide has no gap."""
    return float(np.hypot(*pixel_frame_m(grid)).max())


def reach_px(grid: Grid, width_m: float) -> float:
    """How far beside an outline pixels may be boundary, in pixels, whatever the directions of the grid's axes on the ground.

    Raises:
        LandsegError: The grid has no place on the globe.
    """
    return _reach_m(grid, width_m) / float(np.linalg.svd(pixel_frame_m(grid), compute_uv=False)[-1])


def _reach_m(grid: Grid, width_m: float) -> float:
    return _SLACK * max(width_m, pixel_m(grid)) / 2


def _rings(shapes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rings of shapes, holes included, and the place of the shape that each is of, ascending."""
    parts, owners = shapely.get_parts(shapes, return_index=True)
    parts, nested = shapely.get_parts(parts, return_index=True)  # of a multipolygon in a collection
    rings, of_part = shapely.get_rings(parts, return_index=True)
    return rings, owners[nested][of_part]


def _runs(rings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rings as lines, those of many edges cut into runs; and the place of the ring that each is of, ascending."""
    points = shapely.get_num_coordinates(rings)
    edges = points - 1
    step = np.where(edges > _WHOLE, _RUN, edges)
    runs = -(-edges // step)
    of_ring = np.repeat(np.arange(len(rings)), runs)
    begin = step[of_ring] * _nth(runs)
    length = np.minimum(step[of_ring], edges[of_ring] - begin) + 1  # two runs share the point between them
    begin += (np.cumsum(points) - points)[of_ring]
    of_run = np.repeat(np.arange(len(of_ring)), length)
    return shapely.linestrings(shapely.get_coordinates(rings)[begin[of_run] + _nth(length)], indices=of_run), of_ring


def _nth(counts: np.ndarray) -> np.ndarray:
    """0, 1, … for each of some counts, one after the other."""
    return np.asarray(np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts))


def _near(shapes: np.ndarray, window: Window, reach: float) -> np.ndarray:
    """(N,) bool: whose bounds come within `reach` pixels of a window."""
    left, top, right, bottom = shapely.bounds(shapes).T
    is_beside = (right < window.col - reach) | (left > window.col + window.width + reach)
    is_beside |= (bottom < window.row - reach) | (top > window.row + window.height + reach)
    return np.asarray(~is_beside)
