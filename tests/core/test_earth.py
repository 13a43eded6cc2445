"""Ground areas and lengths, against pyproj's geodesics and against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import shapely
from affine import Affine
from pyproj import Geod, Transformer
from rasterio.crs import CRS

from landseg.core.earth import has_ground, pixel_area_m2, pixel_frame_m, polygon_area_m2, polygon_measures, resolution_m
from landseg.core.errors import LandsegError
from landseg.core.grid import Grid, Window


def from_origin(west: float, north: float, width: float, height: float) -> Affine:
    return Affine(width, 0, west, 0, -height, north)


WGS84 = Geod(ellps="WGS84")


def geodesic(polygon: shapely.Polygon, crs: str) -> tuple[float, float]:
    """pyproj's area and perimeter of a polygon whose edges are short."""
    moved = shapely.transform(polygon, Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform, interleaved=False)
    area, _ = WGS84.geometry_area_perimeter(shapely.orient_polygons(moved, exterior_cw=False))
    lines = [WGS84.geometry_length(ring) for ring in (moved.exterior, *moved.interiors)]
    return abs(area), sum(lines)


@pytest.mark.parametrize(
    ("crs", "centre", "radius"),
    [
        ("EPSG:32650", (500_300, 4_400_000), 400.0),
        ("EPSG:32650", (790_000, 7_900_000), 900.0),
        ("EPSG:3857", (6_100_000, 9_000_000), 700.0),
        ("EPSG:4326", (116.4, 60.2), 0.005),
        ("EPSG:4326", (-0.001, -12.0), 0.005),
        ("EPSG:3031", (1200.0, -2_500_000), 800.0),
        ("EPSG:2263", (990_000, 200_000), 1500.0),
    ],
)
def test_areas_and_perimeters_are_those_of_geodesics(crs: str, centre: tuple[float, float], radius: float) -> None:
    shell = shapely.Point(centre).buffer(radius, quad_segs=16)
    polygon = shell - shapely.Point(centre).buffer(radius / 3, quad_segs=16)
    area, perimeter = polygon_measures(np.array([polygon, shell]), CRS.from_string(crs))
    expected = [geodesic(item, crs) for item in (polygon, shell)]
    assert area == pytest.approx([item[0] for item in expected], rel=2e-6)
    assert perimeter == pytest.approx([item[1] for item in expected], rel=2e-6)


def test_multipolygons_add_up_and_direction_does_not_matter() -> None:
    crs = CRS.from_epsg(32650)
    square, far = shapely.box(5e5, 4e6, 5e5 + 100, 4e6 + 50), shapely.box(6e5, 4e6, 6e5 + 10, 4e6 + 10)
    holed = shapely.Polygon(square.exterior.coords, [shapely.box(5e5 + 10, 4e6 + 10, 5e5 + 20, 4e6 + 20).exterior.coords])
    both = shapely.MultiPolygon([holed, far])
    one = polygon_area_m2(np.array([holed, far]), crs)
    assert polygon_area_m2(np.array([both, holed.reverse()]), crs) == pytest.approx([one.sum(), one[0]], rel=1e-12)
    assert polygon_area_m2(np.array([]), crs).shape == (0,)


def test_a_box_of_degrees_has_the_area_of_its_zone() -> None:
    """The whole globe, cut at the antimeridian, is 510,065,621.7 km²; a cap round a pole counts from the pole."""
    world = np.array([shapely.box(west, -90, west + 90, 90) for west in range(-180, 180, 90)])
    assert polygon_area_m2(world, CRS.from_epsg(4326)).sum() == pytest.approx(510_065_621_724_088.0, rel=1e-9)
    ring = [(2e6 * math.sin(a), 2e6 * math.cos(a)) for a in np.linspace(0, 2 * np.pi, 721)]
    cap = shapely.Polygon(ring)
    to_degrees = Transformer.from_crs("EPSG:3031", "EPSG:4326", always_xy=True)
    latitude = to_degrees.transform(0, 2e6)[1]
    zone = polygon_area_m2(np.array([shapely.box(-180, -90, 0, latitude)]), CRS.from_epsg(4326))[0] * 2
    assert polygon_area_m2(np.array([cap]), CRS.from_epsg(3031))[0] == pytest.approx(zone, rel=2e-5)


@pytest.mark.parametrize("crs", [3031, 3413])
def test_what_touches_or_passes_a_pole_is_measured_as_it_is_drawn(crs: int) -> None:
    """Squares with the pole in a corner, on an edge, in the middle and near by, against a projection that keeps areas."""
    squares = [
        (0, 0, 1e3, 1e3),
        (-500, 0, 500, 1e3),
        (-500, -500, 500, 500),
        (0, 2e3, 1e3, 3e3),
        (-3e3, 0, 5e3, 8e3),
        (1e4, 1e4, 1.1e4, 1.1e4),
    ]
    polygons = np.array([shapely.box(*square) for square in squares])
    equal = Transformer.from_crs(crs, f"+proj=laea +lat_0={-90 if crs == 3031 else 90} +lon_0=0 +datum=WGS84", always_xy=True)
    truth = shapely.transform(shapely.segmentize(polygons, 50), equal.transform, interleaved=False)
    area, perimeter = polygon_measures(polygons, CRS.from_epsg(crs))
    assert area == pytest.approx(shapely.area(truth), rel=1e-6)
    assert perimeter == pytest.approx(shapely.length(truth), rel=1e-4)


def test_a_grid_has_metres_at_a_pole() -> None:
    for width in (10, 11):  # the pole at a corner of pixels, and in the middle of one
        grid = Grid(width, width, from_origin(-500 * width, 500 * width, 1000, 1000), CRS.from_epsg(3031))
        frame = pixel_frame_m(grid)
        assert frame.T @ frame == pytest.approx(1027.99**2 * np.eye(2), rel=1e-4, abs=1)
        assert pixel_area_m2(grid).window(Window(0, 0, width, width)) == pytest.approx(1027.99**2, rel=1e-4)


def test_a_long_edge_is_measured_as_it_runs_in_its_crs() -> None:
    """A square of 60 km in one polygon has the area of its 3,600 squares of 1 km."""
    crs = CRS.from_epsg(32650)
    small = np.array(
        [shapely.box(x, y, x + 1000, y + 1000) for x in range(200_000, 260_000, 1000) for y in range(7_000_000, 7_060_000, 1000)]
    )
    whole = polygon_area_m2(np.array([shapely.box(200_000, 7_000_000, 260_000, 7_060_000)]), crs)[0]
    assert whole == pytest.approx(polygon_area_m2(small, crs).sum(), rel=1e-8)


@pytest.mark.parametrize(
    "grid",
    [
        Grid(70, 50, from_origin(5e5, 4e6, 2, 2), CRS.from_epsg(32650)),
        Grid(70, 50, from_origin(116.0, 61.0, 0.3, 0.2), CRS.from_epsg(4326)),
        Grid(70, 50, from_origin(6.1e6, 9e6, 0.07, 0.07), CRS.from_epsg(3857)),
        Grid(70, 50, Affine(300, 40, 5e5, 50, -310, 4e6), CRS.from_epsg(32650)),
        Grid(70, 50, Affine(10, 0, 5e5, 0, 10, 4e6), CRS.from_epsg(32650)),
        Grid(1, 1, from_origin(5e5, 4e6, 30, 30), CRS.from_epsg(32650)),
    ],
    ids=["utm", "degrees", "mercator", "rotated", "south up", "one pixel"],
)
def test_a_pixels_area_is_that_of_its_polygon(grid: Grid) -> None:
    areas = pixel_area_m2(grid)
    whole = areas.window(Window(0, 0, grid.height, grid.width))
    assert whole.shape == grid.shape
    for row, col in {(0, 0), (grid.height // 2, grid.width // 3), (grid.height - 1, grid.width - 1)}:
        corners = [grid.transform @ place for place in ((col, row), (col + 1, row), (col + 1, row + 1), (col, row + 1))]
        truth = polygon_area_m2(np.array([shapely.Polygon(corners)]), grid.crs)[0]
        assert whole[row, col] == pytest.approx(truth, rel=1e-5)
    outline = [grid.transform @ place for place in ((0, 0), (grid.width, 0), (grid.width, grid.height), (0, grid.height))]
    assert whole.sum() == pytest.approx(polygon_area_m2(np.array([shapely.Polygon(outline)]), grid.crs)[0], rel=1e-5)
    part = areas.window(Window(grid.height // 2, 0, 1, grid.width))
    assert (part == whole[grid.height // 2]).all()


def test_resolution_is_in_true_metres() -> None:
    mercator = Grid(100, 100, from_origin(0, 8_399_737.89, 10, 10), CRS.from_epsg(3857))  # 60° north: half of what its units say
    assert resolution_m(mercator) == pytest.approx(5.0, rel=5e-3)
    degrees = Grid(10, 10, from_origin(10, 60.0005, 0.0001, 0.0001), CRS.from_epsg(4326))
    frame = pixel_frame_m(degrees)
    assert frame[0, 0] == pytest.approx(5.58, rel=1e-2) and frame[1, 1] == pytest.approx(-11.14, rel=1e-2)
    assert resolution_m(degrees) == pytest.approx(math.sqrt(5.58 * 11.14), rel=1e-2)


def test_without_a_place_on_a_globe_there_are_no_metres() -> None:
    somewhere = from_origin(0, 0, 1, 1)
    local = CRS.from_wkt('LOCAL_CS["drawing",UNIT["metre",1]]')
    for grid in (Grid(3, 3, somewhere), Grid(3, 3, somewhere, local), Grid(3, 3, crs=CRS.from_epsg(32650))):
        assert not has_ground(grid) and resolution_m(grid) is None
        with pytest.raises(LandsegError, match="the raster's grid"):
            pixel_area_m2(grid)
    with pytest.raises(LandsegError, match="place on the globe"):
        polygon_area_m2(np.array([shapely.box(0, 0, 1, 1)]), local)


def test_another_body_and_other_units_are_measured_on_their_own_ellipsoid() -> None:
    moon = CRS.from_string("+proj=longlat +R=1737400 +no_defs")
    box = np.array([shapely.box(-180, -90, 180, 90)])
    assert polygon_area_m2(box, moon)[0] == pytest.approx(4 * math.pi * 1737400**2, rel=1e-9)
    paris_grads = np.array([shapely.box(0, 50, 1, 51)])
    truth = polygon_area_m2(np.array([shapely.box(2.3, 45, 3.2, 45.9)]), CRS.from_string("+proj=longlat +a=6378249.2 +b=6356515"))
    assert polygon_area_m2(paris_grads, CRS.from_epsg(4807)) == pytest.approx(truth, rel=1e-9)


def test_what_is_measured_at_a_time_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    holes = [shapely.box(x, 4e6 + 5, x + 3, 4e6 + 9).exterior.coords for x in range(500_010, 500_090, 10)]
    polygons = np.array(
        [shapely.Polygon(shapely.box(5e5, 4e6, 5e5 + 100, 4e6 + 50).exterior.coords, holes), shapely.box(6e5, 4e6, 6e5 + 9, 4e6 + 9)]
    )
    whole = polygon_measures(polygons, CRS.from_epsg(32650))
    monkeypatch.setattr("landseg.core.earth._AT_ONCE", 7)
    parts = polygon_measures(polygons, CRS.from_epsg(32650))
    assert all((a == b).all() for a, b in zip(whole, parts, strict=True))
    assert whole[0][0] == pytest.approx((5000 - 8 * 12) / 0.9996**2, rel=1e-4)
