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

from landseg.core.earth import pixel_frame_m
from landseg.core.grid import Grid, Window
from landseg.data import boundary
from landseg.data.boundary import OutlinedLabels, reach_px
from landseg.data.burn import Burner, draw, open_layers
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
    margin = reach_px(grid, width_m)
    burner = Burner(open_layers(str(path)), grid, column="kind", codes=codes, background=background, margin=margin, **options)
    return OutlinedLabels(burner, width_m, LINE)


def drawn_whole(labels: OutlinedLabels, width_m: float, window: Window) -> np.ndarray:
    """The plain way: the outlines of each feature widened as a whole, over what it covers itself; nothing is cut or left out."""
    burner, frame = labels._burner, pixel_frame_m(labels.grid)
    kept = np.full((window.height, window.width), burner.background == 255, np.uint8)
    draw(burner.shapes, ((burner.ids == 255) | burner.is_thin).astype(int), window, kept)
    band = np.zeros_like(kept)
    for shape, id_ in zip(burner.shapes, burner.ids, strict=True):
        draw(np.array([shape]), np.zeros(1, int), window, band)
        lines = shapely.transform(shapely.boundary(shape), lambda points: points @ frame.T)
        line = shapely.transform(lines.buffer(1.01 * width_m / 2), lambda points: points @ np.linalg.inv(frame).T)
        draw(np.array([line] if id_ != 255 else [], object), np.ones(int(id_ != 255), int), window, band)
    return np.where((band == 1) & (kept == 0), LINE, burner.read(window))


def star(x: float, y: float, radius: float, corners: int) -> shapely.Polygon:
    """An uneven ring of many edges."""
    angle, turns = np.linspace(0, 2 * np.pi, corners, endpoint=False), np.random.default_rng(corners)
    lengths = radius * turns.uniform(0.97, 1.0, corners)
    return shapely.Polygon(np.stack([x + lengths * np.cos(angle), y + lengths * np.sin(angle)], 1))


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
def test_every_window_gives_the_same_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width_m: float) -> None:
    monkeypatch.setattr(boundary, "_WHOLE", 40)
    above = [shapely.box(10.3, -9, 24.6, 30.2), shapely.Point(30, 30).buffer(9)]  # whose outlines reach into what lies below them
    labels = outlined(tmp_path, [*mosaic(3), *above, star(20, 24, 21, 300)], width_m)
    whole = labels.read(WHOLE)
    for high, wide in ((12, 8), (7, 5), (48, 3)):
        windows = [
            [Window(row, col, min(high, EDGE - row), min(wide, EDGE - col)) for col in range(0, EDGE, wide)] for row in range(0, EDGE, high)
        ]
        pieces = [[labels.read(window) for window in line] for line in windows]
        assert (np.block(pieces) == whole).all()


@pytest.mark.parametrize("width_m", [2.5, 7.0])
@pytest.mark.parametrize("seed", range(3))
def test_outlines_near_a_window_are_those_of_whole_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, width_m: float
) -> None:
    """Holes, parts of a multipolygon, a road through all windows, clouds and rings in many runs; on a turned grid."""
    monkeypatch.setattr(boundary, "_WHOLE", 40)
    grid = Grid(EDGE, EDGE, Affine(2, 0, 500_000, 0, -2, 4_000_000) @ Affine.rotation(20), UTM)
    parts = shapely.MultiPolygon([shapely.box(3.2, 30.1, 11.7, 60.3), shapely.Point(38.1, 9.4).buffer(6)])
    road, cloud = shapely.LineString([(-20, 11.3), (21.2, 25.7), (80, 20)]), shapely.Point(24, 36).buffer(7)
    ring = star(30, 30, 22, 150).difference(star(30, 30, 12, 70))
    shapes = [*mosaic(seed), ring, parts, road, cloud]
    kinds = [*(["field", "wood", "nothing"] * 9)[: len(shapes) - 4], "field", "field", "wood", "cloud"]
    labels = outlined(tmp_path, shapes, width_m, kinds=kinds, grid=grid, buffer_m=3.0)
    assert labels._burner.is_thin.sum() == 1
    for window in (WHOLE, Window(0, 0, 16, 16), Window(7, 19, 5, 29), Window(40, 8, 8, 8), Window(23, 0, 1, EDGE)):
        label = labels.read(window)
        assert (label == LINE).any() and (label == drawn_whole(labels, width_m, window)).all()


def test_outlines_far_from_a_window_cost_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is widened by GEOS is counted: it holds several times the memory of the polygons."""
    holes = [shapely.box(x, y, x + 2, y + 2) for x in range(0, EDGE, 4) for y in range(0, EDGE, 4)]
    ground = star(24, 24, 100, 5000).difference(shapely.union_all(holes))
    widened: list[int] = []

    def count(shapes: Any, *given: Any, buffer: Any = shapely.buffer, **options: Any) -> Any:
        widened.append(int(shapely.get_num_coordinates(shapes).sum()))
        return buffer(shapes, *given, **options)

    monkeypatch.setattr(shapely, "buffer", count)
    labels = outlined(tmp_path, [ground, *holes, star(-31, 24, 40, 4000)], 2.0)
    assert not widened, "nothing is kept"
    assert (labels.read(Window(21, 21, 2, 2)) == LINE).any() and sum(widened) <= 4 * 2 * 5
    widened.clear()
    labels.read(WHOLE)
    assert 5 * 2 * len(holes) < sum(widened) < 5 * 2 * len(holes) + 1500, "of the long ring what is near alone"


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


def test_beside_a_cloud_a_hidden_end_counts_all_the_same(tmp_path: Path) -> None:
    field, cloud = shapely.box(5.2, 5.2, 20.2, 40.2), shapely.box(14.2, 0.2, 20.8, 45.2)
    label = outlined(tmp_path, [field, cloud], 8.0, kinds=["field", "cloud"]).read(WHOLE)
    assert (label[20, 14:21] == 255).all() and label[20, 13] == FIELD
    assert label[20, 21] == LINE and label[20, 22] == NOTHING, "within two pixels of 20.2, where the field ends"


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


def test_an_outline_just_beyond_the_edge_reaches_into_the_scene(tmp_path: Path) -> None:
    """Seams of scenes: the same ground has the same labels. Here the width is more than the twentieth of a scene that is read anyway."""
    for width_m, beyond in ((8.0, 0.7), (24.0, 4.7)):
        fields = [shapely.box(-30, 5.2, -beyond, 40.2), shapely.box(20.2, 5.2, 44.2, 40.2)]
        labels = outlined(tmp_path, fields, width_m)
        label = labels.read(WHOLE)
        reach = width_m / 4 - beyond  # in pixels of 2 m
        assert "".join(map(str, label[20, :4])) == "9" * round(reach) + "0" * (4 - round(reach)) and labels._burner.features == 1
        wider = Grid(EDGE, EDGE + 20, GRID.transform @ Affine.translation(-20, 0), UTM)
        moved = list(shapely.transform(np.array(fields), lambda points: points + np.array([20, 0])))
        assert (outlined(tmp_path, moved, width_m, grid=wider).read(Window(0, 20, EDGE, EDGE)) == label).all()


def test_fields_not_wider_than_the_width_are_all_boundary(tmp_path: Path) -> None:
    found = []
    for wide in (3, 4, 5, 6, 8):
        label = outlined(tmp_path, [shapely.box(10.3, 5.3, 10.3 + wide, 40.3)], 8.0).read(WHOLE)
        found.append(int((label[20] == FIELD).sum()))
    assert found == [0, 0, 1, 2, 4]


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
