"""One plane in true metres for layers of any CRS, and polygons cut into small pieces on it. It reads no files and scores nothing.

Degrees and web-Mercator metres are no measure of ground. The plane is Lambert's azimuthal equal-area projection about the middle of the
ground, on the ellipsoid of its CRS: areas are exact everywhere, lengths within 0.02 % up to 250 km from the middle.
"""

from __future__ import annotations

import numpy as np
import pyproj
import shapely
from pyproj.crs.coordinate_operation import LambertAzimuthalEqualAreaConversion
from pyproj.exceptions import ProjError
from rasterio.crs import CRS

from landseg.core.errors import LandsegError
from landseg.data.ground import move

PIECE_VERTICES = 256
"""Most vertices of a piece: what it costs to cut two pieces with one another stays small, however large the polygons are."""

_EDGE_M = 1000.0
"""Longer edges get vertices between before they go to the plane, where straight lines of another CRS are bent: by 2 cm at the most."""

_EDGES = 5000
"""Most pieces that the longest edge of a layer is cut into."""

_DEPTH = 64
"""Halvings after which a piece is taken as it is: more vertices than `PIECE_VERTICES` in one point."""

_FAR_M = 9.0e6
"""Distance on the plane, from its middle, of what lies a quarter of the way round the globe: √2 radii. Source: Snyder 1987, chapter 24."""

_POLYGON = 3


def plane_about(what: str, crs: CRS, bounds: np.ndarray) -> CRS:
    """The plane about the middle of some ground.

    Args:
        what: The file, for messages.
        crs: Of the bounds.
        bounds: (4,) left, bottom, right, top in its units.

    Raises:
        LandsegError: The CRS has no place on a globe, or the bounds have none in it.

    Source: Snyder, Map Projections, USGS Professional Paper 1395 (1987), chapter 24; EPSG method 9820.
    """
    try:
        mine = pyproj.CRS.from_wkt(crs.to_wkt())
        if mine.geodetic_crs is None:
            raise ProjError("no geodetic CRS")
        globe = mine.geodetic_crs.to_2d()
        lon, lat = pyproj.Transformer.from_crs(mine, globe, always_xy=True).transform(*(bounds[:2] + bounds[2:]) / 2)
        degrees = np.degrees(np.array([lon, lat]) * globe.axis_info[0].unit_conversion_factor)
        if not np.isfinite(degrees).all():
            raise ProjError("its middle lies on no ground")
        conversion = LambertAzimuthalEqualAreaConversion(float(np.clip(degrees[1], -90, 90)), float(degrees[0]))
        return CRS.from_wkt(pyproj.crs.ProjectedCRS(conversion, geodetic_crs=globe).to_wkt())
    except ProjError as error:
        found = f"CRS {crs.to_string()[:60]} has no place on the globe ({str(error).splitlines()[0][:80]})"
        raise LandsegError(what, found, "a geographic or projected CRS", "assign the true one") from error


def on_plane(what: str, geometries: np.ndarray, crs: CRS, plane: CRS) -> np.ndarray:
    """Polygons of a CRS on the plane.

    Raises:
        LandsegError: Some have no place there.
    """
    if not len(geometries):
        return geometries
    unit = 180 / (np.pi * 6.4e6) if crs.is_geographic else 1 / float(crs.linear_units_factor[1])
    bounds = shapely.bounds(geometries)
    extent = np.hypot(bounds[:, 2] - bounds[:, 0], bounds[:, 3] - bounds[:, 1])  # no edge is longer
    longest = max(_EDGE_M * unit, float(extent.max()) / _EDGES)
    is_long = extent > longest
    if is_long.any():
        geometries = geometries.copy()
        geometries[is_long] = shapely.segmentize(geometries[is_long], longest)
    moved = np.asarray(move(geometries, crs, plane))
    lost = ~np.isfinite(shapely.bounds(moved)).all(1)
    if lost.any():
        found = f"{int(lost.sum()):,} polygons that have no place on the other's globe"
        raise LandsegError(what, found, "the true CRS on both sides", "check the CRS of both files")
    _require_near(what, moved)
    broken = ~shapely.is_valid(moved)
    if broken.any():  # a sliver thinner than the rounding of coordinates
        moved[broken] = shapely.buffer(moved[broken], 0)
    return moved


def _require_near(what: str, polygons: np.ndarray) -> None:
    """Refuse polygons about the place opposite to the plane's middle: there they are turned inside out, and cover all that they do not.

    Raises:
        LandsegError: There are some.
    """
    bounds = np.abs(shapely.bounds(polygons))
    wide = polygons[bounds.min(1) > _FAR_M]
    around = wide[shapely.contains_xy(wide, 0.0, 0.0)] if len(wide) else wide
    turned = int((shapely.distance(shapely.boundary(around), shapely.Point(0, 0)) > _FAR_M).sum())
    if turned:
        found = f"{turned:,} polygons on the other side of the globe" if turned > 1 else "1 polygon on the other side of the globe"
        raise LandsegError(
            what, found, "a layer of the other's surroundings", "clip it first: ogr2ogr -clipsrc LEFT BOTTOM RIGHT TOP OUT IN"
        )


def pieces_of(polygons: np.ndarray, most: int = PIECE_VERTICES) -> tuple[np.ndarray, np.ndarray]:
    """Cut polygons into pieces of few vertices, by halving them until they are small.

    Args:
        polygons: (N,) valid polygons and multipolygons.
        most: Vertices of a piece.

    Returns:
        (P,) polygons without overlaps that together are the same, and (P,) int64: the polygon that each is of.
    """
    parts, owner = shapely.get_parts(polygons, return_index=True)
    done, owners = [np.zeros(0, object)], [np.zeros(0, np.int64)]
    for _ in range(_DEPTH):
        is_small = shapely.get_num_coordinates(parts) <= most
        done.append(parts[is_small])
        owners.append(owner[is_small])
        parts, owner = parts[~is_small], owner[~is_small]
        if not len(parts):
            break
        halves = [shapely.intersection(parts, half) for half in _halves(shapely.bounds(parts))]
        parts, which = shapely.get_parts(np.concatenate(halves), return_index=True)
        owner = np.concatenate([owner, owner])[which]
        flat = shapely.get_type_id(parts) == _POLYGON  # not the points and lines in which the cut only touches
        parts, owner = parts[flat], owner[flat]
    done.append(parts)
    owners.append(owner)
    return np.concatenate(done), np.concatenate(owners).astype(np.int64)


def _halves(bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two boxes each, that share the longer side of the bounds between them."""
    left, bottom, right, top = bounds.T
    is_wide = right - left >= top - bottom
    x, y = np.where(is_wide, (left + right) / 2, right), np.where(is_wide, top, (bottom + top) / 2)
    first = shapely.box(left, bottom, x, y)
    second = shapely.box(np.where(is_wide, x, left), np.where(is_wide, bottom, y), right, top)
    return first, second
