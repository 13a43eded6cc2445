"""Outlines as a class: which pixels they take, measured by distances; no leak between polygons; what is unlabelled; by any window alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import shapely
from affine import Affine
from pyproj import Geod
from rasterio.crs import CRS
from rasterio.features import rasterize

from landseg.core.grid import Grid, Window
from landseg.data.boundary import OutlinedLabels
from landseg.data.burn import Burner, open_layers
from landseg.data.ground import move, move_points

UTM, DEGREES, MERCATOR = (CRS.from_epsg(code) for code in (32650, 4326, 3857))
EDGE = 48
GRID = Grid(EDGE, EDGE, Affine(2, 0, 500_000, 0, -2, 4_000_000), UTM)
WHOLE = Window(0, 0, EDGE, EDGE)
FIELD, LINE, NOTHING = 1, 9, 0
TRUE = 1.0004
"""Metres on the ground that a metre of UTM is at its middle meridian: 1 / 0.9996."""


def on_ground(shapes: Sequence[Any], grid: Grid = GRID) -> list[Any]:
    """Shapes in pixels (x = columns, y = rows) in the grid's CRS."""
    a, b, c, d, e, f, *_ = grid.transform
    moved = shapely.transform(
        np.array(shapes, object), lambda p: np.stack([a * p[:, 0] + b * p[:, 1] + c, d * p[:, 0] + e * p[:, 1] + f], 1)
    )
    return list(moved)


def outlined(
    folder: Path,
    shapes: Sequence[Any],
    width_m: float,
    *,
    kinds: Sequence[str] | None = None,
    grid: Grid = GRID,
    background: int = NOTHING,
    **options: Any,
) -> OutlinedLabels:
    """Shapes in pixels of the grid as labels with outlines."""
    path = folder / "l.gpkg"
    path.unlink(missing_ok=True)
    values = np.array(["field"] * len(shapes) if kinds is None else kinds, object)
    crs = grid.crs.to_wkt() if grid.crs else None
    pyogrio.raw.write(path, shapely.to_wkb(np.array(on_ground(shapes, grid), object)), [values], ["kind"], crs=crs, geometry_type="Unknown")
    codes = {"field": FIELD, "wood": 2, "nothing": NOTHING, "cloud": 255}
    burner = Burner(open_layers(str(path)), grid, column="kind", codes=codes, background=background, **options)
    return OutlinedLabels(burner, width_m, LINE)


def mosaic(seed: int) -> list[Any]:
    """Polygons that touch, some left out, in no line with the pixels; some with a hole."""
    rng = np.random.default_rng(seed)
    cells = shapely.get_parts(shapely.voronoi_polygons(shapely.multipoints(rng.uniform(-10, EDGE + 10, (14, 2)))))
    holes = shapely.buffer(shapely.centroid(cells), 3.0)
    cells = np.where(rng.random(len(cells)) < 0.3, shapely.difference(cells, holes), cells)
    return list(cells[rng.random(len(cells)) < 0.75])


def shown(shapes: Sequence[Any]) -> np.ndarray:
    """(H, W) the number of the polygon that each pixel shows, from 1; 0 outside."""
    return np.asarray(rasterize([(shape, i + 1) for i, shape in enumerate(shapes)], (EDGE, EDGE), dtype="int32"))


def neighbours(array: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(array[1:], array[:-1]), (array[:, 1:], array[:, :-1])]


@pytest.mark.parametrize("width_m", [0.1, 2.0, 5.0, 9.0])
@pytest.mark.parametrize("seed", range(6))
def test_pixels_within_half_the_width_of_an_outline_are_boundary(tmp_path: Path, seed: int, width_m: float) -> None:
    shapes = mosaic(seed)
    label, owner = outlined(tmp_path, shapes, width_m).read(WHOLE), shown(shapes)
    rows, cols = np.indices(label.shape) + 0.5
    lines = shapely.union_all([shapely.boundary(shape) for shape in shapes])
    distance_m = shapely.distance(lines, shapely.points(cols, rows)) * 2 * TRUE
    reach_m = max(width_m, 2 * TRUE) / 2
    expected = np.where(distance_m <= reach_m, LINE, np.where(owner > 0, FIELD, NOTHING))
    doubtful = np.abs(distance_m / reach_m - 1) < 0.015
    assert (label[~doubtful] == expected[~doubtful]).all() and doubtful.mean() < 0.05
    unlabelled = outlined(tmp_path, shapes, width_m, background=255).read(WHOLE)
    assert (unlabelled == np.where(owner > 0, label, 255)).all(), "what is unlabelled stays so"


@pytest.mark.parametrize("seed", range(8))
def test_the_narrowest_outline_keeps_polygons_from_each_other_and_from_the_ground_around(tmp_path: Path, seed: int) -> None:
    shapes = mosaic(100 + seed)
    label, owner = outlined(tmp_path, shapes, 0.001).read(WHOLE), shown(shapes)
    assert (label == LINE).any() and (label == FIELD).mean() > 0.3
    for (a, b), (first, second) in zip(neighbours(label), neighbours(owner), strict=True):
        differ = first != second
        assert ((a == LINE) | (b == LINE))[differ].all()


@pytest.mark.parametrize("width_m", [0.1, 14.0])
def test_every_window_gives_the_same_pixels(tmp_path: Path, width_m: float) -> None:
    above = [shapely.box(10.3, -9, 24.6, 30.2), shapely.Point(30, 30).buffer(9)]  # whose outlines reach into what lies below them
    labels = outlined(tmp_path, [*mosaic(3), *above], width_m)
    whole = labels.read(WHOLE)
    for high, wide in ((12, 8), (7, 5), (48, 3)):
        windows = [
            [Window(row, col, min(high, EDGE - row), min(wide, EDGE - col)) for col in range(0, EDGE, wide)] for row in range(0, EDGE, high)
        ]
        pieces = [[labels.read(window) for window in line] for line in windows]
        assert (np.block(pieces) == whole).all()


def test_an_outline_lies_on_both_sides_whatever_lies_beyond(tmp_path: Path) -> None:
    label = outlined(tmp_path, [shapely.box(5.2, 5.2, 20.2, 30.2), shapely.box(20.2, 5.2, 40.2, 30.2)], 8.0).read(WHOLE)
    # Four pixels of 2 m, whose centres lie within two of the lines at 5.2, 20.2 and 40.2.
    assert "".join(map(str, label[18, 2:44])) == "0" + "9999" + "1" * 11 + "9999" + "1" * 16 + "9999" + "00"


def test_of_outlines_only_what_is_seen_counts(tmp_path: Path) -> None:
    below, above = shapely.box(5.2, 5.2, 30.2, 40.2), shapely.box(20.2, 5.2, 44.2, 40.2)
    label = outlined(tmp_path, [below, above], 4.0).read(WHOLE)
    assert (label[15, 22:42] == FIELD).all() and (label[15, 19:21] == LINE).all(), "the lower one's end lies under the upper one"
    turned = outlined(tmp_path, [above, below], 4.0).read(WHOLE)
    assert (turned[15, 7:29] == FIELD).all() and (turned[15, 29:31] == LINE).all()
    pond = outlined(tmp_path, [shapely.box(14, 14, 20, 20), shapely.box(5, 5, 40, 40)], 4.0, order="area").read(WHOLE)
    assert pond[14, 17] == LINE == pond[17, 13] and pond[17, 17] == FIELD, "with the smaller one on top it is seen"


def test_holes_and_all_parts_have_outlines(tmp_path: Path) -> None:
    ring = shapely.box(4.3, 4.3, 24.3, 24.3).difference(shapely.box(10.3, 10.3, 18.3, 18.3))
    other = shapely.box(30.3, 4.3, 40.3, 14.3)
    shapes = [shapely.GeometryCollection([shapely.MultiPolygon([ring, other]), shapely.Point(3, 3)]), shapely.box(30.3, 20.3, 40.3, 30.3)]
    label = outlined(tmp_path, shapes, 8.0).read(WHOLE)
    assert "".join(map(str, label[14, 1:28])) == "0" + "9999" + "11" + "9999" + "0" * 4 + "9999" + "11" + "9999" + "00", "a ring"
    assert all("".join(map(str, label[row, 27:44])) == "0" + "9999" + "1" * 6 + "9999" + "00" for row in (9, 25)), "and two whole ones"


def test_widened_lines_keep_their_pixels(tmp_path: Path) -> None:
    field, road = shapely.box(4.3, 4.3, 44.3, 44.3), shapely.LineString([(4.3, 24.5), (44.3, 24.5)])
    label = outlined(tmp_path, [field, road], 6.5, kinds=["field", "wood"], buffer_m=5.0).read(WHOLE)
    assert "".join(map(str, label[17:32, 22])) == "111" + "99" + "22222" + "99" + "111", "outlines beside the road, none on it"
    assert not (label[22:27] == LINE)[:, 5:44].any()


def test_polygons_of_the_background_are_outlined_and_unlabelled_ones_are_not(tmp_path: Path) -> None:
    field, yard, cloud = shapely.box(4.3, 4.3, 44.3, 44.3), shapely.box(10.3, 8.3, 18.3, 16.3), shapely.box(26.3, 8.3, 38.3, 16.3)
    wood = shapely.box(26.3, 16.3, 38.3, 22.3)
    label = outlined(tmp_path, [field, yard, cloud, wood], 4.0, kinds=["field", "nothing", "cloud", "wood"]).read(WHOLE)
    assert "".join(map(str, label[12, 7:21])) == "11" + "99" + "000000" + "99" + "11"
    assert (label[8:16, 26:38] == 255).all() and label[12, 25] == FIELD == label[12, 38], "a cloud is no end of a field"
    assert (label[16, 26:38] == LINE).all() and (label[18:20, 28:36] == 2).all(), "and hides what others have there"


def test_the_edge_of_the_scene_is_no_outline(tmp_path: Path) -> None:
    label = outlined(tmp_path, [shapely.box(-30, -30, 24.4, 80), shapely.box(24.4, -30, 90, 80)], 2.0).read(WHOLE)
    assert (label[:, 24] == LINE).all() and (np.delete(label, 24, 1) == FIELD).all()


@pytest.mark.parametrize("crs", [DEGREES, MERCATOR], ids=["degrees", "mercator"])
def test_a_width_is_true_metres_in_every_direction(tmp_path: Path, crs: CRS) -> None:
    """At 60° north, where a degree to the east is half of one to the north, and two metres of web-Mercator are one."""
    x, y = move(shapely.Point(10, 60), DEGREES, crs).coords[0]
    step = 1e-5 if crs == DEGREES else 2.0
    grid = Grid(200, 200, Affine(step, 0, x, 0, -step, y), crs)
    label = outlined(tmp_path, [shapely.box(-50, -50, 100, 100), shapely.box(100, -50, 300, 100), shapely.box(-50, 100, 300, 300)], 12.0,
                     grid=grid).read(Window(0, 0, 200, 200))  # fmt: skip
    for line, along in ((label[50], (1, 0)), (label[:, 50], (0, 1))):
        ends = [grid.transform @ (place * along[0], place * along[1]) for place in (0, int((line == LINE).sum()))]
        (lon, east), (lat, north) = move_points(*np.array(ends).T, crs, DEGREES)
        assert Geod(ellps="WGS84").inv(lon, lat, east, north)[2] == pytest.approx(12, abs=1.2)
