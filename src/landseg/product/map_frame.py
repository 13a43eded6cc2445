"""The picture that a page shows of a map: its size, where its pixels lie on the map, and what they take on the ground. It draws nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from affine import Affine

from landseg.core.earth import pixel_frame_m
from landseg.core.grid import Grid

MOST = 3072
"""Longest side of the picture: two screens wide, 38 MB where a browser has it in memory. Larger maps are reduced to it."""


@dataclass(frozen=True)
class MapFrame:
    """A picture of a map that lies as the raster does, with pixels as square as the ground they show.

    Args:
        grid: Of the map.
        height: Rows of the picture.
        width: Columns of the picture.
        pixel_m: Metres on the ground along a pixel, in the middle of the map.
        north: Direction to the north in the picture (to the right, downwards), of length 1.
    """

    grid: Grid
    height: int
    width: int
    pixel_m: float
    north: tuple[float, float]

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    @property
    def is_reduced(self) -> bool:
        """True where the picture has fewer pixels than the map."""
        return self.height < self.grid.height or self.width < self.grid.width

    @property
    def transform(self) -> Affine:
        """Pixels of the picture → units of the CRS."""
        return self.grid.transform @ Affine.scale(self.grid.width / self.width, self.grid.height / self.height)


def frame_of(grid: Grid) -> MapFrame:
    """The picture of a map; of small maps every pixel, of others as many as `MOST` allows.

    Raises:
        LandsegError: The grid has no place on the globe.
    """
    frame = pixel_frame_m(grid)
    wide, high = (math.hypot(*frame[:, i]) for i in (0, 1))
    pixel_m = max(min(wide, high), wide * grid.width / MOST, high * grid.height / MOST)
    width, height = (max(1, min(MOST, round(length / pixel_m))) for length in (wide * grid.width, high * grid.height))
    right, down = np.linalg.solve(frame * [grid.width / width, grid.height / height], np.array([0.0, 1.0]))
    long = math.hypot(right, down)
    return MapFrame(grid, height, width, pixel_m, (float(right / long), float(down / long)))
