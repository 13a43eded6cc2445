"""Ground areas and lengths in true metres, on the ellipsoid of a CRS. It reads no files and moves no pixels.

Degrees and web-Mercator metres are no measure of ground. Here vertices go to geographic coordinates, and areas are integrals on the
ellipsoid (of any body: the CRS names it). A line between two vertices is straight in the CRS, as every GIS draws it, not a geodesic.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyproj
import shapely
from pyproj.exceptions import ProjError
from rasterio.crs import CRS

from landseg.core.errors import LandsegError
from landseg.core.grid import Grid, Window

_NODES = 513
"""Most nodes an axis of the lattice of pixel areas: 80 km apart on a raster of the whole Earth, where interpolating errs by 2e-5."""

_NODE_M = 5000.0
"""Nodes need not be nearer: between them a pixel's area departs from linear by (5 km / radius of the Earth)² / 8 < 1e-7."""

_CELL_M = 100.0
"""Edge length of the quadrangle that gives a small pixel's area: large against the rounding of coordinates (1e-9 m)."""

_PIECE_M = 1000.0
"""Longer edges are measured in pieces: one of 1 km lies within 2 cm of its chord between geographic coordinates at 45° of latitude."""

_POLAR = np.radians(80)
"""Beyond this latitude edges of projected CRSs are measured by the pole: at 85°, 1 km lies 22 cm beside its chord, at the pole 500 m."""

_PIECES = 5000
"""Most pieces that the longest edge of a layer is cut into."""

SQUARE = 0.1
"""Share by which the sides of a pixel may differ on the ground and still count as equal: as much as a scene's resolution may from a
model's. Pixels of equal degrees are square by this up to 24° of latitude."""

_AT_ONCE = 1 << 20
"""Vertices measured at a time."""


@dataclass(frozen=True)
class PixelAreas:
    """The ground area of each pixel of a grid in m², from a lattice of nodes by bilinear interpolation.

    Args:
        rows: Rows of the nodes, ascending (pixel centres have whole numbers here).
        cols: Columns of the nodes, ascending.
        values: (rows, cols) float64, m² of a pixel there.
    """

    rows: np.ndarray
    cols: np.ndarray
    values: np.ndarray

    def at(self, rows: np.ndarray | float, cols: np.ndarray | float) -> np.ndarray:
        """Areas in m² at positions in pixels; `rows` and `cols` broadcast, so ``at(rows[:, None], cols)`` is an array (H, W)."""
        above, down = _between(self.rows, rows)
        left, right = _between(self.cols, cols)
        first, last = (self.values[i, left] * (1 - right) + self.values[i, left + 1] * right for i in (above, above + 1))
        return np.asarray(first * (1 - down) + last * down)

    def window(self, window: Window) -> np.ndarray:
        """(height, width) float64: m² of each pixel of a window."""
        rows, cols = np.arange(window.row, window.row + window.height), np.arange(window.col, window.col + window.width)
        return self.at(rows[:, None], cols)


def pixel_area_m2(grid: Grid) -> PixelAreas:
    """The ground area of each pixel of a grid; take it of the whole raster, then of its windows, and no value depends on the windows.

    Raises:
        LandsegError: The grid has no place on the globe.
    """
    body = _body_of(grid)
    edge = resolution_m(grid) or 1.0
    rows, cols = (_nodes(length, edge) for length in grid.shape)
    half = max(0.5, _CELL_M / 2 / edge)
    row, col = (axis.ravel() for axis in np.meshgrid(rows, cols, indexing="ij"))
    corners = [(-half, -half), (half, -half), (half, half), (-half, half), (-half, -half)]
    x, y = _places(
        grid, np.stack([col + 0.5 + dc for _, dc in corners], 1).ravel(), np.stack([row + 0.5 + dr for dr, _ in corners], 1).ravel()
    )
    areas, _ = body.measure(x, y, np.arange(0, len(x) + 1, len(corners)))
    areas /= (2 * half) ** 2
    finite = np.isfinite(areas)
    # A raster may reach beyond the globe's edge on its projection; its pixels there are measured as its middle's are.
    areas[~finite] = edge * edge
    return PixelAreas(rows, cols, areas.reshape(len(rows), len(cols)))


def pixel_frame_m(grid: Grid) -> np.ndarray:
    """Metres on the ground that one pixel step takes at the middle of a grid.

    Returns:
        (2, 2) float64, ``[[east a column, east a row], [north a column, north a row]]``.

    Raises:
        LandsegError: The grid has no place on the globe.
    """
    body = _body_of(grid)
    col, row = grid.width / 2, grid.height / 2
    x, y = _places(grid, np.array([col - 0.5, col + 0.5, col, col, col]), np.array([row, row, row - 0.5, row + 0.5, row]))
    lon, lat = body.to_geographic(x, y)
    steps = np.diff(body.places(lon[:4], lat[:4]))[:, ::2]
    (east, north), (upward, level) = (np.sin(lon[4]), np.cos(lon[4])), (np.sin(lat[4]), np.cos(lat[4]))
    frame = np.array([[-east, north, 0], [-upward * north, -upward * east, level]]) @ steps
    if not np.isfinite(frame).all() or abs(np.linalg.det(frame)) == 0:
        raise LandsegError("the raster's grid", "its middle lies on no ground", "a transform that fits its CRS", "mend its georeference")
    return frame


def pixel_size_m(grid: Grid) -> tuple[float, float] | None:
    """Height and width in metres on the ground of a pixel in the middle of the grid; None where the grid has no place on the globe."""
    if not has_ground(grid):
        return None
    wide, high = np.hypot(*pixel_frame_m(grid)).tolist()
    return high, wide


def is_square(size_m: tuple[float, float]) -> bool:
    """Whether a pixel of this height and width counts as square."""
    return max(size_m) <= (1 + SQUARE) * min(size_m)


def resolution_m(grid: Grid) -> float | None:
    """Edge length in metres of the square as large as a pixel in the middle of the grid; None where the grid has no place on the globe."""
    if not has_ground(grid):
        return None
    return float(np.sqrt(abs(np.linalg.det(pixel_frame_m(grid)))))


def has_ground(grid: Grid) -> bool:
    """True where a grid lies on a globe, so that its metres can be told."""
    return grid.is_georeferenced and grid.crs is not None and _body(grid.crs.to_wkt()) is not None


def polygon_area_m2(polygons: np.ndarray, crs: CRS) -> np.ndarray:
    """Ground areas of polygons and multipolygons; see `polygon_measures`."""
    return polygon_measures(polygons, crs)[0]


def polygon_measures(polygons: np.ndarray, crs: CRS) -> tuple[np.ndarray, np.ndarray]:
    """Ground areas and perimeters of polygons.

    Args:
        polygons: (N,) array of shapely polygons or multipolygons, in units of the CRS; either direction of their rings; none missing.
        crs: Theirs.

    Returns:
        Two (N,) float64 arrays: areas in m², holes left out; perimeters in metres, holes included.

    Raises:
        LandsegError: The CRS has no place on the globe.
    """
    body = _body(crs.to_wkt())
    if body is None:
        raise LandsegError("CRS", f"{_name(crs)} has no place on the globe", "a geographic or projected CRS", "assign one")
    geometries = np.asarray(polygons, object)
    areas, perimeters = np.zeros(len(geometries)), np.zeros(len(geometries))
    if not len(geometries):
        return areas, perimeters
    geometries = _pieces(geometries, body)
    for part in _stretches(np.cumsum(shapely.get_num_coordinates(geometries))):
        _, coordinates, offsets = shapely.to_ragged_array(geometries[part])
        rings = np.asarray(offsets[0], np.int64)
        area, length = np.zeros(len(rings) - 1), np.zeros(len(rings) - 1)
        for some in _stretches(rings[1:]):
            inside = slice(rings[some.start], rings[some.stop])
            ends = rings[some.start : some.stop + 1] - inside.start
            area[some], length[some] = body.measure(coordinates[inside, 0], coordinates[inside, 1], ends)
        shells = np.asarray(offsets[1])  # the first ring of each simple polygon is its shell, the rest its holes
        sign = -np.ones(len(area))
        sign[shells[:-1][np.diff(shells) > 0]] = 1
        outer = shells if len(offsets) == 2 else shells[np.asarray(offsets[2])]
        areas[part], perimeters[part] = _sums(area * sign, outer), _sums(length, outer)
    return areas, perimeters


@dataclass(frozen=True)
class _Body:
    """An ellipsoid, and the way to geographic coordinates on it from one CRS."""

    transformer: pyproj.Transformer
    axis_m: float
    e2: float
    unit_m: float
    is_geographic: bool

    def to_geographic(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Longitude and latitude in radians; not finite where the projection has no ground."""
        lon, lat = self.transformer.transform(x, y)
        return np.radians(lon), np.radians(lat)

    def measure(self, x: np.ndarray, y: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Areas (m²) and lengths (m) of closed rings that stand one after the other; ring i is ``offsets[i]:offsets[i + 1]``."""
        lon, lat = self.to_geographic(np.asarray(x, np.float64), np.asarray(y, np.float64))
        length = np.sqrt((np.diff(self.places(lon, lat)) ** 2).sum(0))
        height, turn = self._authalic(lat), _turn(lon[1:] - lon[:-1])
        bulge = self._bulge(lat, height, turn)
        starts, count = offsets[:-1], np.diff(offsets)
        joins = offsets[1:-1] - 1  # between two rings there is no edge
        turn[joins], length[joins], bulge[joins] = 0, 0, 0
        winding = _sums(turn, _edges(offsets))
        # Round a pole, the area is counted from there; elsewhere from the ring's own first vertex, for the digits.
        base = np.where(np.abs(winding) > np.pi, np.copysign(self._authalic(np.pi / 2), lat[starts]), height[starts])
        middle = (height[:-1] + height[1:]) / 2 - np.repeat(base, count)[:-1]
        return np.abs(_sums(middle * turn + bulge, _edges(offsets))) * self.axis_m**2 / 2, _sums(length, _edges(offsets))

    def places(self, lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
        """(3, N) metres from the middle of the body. Source: EPSG Guidance Note 7-2, method 9602, on the ellipsoid itself."""
        normal = self.axis_m / np.sqrt(1 - self.e2 * np.sin(lat) ** 2)
        return np.stack([normal * np.cos(lat) * np.cos(lon), normal * np.cos(lat) * np.sin(lon), normal * (1 - self.e2) * np.sin(lat)])

    def _bulge(self, lat: np.ndarray, height: np.ndarray, turn: np.ndarray) -> np.ndarray:
        """What edges enclose beside their chords between longitudes and `height`: much where a projection's straight lines pass a pole.

        Straight in a polar projection is nearly straight in the equal-area one, where edges and the pole make triangles.

        Source: Snyder, Map Projections, USGS Professional Paper 1395 (1987), eq. 24-23 (polar Lambert azimuthal equal-area).
        """
        bulge = np.zeros(len(turn))
        polar = np.flatnonzero(np.abs(lat[:-1]) > _POLAR) if not self.is_geographic else np.zeros(0, np.int64)
        if len(polar):
            first, last = (np.maximum(self._authalic(np.pi / 2) - np.abs(height[at]), 0) for at in (polar, polar + 1))
            angle = turn[polar]
            bulge[polar] = np.sign(lat[polar]) * ((first + last) / 2 * angle - np.sqrt(first * last) * np.sin(angle))
        return bulge

    def _authalic(self, lat: np.ndarray | float) -> np.ndarray:
        """Snyder's q: a² q / 2 is the area between the equator and a latitude over one radian of longitude.

        Source: Snyder, Map Projections, USGS Professional Paper 1395 (1987), eq. 3-12.
        """
        sine = np.sin(lat)
        if self.e2 < 1e-12:
            return np.asarray(2 * sine)
        e = np.sqrt(self.e2)
        return np.asarray((1 - self.e2) * (sine / (1 - self.e2 * sine**2) + np.arctanh(e * sine) / e))


def _body_of(grid: Grid) -> _Body:
    body = _body(grid.crs.to_wkt()) if grid.crs is not None and grid.is_georeferenced else None
    if body is None:
        found = "it has no CRS" if grid.crs is None else f"CRS {_name(grid.crs)} has no place on the globe"
        raise LandsegError("the raster's grid", found, "a geographic or projected CRS", "assign one, e.g. with gdal_edit.py -a_srs EPSG:…")
    return body


@lru_cache(maxsize=16)
def _body(wkt: str) -> _Body | None:
    try:
        crs = pyproj.CRS.from_wkt(wkt)
        geod, geodetic = crs.get_geod(), crs.geodetic_crs
        if geod is None or geodetic is None:
            return None
        # Degrees from Greenwich on the CRS's own ellipsoid: no change of datum, and no CRS that counts in grads or from Paris.
        plain = pyproj.CRS.from_proj4(f"+proj=longlat +a={geod.a!r} +b={geod.b!r} +no_defs")
        unit = float(crs.axis_info[0].unit_conversion_factor) if crs.axis_info else 1.0
        unit_m = unit * geod.a if crs.is_geographic else unit
        return _Body(pyproj.Transformer.from_crs(crs, plain, always_xy=True), geod.a, geod.es, unit_m, crs.is_geographic)
    except ProjError:
        return None


def _places(grid: Grid, cols: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions in pixels → x and y in the grid's CRS."""
    a, b, c, d, e, f, *_ = grid.transform
    return a * cols + b * rows + c, d * cols + e * rows + f


def _name(crs: CRS) -> str:
    return str(crs.to_string())[:60]


def _nodes(length: int, edge_m: float) -> np.ndarray:
    count = int(np.clip(np.ceil(length * edge_m / _NODE_M) + 1, 2, _NODES))
    return np.linspace(0, max(length - 1, 1), count)


def _between(nodes: np.ndarray, at: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """The node before each position, and how far (0..1) it lies towards the next."""
    step = (nodes[-1] - nodes[0]) / (len(nodes) - 1)
    place = (np.asarray(at, np.float64) - nodes[0]) / step
    before: np.ndarray = np.clip(place.astype(np.int64), 0, len(nodes) - 2)
    return before, place - before


def _pieces(geometries: np.ndarray, body: _Body) -> np.ndarray:
    """The geometries with vertices added to edges that are too long to be measured at once."""
    bounds = shapely.bounds(geometries)
    extent = np.maximum(bounds[:, 2] - bounds[:, 0], bounds[:, 3] - bounds[:, 1])
    longest = max(_PIECE_M / body.unit_m, float(np.nanmax(extent)) / _PIECES)
    is_long = extent > longest
    if is_long.any():
        geometries = geometries.copy()
        geometries[is_long] = shapely.segmentize(geometries[is_long], longest)
    return geometries


def _stretches(ends: np.ndarray) -> Iterator[slice]:
    """Slices of things that end at `ends` (ascending, in vertices), each of about as many vertices as are measured at a time."""
    start = 0
    while start < len(ends):
        done = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _AT_ONCE)))
        yield slice(start, stop)
        start = stop


def _edges(offsets: np.ndarray) -> np.ndarray:
    """Offsets of rings in vertices → in edges between one vertex and the next."""
    return np.asarray(np.minimum(offsets, offsets[-1] - 1))


def _sums(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The sum of each stretch ``offsets[i]:offsets[i + 1]`` of `values`; 0 of an empty one."""
    totals = np.zeros(len(offsets) - 1)
    is_filled = np.diff(offsets) > 0
    if is_filled.any():
        totals[is_filled] = np.add.reduceat(values, offsets[:-1][is_filled])
    return totals


def _turn(angle: np.ndarray) -> np.ndarray:
    """Differences of longitude across ±180° as the short way round."""
    return np.asarray(np.mod(angle + np.pi, 2 * np.pi) - np.pi)
