"""Which classes are the same, and whether a plane measures ground truly; pixels of two rasters counted strip by strip."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import shapely
import shapely.affinity
from affine import Affine
from rasterio.crs import CRS

from landseg.core.earth import polygon_area_m2
from landseg.core.errors import LandsegError
from landseg.core.grid import Grid
from landseg.data.ground import move
from landseg.data.raster import write
from landseg.scoring import rasters
from landseg.scoring.confusion import confusion_matrix
from landseg.scoring.plane import on_plane, pieces_of, plane_about
from landseg.scoring.rasters import block_matrices, classes_of
from landseg.scoring.sides import NamedClass, Source, match_classes, on_one_plane, read_raster

UTM = CRS.from_epsg(32650)
GRID = Grid(30, 44, Affine(2, 0, 5e5, 0, -2, 4e6), UTM)


def source(*classes: str | int, count: int = 1, name: str = "m") -> Source:
    named = tuple(NamedClass(f"class {c}" if isinstance(c, int) else c, c if isinstance(c, int) else i, not isinstance(c, int))
                  for i, c in enumerate(classes))  # fmt: skip
    return Source(name, False, np.array([shapely.box(0, 0, 1, 1)] * count, object), np.zeros(count, np.int64), named, UTM)


def pairs(ours: Source, theirs: Source, only: str | None = None, chosen: Sequence[str] | None = None) -> tuple[object, ...]:
    found = match_classes(ours, theirs, only, chosen)
    return found.names, found.of_map.tolist(), found.of_reference.tolist(), found.only_map, found.only_reference


@pytest.mark.parametrize(
    ("ours", "theirs", "wanted"),
    [
        (source("road", "Field"), source("field", "road"), (("Field", "road"), [1, 0], [0, 1], (), ())),
        (source("road", "field"), source(1), (("field",), [-1, 0], [0], ("road",), ())),
        (source("road", "field"), source(0, 1), (("road", "field"), [0, 1], [0, 1], (), ())),
        (source(0, 1), source(1, 0), (("class 1", "class 0"), [1, 0], [0, 1], (), ())),
        (source("road", "field"), source("field", "pond"), (("field", "pond"), [-1, 0], [0, 1], ("road",), ("pond",))),
        (source("field"), source("Field", "FIELD"), (("field",), [0], [0, 0], (), ())),
        (source("Field", "FIELD", "road"), source("field"), (("Field",), [0, 0, -1], [0], ("road",), ())),
        (source(3, "road", "Road"), source("road"), (("road",), [-1, 0, 0], [0], ("class 3",), ())),
        (source("background", "house"), source(), (("house",), [-1, 0], [0], ("background",), ())),
        (source(), source("house", "other"), (("house", "other"), [0], [0, 1], (), ("other",))),
        (source(), source(), (("object",), [0], [0], (), ())),
        (source(count=0), source("a", "b"), (("a", "b"), [], [0, 1], (), ("a", "b"))),
        (source("a", "b"), source(count=0), (("a", "b"), [0, 1], [0, 1], (), ())),
    ],
    ids=["by name", "by number", "numbers alone", "both unnamed", "partly", "cases", "cases of the map", "cases and numbers", "single",
         "single map", "both", "no map", "no truth"],
)  # fmt: skip
def test_classes_are_matched(ours: Source, theirs: Source, wanted: tuple[object, ...]) -> None:
    assert pairs(ours, theirs) == wanted


def test_named_classes_of_one_number_are_not_the_same() -> None:
    with pytest.raises(LandsegError, match="classes pond, one that the map m has: road"):
        match_classes(source("road"), source("pond", name="r"), None)


def test_the_class_of_a_layer_without_column_is_asked_for() -> None:
    with pytest.raises(LandsegError, match=r"r: no class column, and m has the classes road, field.*score\.only=field"):
        match_classes(source("road", "field"), source(name="r"), None)
    assert pairs(source("road", "field"), source(), "FIELD")[:2] == (("field",), [-1, 0])
    assert pairs(source("road", "field"), source(), "1")[:2] == (("field",), [-1, 0])
    with pytest.raises(LandsegError, match=r"score\.only: pond, a class of m: road, field"):
        match_classes(source("road", "field"), source(), "pond")


def test_chosen_classes_alone_are_scored() -> None:
    assert pairs(source("road", "field"), source("road", "field"), chosen=["Field"]) == (("field",), [-1, 0], [-1, 0], (), ())
    with pytest.raises(LandsegError, match=r"score\.classes: pond"):
        match_classes(source("road"), source("road"), None, ["pond"])


@pytest.mark.parametrize("epsg", [4326, 3857, 32650, 2263, 3413, 4807])
def test_the_plane_measures_ground(epsg: int) -> None:
    """Against areas on the ellipsoid; a square of 100 m stays one."""
    crs, where = CRS.from_epsg(epsg), {2263: (-74.0, 40.7), 4807: (3.0, 46.0)}.get(epsg, (10.0, 70.0))
    degrees = np.array(
        [shapely.box(where[0] + i * 0.01, where[1], where[0] + i * 0.01 + 0.003, where[1] + 0.002) for i in range(3)], object
    )
    there = np.asarray(move(degrees, CRS.from_epsg(4326), crs))
    plane = plane_about("a", crs, shapely.total_bounds(there))
    flat = on_plane("a", there, crs, plane)
    assert shapely.area(flat) == pytest.approx(polygon_area_m2(there, crs), rel=1e-6)
    other = on_plane("b", degrees, CRS.from_epsg(4326), plane)
    assert shapely.area(shapely.symmetric_difference(flat, other)).max() < shapely.area(flat).min() * 1e-2


def test_long_edges_bend_as_their_crs_bends_them() -> None:
    """An edge along a parallel is no straight line on the plane."""
    degrees = CRS.from_epsg(4326)
    wide = np.array([shapely.box(0, 60, 4, 61)], object)
    flat = on_plane("a", wide, degrees, plane_about("a", degrees, np.array([0.0, 60, 4, 61])))
    assert shapely.area(flat) == pytest.approx(polygon_area_m2(wide, degrees), rel=1e-6)


def test_what_has_no_ground_is_refused() -> None:
    local = CRS.from_wkt('LOCAL_CS["site",UNIT["metre",1]]')
    with pytest.raises(LandsegError, match="no place on the globe"):
        plane_about("a", local, np.zeros(4))
    with pytest.raises(LandsegError, match="no place on the other's globe"):
        on_plane("a", np.array([shapely.box(1e12, 0, 2e12, 1)]), UTM, plane_about("a", UTM, np.array([5e5, 4e6, 5e5, 4e6])))


def test_the_ground_of_a_coarse_raster_has_no_seams(tmp_path: Path) -> None:
    """Edges of several kilometres get vertices between, which rounding puts elsewhere on either side of a border."""
    degrees = Grid(100, 120, Affine(0.05, 0, 10.013, 0, -0.05, 60), CRS.from_epsg(4326))
    generator = np.random.default_rng(0)
    values = np.where(generator.random(degrees.shape) < 0.04, 1, np.where(generator.random(degrees.shape) < 0.1, 2, 0)).astype(np.uint8)
    values[50:60], values[:, 70:74] = 1, 1
    values[20:30, 20:50] = 255
    raster = read_raster(str(write(tmp_path / "a.tif", values, degrees, nodata=255)))
    ours, _ = on_one_plane(raster, raster, match_classes(raster, raster, None))
    assert ours.ground is not None and len(ours.ground) == 1 and len(ours.ground[0].interiors) == 1
    assert ours.ground[0].area == pytest.approx(shapely.area(ours.polygons).sum(), rel=1e-12)
    outer = shapely.get_coordinates(ours.ground[0])
    assert len(shapely.STRtree(ours.polygons).query(shapely.points(outer), "dwithin", 1e-6)[0]) >= len(outer), "vertex upon vertex"


def test_a_polygon_about_the_other_end_of_the_globe_is_refused() -> None:
    """On the plane it would be all that lies around it, the map's ground too."""
    degrees = CRS.from_epsg(4326)
    plane = plane_about("a", degrees, np.array([-4.0, 39.9, -3.9, 40.0]))
    near = shapely.box(-4, 39.9, -3.9, 40)
    with pytest.raises(LandsegError, match=r"1 polygon.* other side of the globe"):
        on_plane("world", np.array([near, shapely.box(170, -45, 179, -35)], object), degrees, plane)
    # What lies as far, but not about that place, stays what it is.
    far = np.array([near, shapely.box(150, -45, 165, -35)], object)
    assert shapely.area(on_plane("world", far, degrees, plane)) == pytest.approx(polygon_area_m2(far, degrees), rel=1e-4)


def test_pieces_are_small_and_together_the_whole() -> None:
    teeth = [(i / 2, 1.0 + i % 2) for i in range(3001)]
    comb = shapely.Polygon([(0, 0), *teeth, (1500, 0)], [shapely.box(5, 0.2, 9, 0.4).exterior.coords])
    two = shapely.MultiPolygon([shapely.box(0, 5, 1, 6), shapely.box(3, 5, 4, 6)])
    half = shapely.affinity.scale(comb, 0.5, 0.5)
    pieces, owner = pieces_of(np.array([comb, two, shapely.box(0, 0, 1, 1), half], object))
    assert shapely.get_num_coordinates(pieces).max() <= 256 and shapely.is_valid(pieces).all()
    assert np.bincount(owner, shapely.area(pieces)) == pytest.approx([comb.area, 2, 1, comb.area / 4])
    assert (owner == 1).sum() == 2 and shapely.union_all(pieces[owner == 0]).symmetric_difference(comb).area == pytest.approx(0, abs=1e-9)


def test_pixels_of_two_rasters_are_counted_whatever_is_read_at_a_time(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    ours, theirs = generator.integers(0, 4, (2, *GRID.shape)).astype(np.uint8)
    ours[3:9, 5:40], theirs[20:, :7] = 255, 255
    paths = [str(write(tmp_path / f"{i}.tif", values, GRID, nodata=255)) for i, values in enumerate((ours, theirs))]
    found = [block_matrices(*paths, {0: 2, 1: 0, 2: 1, 3: 3}, {0: 2, 1: 0, 2: 1, 3: 3}, 4, rows=rows) for rows in (None, 1, 7, 30)]
    assert all(np.array_equal(found[0], other) for other in found) and len(found[0]) == 5 * 8
    place = np.array([2, 0, 1, 3] + [255] * 252, np.uint8)
    label = np.where(ours == 255, 255, place[theirs])
    assert np.array_equal(found[0].sum(0), confusion_matrix(label, place[ours], 4))
    first = slice(0, 6)  # 44 columns make blocks of 6 pixels
    assert np.array_equal(found[0][0], confusion_matrix(label[first, first], place[ours][first, first], 4))
    assert len(block_matrices(*paths, {0: 0}, {0: 0}, 1, block_m=20)) == 3 * 5
    with pytest.raises(LandsegError, match=r"score\.block_m"):
        rasters._edge((1000, 1000), 2.0, 2.0, "m")


def test_a_reference_of_another_grid_gives_its_nearest_pixel(tmp_path: Path) -> None:
    """Twice as fine, and larger: the map's pixel has the class that lies under its centre."""
    coarse = np.arange(30 * 44).reshape(30, 44).astype(np.int64) % 3
    fine = Grid(80, 100, Affine(1, 0, 5e5 - 6, 0, -1, 4e6 + 10), UTM)
    other = np.full(fine.shape, 255, np.uint8)
    other[10:70, 6:94] = np.kron(coarse, np.ones((2, 2)))
    paths = [str(write(tmp_path / "m.tif", coarse.astype(np.uint8), GRID)), str(write(tmp_path / "r.tif", other, fine, nodata=255))]
    found = block_matrices(*paths, {0: 0, 1: 1, 2: 2}, {0: 0, 1: 1, 2: 2}, 3).sum(0)
    assert np.array_equal(found, np.diag(np.bincount(coarse.ravel())))
    named = classes_of(paths[0]).classes
    assert [item.name for item in named] == ["class 0", "class 1", "class 2"] and not any(item.is_named for item in named)
