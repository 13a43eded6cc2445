"""Where rasters and layers lie: their outlines in one another's CRS, whether these meet, and how both are said. It reads no files."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyproj
import shapely
from pyproj.exceptions import ProjError
from rasterio.crs import CRS
from shapely import affinity

from landseg.core.errors import LandsegError
from landseg.core.grid import Grid

_DEGREES = CRS.from_epsg(4326)

_TURN = 360.0

_EDGE = 32
"""Pieces that each edge of an outline is cut into before it goes to another CRS, where straight lines are bent."""


@dataclass(frozen=True)
class Ground:
    """A place on earth, or on a plane of its own where it has no CRS.

    Args:
        what: The file, for messages.
        outline: In units of the CRS.
        crs: None where the file states none.
    """

    what: str
    outline: shapely.Polygon
    crs: CRS | None

    def within(self, crs: CRS | None) -> shapely.Polygon:
        """The outline in another CRS; empty where it has no place there."""
        if self.crs is None or crs is None or same_crs(self.crs, crs):
            return self.outline
        bent = shapely.segmentize(self.outline, max(self.outline.length / 4 / _EDGE, 1e-9))
        moved: shapely.Polygon = move(bent, self.crs, crs)
        if not np.isfinite(moved.bounds).all():
            return shapely.Polygon()
        if crs.is_geographic and _width(moved) > _TURN / 2:
            east = shapely.transform(moved, lambda points: points + _TURN * (points < 0) * (1, 0))
            moved = east if _width(east) < _TURN / 2 else moved  # it crosses 180°
        return moved

    def shared(self, other: Ground) -> float:
        """Share of this ground that the other one covers too, 0..1; in the CRS of the larger one, for the globe has no place in UTM."""
        mine, theirs = self._beside(other)
        return min(1.0, sum(shapely.intersection(mine, place).area for place in theirs) / mine.area) if mine.area else 0.0

    def meets(self, other: Ground) -> bool:
        """Whether the two have a place in common, be it a point."""
        mine, theirs = self._beside(other)
        return any(mine.intersects(place) for place in theirs)

    def _beside(self, other: Ground) -> tuple[Any, list[Any]]:
        """Both outlines in one CRS, the other one also a turn further east and west where that counts in degrees."""
        if self.crs is None or other.crs is None or same_crs(self.crs, other.crs) or self._span() > other._span():
            crs, mine, theirs = self.crs, self.outline, other.within(self.crs)
        else:
            crs, mine, theirs = other.crs, self.within(other.crs), other.outline
        shifts = (0.0, _TURN, -_TURN) if crs is not None and crs.is_geographic else (0.0,)
        return shapely.make_valid(mine), [shapely.make_valid(affinity.translate(theirs, shift)) for shift in shifts]

    def _span(self) -> float:
        """The longer side in degrees; 360 where it cannot be told."""
        outline = self.within(_DEGREES)
        left, bottom, right, top = outline.bounds if not outline.is_empty else (0.0, 0.0, _TURN, 0.0)
        return float(max(right - left, top - bottom))

    def extent(self, crs: CRS | None = None) -> str:
        """The bounds for a message, in `crs` or its own."""
        bounds = self.within(crs).bounds if crs is not None else self.outline.bounds
        if not np.isfinite(bounds).all():
            return "no place there"
        digits = 5 if max(abs(value) for value in bounds) <= 360 else 0
        left, bottom, right, top = (f"{value:.{digits}f}" for value in bounds)
        return f"x {left}..{right}, y {bottom}..{top}"


def ground_of(what: str, grid: Grid) -> Ground:
    """The outline of a raster, rotated ones included."""
    corners = [(0, 0), (grid.width, 0), (grid.width, grid.height), (0, grid.height)]
    return Ground(what, shapely.Polygon([grid.transform @ corner for corner in corners]), grid.crs)


def require_common(image: Ground, label: Ground) -> None:
    """Refuse an image and a label that share no ground, or of which one has no place.

    Raises:
        LandsegError: One of them has no CRS, or their outlines do not meet.
    """
    for one, other in ((image, label), (label, image)):
        if one.crs is None and other.crs is not None:
            raise LandsegError(
                one.what, f"it has no CRS, while {other.what} has {other.crs.to_string()[:60]}", "a place on earth on both sides",
                "assign it: gdal_edit.py -a_srs EPSG:… for a raster, ogr2ogr -a_srs EPSG:… for a layer",
            )  # fmt: skip
    if image.shared(label) > 0:
        return
    where = "their own units" if image.crs is None else image.crs.to_string()[:60]
    raise LandsegError(
        label.what, f"it shares no ground with {image.what} (labels {label.extent(image.crs)}; image {image.extent()}; in {where})",
        "labels of the same place", "check which files belong together, and that both state their true CRS",
    )  # fmt: skip


def same_crs(one: CRS, other: CRS) -> bool:
    """Whether two CRS place coordinates alike, the order of axes aside, which no raster keeps."""
    return one == other or _same(one.to_wkt(), other.to_wkt())


def move(geometries: Any, source: CRS, target: CRS) -> Any:
    """A shapely geometry, or an array of them, from one CRS in another; coordinates that have no place there become infinite.

    Raises:
        LandsegError: There is no way from one to the other.
    """
    return shapely.transform(geometries, lambda points: np.stack(move_points(points[:, 0], points[:, 1], source, target), 1))


def move_points(x: np.ndarray, y: np.ndarray, source: CRS, target: CRS) -> tuple[np.ndarray, np.ndarray]:
    """The same for coordinates (N,)."""
    moved_x, moved_y = _transformer(source.to_wkt(), target.to_wkt()).transform(x, y)
    return moved_x, moved_y


def _width(outline: Any) -> float:
    return float(outline.bounds[2] - outline.bounds[0])


@lru_cache(maxsize=64)
def _same(one: str, other: str) -> bool:
    try:
        return bool(pyproj.CRS.from_wkt(one).equals(pyproj.CRS.from_wkt(other), ignore_axis_order=True))
    except ProjError:
        return False


@lru_cache(maxsize=64)
def _transformer(source: str, target: str) -> pyproj.Transformer:
    try:
        return pyproj.Transformer.from_crs(pyproj.CRS.from_wkt(source), pyproj.CRS.from_wkt(target), always_xy=True)
    except ProjError as error:
        reason = str(error).splitlines()[0][:100]
        raise LandsegError("CRS", f"no way from one to the other ({reason})", "a CRS of the same globe", "check both files") from error
