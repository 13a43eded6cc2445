"""A grid: the shape of a raster, its place on earth, and every window cut from it. It reads and writes no files.

Vocabulary: a *window* is a rectangle of pixels (row, col, height, width); *stride* is the distance between the
corners of neighbouring windows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from affine import Affine
from rasterio.crs import CRS

from landseg.core.errors import LandsegError


@dataclass(frozen=True)
class Window:
    """A rectangle of a grid in pixels; `row` and `col` are its upper left corner."""

    row: int
    col: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """The window as two slices of an array (H, W)."""
        return slice(self.row, self.row + self.height), slice(self.col, self.col + self.width)


@dataclass(frozen=True)
class Grid:
    """Shape (pixels), transform (pixel → CRS units) and CRS of a raster; `crs` None when it has no place on earth."""

    height: int
    width: int
    transform: Affine = field(default_factory=Affine.identity)
    crs: CRS | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    @property
    def is_georeferenced(self) -> bool:
        """True when the raster lies somewhere on earth."""
        return self.crs is not None and self.transform != Affine.identity()

    def crop(self, window: Window) -> Grid:
        """The grid of a window of this grid."""
        return Grid(window.height, window.width, self.transform @ Affine.translation(window.col, window.row), self.crs)

    def windows(self, size: int, stride: int | None = None) -> Iterator[Window]:
        """Windows of `size` × `size` that together cover every pixel and stay inside, row by row.

        The last window of a row or column is moved back to end at the border; a grid smaller than `size` gives windows cut to it.

        Args:
            size: Edge length in pixels.
            stride: Distance between windows in pixels, 1..size; `size` (no overlap) when None.

        Raises:
            LandsegError: `size` or `stride` out of range.
        """
        step = size if stride is None else stride
        if size < 1 or not 1 <= step <= size:
            raise LandsegError("window", f"size {size}, stride {step}", "1 ≤ stride ≤ size", "choose a smaller overlap")
        height, width = min(size, self.height), min(size, self.width)
        for row in _starts(self.height, size, step):
            for col in _starts(self.width, size, step):
                yield Window(row, col, height, width)


def _starts(length: int, size: int, step: int) -> list[int]:
    if length <= size:
        return [0]
    return [*range(0, length - size, step), length - size]
