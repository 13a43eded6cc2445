"""Parcels are an exact coverage: held against pixels, scipy's labels and shapely's own judgement, on random rasters of every kind."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import cv2
import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import rasterio
import scipy.ndimage
import shapely
from affine import Affine
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS

from landseg.core.earth import pixel_frame_m
from landseg.core.errors import LandsegError
from landseg.core.grid import Grid
from landseg.core.machine import Room
from landseg.data.raster import write
from landseg.product import components, specks
from landseg.product.components import NOTHING, OUTSIDE, Runs, find_runs, label
from landseg.product.outlines import Outlines, trace
from landseg.product.parcels import Parcels, outline
from landseg.product.specks import Areas, merge

UTM = CRS.from_epsg(32650)
NORTH_UP = Affine(2, 0, 5e5, 0, -2, 4e6)
TRANSFORMS = {
    "north up": NORTH_UP,
    "south up": Affine(2, 0, 5e5, 0, 2, 4e6),
    "rotated": Affine(1.7, 0.4, 5e5, 0.3, -1.9, 4e6),
    "oblong": Affine(0.5, 0, 5e5, 0, -3, 4e6),
}

CHECKERBOARD = np.indices((7, 9)).sum(0).astype(np.uint8) % 2
HOLES_IN_HOLES = np.array([[min(r, c, 8 - r, 8 - c) % 2 for c in range(9)] for r in range(9)], np.uint8)
PINCHED = np.array([[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]], np.uint8)
TOUCHES_ITSELF = np.array([[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, 1], [0, 1, 1, 1]], np.uint8)
ISLANDS = np.where(np.indices((7, 7)).sum(0) % 3 == 0, NOTHING, HOLES_IN_HOLES[:7, :7]).astype(np.uint8)
LINES = np.zeros((6, 11), np.uint8)
LINES[2], LINES[:, 4] = 1, 2

rasters = arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.sampled_from([0, 1, 2, NOTHING]))


def labelled(values: np.ndarray, rows: int = 3) -> tuple[Runs, int]:
    runs = find_runs([values[i : i + rows] for i in range(0, len(values), rows)], *values.shape)
    labels, count = label(runs)
    return runs.with_labels(labels), count


def dense(runs: Runs) -> np.ndarray:
    """(H, W) of labelled runs."""
    return np.repeat(runs.value, runs.lengths).reshape(runs.height, runs.width)[1:-1, 1:-1]


def reference_labels(values: np.ndarray) -> np.ndarray:
    """scipy's areas of each class, counted in the order of their first pixels."""
    found = np.full(values.shape, OUTSIDE, np.int64)
    for value in set(np.unique(values)) - {NOTHING}:
        areas, _ = scipy.ndimage.label(values == value)
        found[areas > 0] = areas[areas > 0] + 1000 * int(value)
    order = {key: i for i, key in enumerate(dict.fromkeys(found.ravel()[found.ravel() >= 0].tolist()))} | {OUTSIDE: OUTSIDE}
    return np.vectorize(order.__getitem__, otypes=[np.int64])(found)


def pixels(where: np.ndarray) -> shapely.Geometry:
    rows, cols = np.nonzero(where)
    return shapely.union_all(shapely.box(cols, rows, cols + 1, rows + 1))


def save(tmp_path: Path, values: np.ndarray, transform: Affine = NORTH_UP, name: str = "scene_classes.tif", crs: CRS = UTM) -> Path:
    return write(tmp_path / name, values, Grid(*values.shape, transform, crs), nodata=NOTHING)


def assert_covers(parcels: Parcels, valid_area: float) -> None:
    polygons = parcels.polygons
    assert shapely.is_valid(polygons).all() and shapely.coverage_is_valid(polygons)
    total = shapely.area(polygons).sum()
    assert shapely.union_all(polygons).area == pytest.approx(total, rel=1e-9)
    assert total == pytest.approx(valid_area, rel=1e-9)


def blobs(size: int, sigma: float, classes: int = 4, seed: int = 0) -> np.ndarray:
    """Land as a network maps it: areas with ragged borders and specks, and a part without any value."""
    noise = np.random.default_rng(seed).standard_normal((classes, size, size)).astype(np.float32)
    values = np.argmax([cv2.GaussianBlur(field, (0, 0), sigma) for field in noise], 0).astype(np.uint8)
    values[: size // 5, : size // 4] = NOTHING
    return values


@given(rasters, st.integers(1, 9), st.sampled_from([1, 5, 1 << 20]))
@example(CHECKERBOARD, 2, 1)
@example(TOUCHES_ITSELF, 1, 4)
@settings(max_examples=100, deadline=None)
def test_areas_are_scipys_whatever_is_read_at_a_time(values: np.ndarray, rows: int, at_once: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(components, "_RUNS_AT_ONCE", at_once)
        runs, count = labelled(values, rows)
    assert (dense(runs) == reference_labels(values)).all()
    assert count == dense(runs).max() + 1


@given(rasters, st.sampled_from([1, 5, 1 << 20]))
@example(CHECKERBOARD, 1)
@example(HOLES_IN_HOLES, 1)
@example(PINCHED, 1 << 20)
@example(TOUCHES_ITSELF, 1 << 20)
@example(ISLANDS, 1)
@example(LINES, 1)
@example(np.zeros((3, 4), np.uint8), 1)
@example(np.full((3, 4), NOTHING, np.uint8), 1)
@settings(max_examples=100, deadline=None)
def test_each_polygon_is_its_pixels_and_borders_match_vertex_by_vertex(values: np.ndarray, at_once: int) -> None:
    runs, count = labelled(values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(components, "_RUNS_AT_ONCE", at_once)
        polygons = trace(runs, count).polygons()
    assert len(polygons) == count
    labels = dense(runs)
    for i, polygon in enumerate(polygons):
        assert polygon.is_valid and polygon.equals(pixels(labels == i))
    assert shapely.coverage_is_valid(polygons)
    assert shapely.area(polygons).sum() == (values != NOTHING).sum()
    # A vertex is where borders bend or meet, and nowhere else.
    framed = np.pad(labels, 1, constant_values=OUTSIDE)
    for col, row in shapely.get_coordinates(polygons).astype(int).tolist():
        around = framed[row : row + 2, col : col + 2]
        is_straight = (around[0] == around[1]).all() or (around[:, 0] == around[:, 1]).all()
        assert not is_straight


def merged_by_the_rule(values: np.ndarray, limit: int, wide: int, high: int) -> np.ndarray:
    """The rule of `specks` word by word, on pixels: class ids afterwards."""
    values = values.copy()
    while True:
        labels = reference_labels(values)
        count = labels.max() + 1
        size = np.bincount(labels[labels >= 0], minlength=count)
        border: dict[int, dict[int, int]] = defaultdict(lambda: defaultdict(int))
        for one, other, length in ((labels[1:], labels[:-1], wide), (labels[:, 1:], labels[:, :-1], high)):
            for a, b in zip(one.ravel().tolist(), other.ravel().tolist(), strict=True):
                if a != b and min(a, b) >= 0:
                    border[a][b] += length
                    border[b][a] += length
        seat = [int(r) * (values.shape[1] + 2) + int(c) for r, c in (np.argwhere(labels == i)[0] + 1 for i in range(count))]
        rank = {i: (size[i], int(specks._hash(np.array([seat[i]]))[0])) for i in range(count) if size[i] < limit and border[i]}
        goes = [i for i in rank if all(rank[i] < rank[j] for j in border[i] if j in rank)]
        if not goes:
            return values
        former = {i: int(values[labels == i][0]) for i in range(count)}
        for i in goes:
            values[labels == i] = former[min(border[i], key=lambda j: (-border[i][j], -size[j], j))]


@given(rasters, st.integers(2, 12), st.sampled_from([(1.0, 1.0), (1.0, 4.0), (2.0, 0.5)]), st.sampled_from([1, 1 << 20]))
@example(CHECKERBOARD, 4, (1.0, 1.0), 1)
@example(HOLES_IN_HOLES, 9, (1.0, 1.0), 1)
@settings(max_examples=100, deadline=None)
def test_specks_go_by_the_stated_rule(values: np.ndarray, limit: int, pixel: tuple[float, float], at_once: int) -> None:
    runs, count = labelled(values)
    labels = dense(runs)
    seat = [int(np.flatnonzero(np.pad(labels, 1, constant_values=OUTSIDE).ravel() == i)[0]) for i in range(count)]
    size = np.bincount(labels[labels >= 0], minlength=count)
    classes = np.array([values[labels == i][0] for i in range(count)], np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(components, "_RUNS_AT_ONCE", at_once)
        new, left = merge(runs, Areas(size, classes, np.array(seat, np.int64)), limit, pixel)
    high, wide = (round(edge / max(pixel) * 2**16) for edge in pixel)
    expected = merged_by_the_rule(values, limit, wide, high)
    renewed = np.where(labels >= 0, new[labels] if count else OUTSIDE, OUTSIDE)
    assert (renewed == reference_labels(expected)).all()
    assert (np.where(renewed >= 0, left.value[renewed] if count else 0, NOTHING) == expected).all()
    assert (left.size == np.bincount(renewed[renewed >= 0], minlength=len(left.size))).all()


@pytest.mark.parametrize("name", TRANSFORMS)
@given(values=rasters, tolerance=st.sampled_from([0.0, 1.0, 3.0, 50.0]), smallest=st.sampled_from([0.0, 13.0]), smooth=st.booleans())
@example(values=CHECKERBOARD, tolerance=3.0, smallest=0.0, smooth=False)
@example(values=TOUCHES_ITSELF, tolerance=3.0, smallest=0.0, smooth=True)
@settings(max_examples=20, deadline=None)
def test_parcels_of_any_raster_cover_what_is_valid(
    name: str, values: np.ndarray, tolerance: float, smallest: float, smooth: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    transform = TRANSFORMS[name]
    path = save(tmp_path_factory.mktemp("scene"), values, transform)
    parcels = outline(path, tolerance_m=tolerance, min_area_m2=smallest, is_smooth=smooth)
    assert_covers(parcels, float((values != NOTHING).sum()) * abs(transform.determinant))
    again = outline(path, tolerance_m=tolerance, min_area_m2=smallest, is_smooth=smooth, rows=2)
    assert shapely.to_wkb(parcels.polygons).tolist() == shapely.to_wkb(again.polygons).tolist()
    assert (parcels.class_id == again.class_id).all() and (parcels.area_m2 == again.area_m2).all()


def test_simplifying_keeps_areas_nodes_and_the_outer_boundary(tmp_path: Path) -> None:
    values = blobs(300, 6.0)
    exact, simple = (outline(save(tmp_path, values), tolerance_m=tolerance) for tolerance in (0.0, 3.0))
    assert_covers(simple, float((values != NOTHING).sum()) * 4)
    assert shapely.get_num_coordinates(simple.polygons).sum() < 0.5 * shapely.get_num_coordinates(exact.polygons).sum()
    assert (simple.class_id == exact.class_id).all()
    before, after = (np.bincount(parcels.class_id, shapely.area(parcels.polygons)) for parcels in (exact, simple))
    assert before == pytest.approx(np.bincount(values[values != NOTHING]) * 4.0, rel=1e-12)
    assert after == pytest.approx(before, rel=0.005)
    boundaries = [shapely.boundary(shapely.union_all(parcels.polygons)) for parcels in (exact, simple)]
    assert boundaries[0].equals(boundaries[1])
    corners = {tuple(place) for place in shapely.get_coordinates(exact.polygons)}
    assert {tuple(place) for place in shapely.get_coordinates(simple.polygons)} < corners


@pytest.mark.parametrize("tolerance", [0.0, 3.0])
def test_smoothing_keeps_areas_and_the_outer_boundary_and_takes_the_stairs_away(tmp_path: Path, tolerance: float) -> None:
    values = blobs(300, 6.0)
    values[200:203, 100:250] = 3  # a track of three pixels
    path = save(tmp_path, values)
    exact, smooth = outline(path), outline(path, is_smooth=True, tolerance_m=tolerance)
    assert_covers(smooth, float((values != NOTHING).sum()) * 4)
    before, after = (np.bincount(parcels.class_id, shapely.area(parcels.polygons)) for parcels in (exact, smooth))
    assert after == pytest.approx(before, rel=0.005)
    assert shapely.union_all(smooth.polygons).boundary.equals(shapely.union_all(exact.polygons).boundary)
    assert shapely.length(smooth.polygons).sum() < 0.88 * shapely.length(exact.polygons).sum()
    assert shapely.get_num_coordinates(smooth.polygons).sum() < shapely.get_num_coordinates(exact.polygons).sum()


def test_smoothed_borders_that_are_no_coverage_are_left_as_they_were(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the digits of a CRS might make them; here each ring has its own."""
    path = save(tmp_path, blobs(40, 3.0))
    exact = outline(path)

    def torn(outlines: Outlines) -> Outlines:
        return replace(outlines, places=outlines.places + np.repeat(np.arange(len(outlines.rings) - 1), np.diff(outlines.rings))[:, None])

    monkeypatch.setattr("landseg.product.parcels.smooth", torn)
    left = outline(path, is_smooth=True)
    assert "left as the pixels have them" in caplog.text
    assert shapely.to_wkb(left.polygons).tolist() == shapely.to_wkb(exact.polygons).tolist()


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize(
    ("transform", "crs"),
    [(Affine(0.02, 0, 5e5, 0, -0.02, 4e6), 32650), (Affine(2, 0, 7e5, 0, -2, 4e6), 32650), (Affine(1e-5, 0, 116, 0, -1e-5, 40), 4326)],
    ids=["drone", "off the central meridian", "degrees"],
)
def test_simplified_noise_is_a_coverage_wherever_it_lies(tmp_path: Path, transform: Affine, crs: int, smooth: bool) -> None:
    """Corners of pixels lie on one line by the thousand; rounded metres would let a border through where it only touches."""
    values = np.random.default_rng(5).integers(0, 4, (150, 150)).astype(np.uint8)
    path = save(tmp_path, values, transform, crs=CRS.from_epsg(crs))
    edge = pixel_frame_m(Grid(150, 150, transform, CRS.from_epsg(crs)))[0, 0]
    polygons = outline(path, tolerance_m=2 * edge, is_smooth=smooth).polygons
    assert shapely.is_valid(polygons).all() and shapely.coverage_is_valid(polygons)


def test_ground_is_measured_on_the_ellipsoid_and_limits_are_true_metres(tmp_path: Path) -> None:
    """Web-Mercator pixels of 2 units at 60° north are 1 m² of ground each, of which 30 make the small square."""
    values = np.zeros((40, 40), np.uint8)
    values[10:15, 10:16] = 1
    mercator = Affine(2, 0, 1e6, 0, -2, 8_399_737.89)
    for limit, areas in ((29.0, 2), (31.0, 1)):
        parcels = outline(save(tmp_path, values, mercator, crs=CRS.from_epsg(3857)), min_area_m2=limit)
        assert len(parcels.polygons) == areas
        assert parcels.area_m2.sum() == pytest.approx(1600.0, rel=0.01)
    degrees = outline(save(tmp_path, values, Affine(2e-5, 0, 10, 0, -1e-5, 60), crs=CRS.from_epsg(4326)), min_area_m2=30)
    assert degrees.area_m2 == pytest.approx([1570 * 1.115 * 1.114, 30 * 1.115 * 1.114], rel=0.01)
    assert degrees.perimeter_m[1] == pytest.approx(22 * 1.115, rel=0.01)


def test_neighbours_that_meet_where_a_speck_was_become_one_parcel(tmp_path: Path) -> None:
    values = np.zeros((5, 9), np.uint8)
    values[:, 4] = 1
    path = save(tmp_path, values)
    assert outline(path).class_id.tolist() == [0, 1, 0]
    parcels = outline(path, min_area_m2=21)
    assert parcels.class_id.tolist() == [0] and parcels.specks == 2
    assert parcels.polygons[0].equals(shapely.box(5e5, 4e6 - 10, 5e5 + 18, 4e6))


def test_a_limit_above_everything_leaves_one_parcel_a_connected_area(tmp_path: Path) -> None:
    values = blobs(60, 3.0)
    values[:, 40] = NOTHING
    parcels = outline(save(tmp_path, values), min_area_m2=1e30)
    assert len(parcels.polygons) == 2
    assert_covers(parcels, float((values != NOTHING).sum()) * 4)


def test_many_specks_are_merged_in_few_rounds(tmp_path: Path) -> None:
    """A checkerboard, whose squares are all alike, does not go square by square."""
    values = (np.indices((200, 200)).sum(0) % 2).astype(np.uint8)
    runs, count = labelled(values)
    seat = (np.arange(count) // 200 + 1) * 202 + np.arange(count) % 200 + 1
    areas = Areas(np.ones(count, np.int64), values.ravel(), seat)
    borders = specks._borders(runs, areas.size < 5, (1.0, 1.0))
    assert len(list(specks._rounds(areas, borders, 5))) < 15
    assert len(outline(save(tmp_path, values), min_area_m2=20).polygons) < count / 5


@pytest.mark.parametrize(("dtype", "scale"), [("uint8", 200), ("float32", 1)])
def test_confidence_is_the_mean_of_the_pixels_beside(tmp_path: Path, dtype: str, scale: int) -> None:
    values = blobs(50, 3.0)
    sure = np.random.default_rng(1).integers(0, 201, values.shape) / 200
    raster = np.where(values == NOTHING, NOTHING, sure if scale == 1 else np.rint(sure * scale)).astype(dtype)
    path = save(tmp_path, values)
    assert outline(path).confidence is None
    write(tmp_path / "scene_confidence.tif", raster, Grid(50, 50, NORTH_UP, UTM), nodata=NOTHING)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("landseg.product.classmap.STRIP_PIXELS", 7 * 50)
        parcels = outline(path)
    labels = reference_labels(values)
    assert parcels.confidence == pytest.approx([sure[labels == i].mean() for i in range(labels.max() + 1)], abs=1e-6)
    write(tmp_path / "scene_confidence.tif", np.full_like(raster, NOTHING), Grid(50, 50, NORTH_UP, UTM), nodata=NOTHING)
    unknown = outline(path).confidence
    assert unknown is not None and np.isnan(unknown).all()


def test_a_confidence_raster_of_another_place_or_with_other_values_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, blobs(20, 3.0))
    for raster, transform, words in (
        (np.zeros((20, 20), np.uint8), Affine(2, 0, 5e5 + 40, 0, -2, 4e6), "its grid"),
        (np.zeros((20, 19), np.uint8), NORTH_UP, "its grid"),
        (np.full((20, 20), 201, np.uint8), NORTH_UP, "beyond 200"),
        (np.zeros((20, 20), np.int16), NORTH_UP, "one of uint8"),
    ):
        write(tmp_path / "scene_confidence.tif", raster, Grid(*raster.shape, transform, UTM))
        with pytest.raises(LandsegError, match=words):
            outline(path)
    write(tmp_path / "scene_confidence.tif", np.zeros((20, 20), np.uint8), Grid(20, 20, NORTH_UP, CRS.from_epsg(32651)))
    with pytest.raises(LandsegError, match="the CRS of the class raster"):
        outline(path)


def test_class_ids_come_from_any_whole_numbers_and_names_and_colours_from_the_raster(tmp_path: Path) -> None:
    values = np.array([[0, 0, 3], [0, -1, 3]], np.int16)
    parcels = outline(write(tmp_path / "c.tif", values, Grid(2, 3, NORTH_UP, UTM), nodata=-1))
    assert parcels.class_id.tolist() == [0, 3]
    assert [item.name for item in parcels.classes.values()] == ["class 0", "class 3"]
    palette = [17] * 768
    named = write(
        tmp_path / "n.tif", values.clip(0).astype(np.uint8), Grid(2, 3, NORTH_UP, UTM), nodata=NOTHING, palette=palette,
        names=["水", "forest", "road", "roof"],
    )  # fmt: skip
    classes = outline(named).classes
    assert [classes[i].name for i in range(4)] == ["水", "forest", "road", "roof"] and {item.colour for item in classes.values()} == {
        "#111111"
    }


@pytest.mark.parametrize(
    ("values", "crs", "words"),
    [
        (np.zeros((4, 4), np.float32), UTM, "values of type float32"),
        (np.full((4, 4), 300, np.int32), UTM, "the value 300"),
        (np.zeros((4, 4, 3), np.uint8), UTM, "3 bands"),
        (np.zeros((4, 4), np.uint8), None, "no CRS"),
        (np.zeros((4, 4), np.uint8), CRS.from_wkt('LOCAL_CS["drawing",UNIT["metre",1]]'), "no place"),
    ],
    ids=["float", "too high", "three bands", "no CRS", "a drawing"],
)
def test_what_is_no_class_raster_is_refused_in_one_line(tmp_path: Path, values: np.ndarray, crs: CRS | None, words: str) -> None:
    path = write(tmp_path / "c.tif", values, Grid(*values.shape[:2], NORTH_UP, crs))
    with pytest.raises(LandsegError, match=words) as error:
        outline(path)
    assert "\n" not in str(error.value)


def test_classes_are_told_apart_where_the_raster_gives_two_one_name(tmp_path: Path) -> None:
    values = np.array([[0, 1, 2, 3, 4]], np.uint8)
    names = ["a", "a 2", "a", "class 4", " "]
    parcels = outline(write(tmp_path / "c.tif", values, Grid(1, 5, NORTH_UP, UTM), names=names, nodata=NOTHING))
    areas = parcels.area_by_class()
    assert len(areas) == 5 and min(areas.values()) > 3.9
    assert list(areas)[:2] == ["a", "a 2"] and list(areas)[3] == "class 4"


def test_names_of_ids_that_no_class_raster_has_are_passed_over(tmp_path: Path) -> None:
    path = save(tmp_path, np.zeros((2, 2), np.uint8))
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(1, class_0="field", class_255="nothing", class_300="far")
    assert {i: item.name for i, item in outline(path).classes.items()} == {0: "field"}


def test_uneven_ground_is_said_where_a_tolerance_is_asked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save(tmp_path, blobs(40, 3.0), Affine(0.5, 0, 10, 0, -0.5, 60), crs=CRS.from_epsg(4326))
    outline(path, is_smooth=True)
    assert "a tolerance of" not in caplog.text, "what smoothing simplifies by is a part of a pixel, the same everywhere"
    outline(path, tolerance_m=1000)
    assert "a tolerance of 1000 m holds in the middle of the raster" in caplog.text


def test_more_parcels_than_memory_holds_are_refused_before_they_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, np.random.default_rng(0).integers(0, 2, (60, 60)).astype(np.uint8))
    monkeypatch.setattr("landseg.product.parcels.memory", lambda: Room(10**6, 300_000))
    with pytest.raises(LandsegError, match=r"parcels, which take about .* --min-area-m2"):
        outline(path)
    assert len(outline(path, min_area_m2=1e6).polygons) == 1
    monkeypatch.setattr("landseg.product.parcels.memory", lambda: Room(10**6, 100_000))
    with pytest.raises(LandsegError, match=r"stretches of one class, which take about.*; cut it, or filter it first"):
        outline(path, min_area_m2=1e6)
    monkeypatch.setattr("landseg.product.parcels.memory", lambda: Room(10**9, 10**8))
    monkeypatch.setattr("landseg.product.parcels._EDGE_BYTES", 10**6)
    with pytest.raises(LandsegError, match="pixel edges to smooth, which take about"):
        outline(path, is_smooth=True)
