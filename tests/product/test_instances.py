"""Touching parcels of one class kept apart by a class between them: held against pixels, on random rasters and on drawn ones."""

from __future__ import annotations

from pathlib import Path

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.features import rasterize

from landseg.core.errors import LandsegError
from landseg.core.grid import Grid
from landseg.core.machine import Room
from landseg.data.raster import write
from landseg.product.components import NOTHING
from landseg.product.parcels import Parcels, outline

NAMES = ["other", "field", "boundary"]
OTHER, FIELD, BOUNDARY = range(3)
TRANSFORM, UTM = Affine(2, 0, 5e5, 0, -2, 4e6), CRS.from_epsg(32650)

rasters = arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.sampled_from([0, 1, 1, 2, 2, NOTHING]))


def save(folder: Path, values: np.ndarray, probability: np.ndarray | None = None, names: list[str] | None = NAMES) -> Path:
    """A class raster, and beside it the boundary's probability (H, W) 0..1 where it is given; that of the other bands is nothing."""
    grid = Grid(*values.shape, TRANSFORM, UTM)
    if probability is not None:
        bands = np.zeros((*values.shape, 3), np.uint8)
        bands[:, :, BOUNDARY] = np.rint(probability * 200)
        bands[values == NOTHING] = NOTHING
        path = write(folder / "scene_probabilities.tif", bands, grid, nodata=NOTHING)
        with rasterio.open(path, "r+") as dataset:
            dataset.descriptions = NAMES
    return write(folder / "scene_classes.tif", values, grid, nodata=NOTHING, names=names)


def drawn(parcels: Parcels, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) number of the parcel that each pixel's middle lies in; -1 in none."""
    pairs = [(polygon, i) for i, polygon in enumerate(parcels.polygons)]
    return rasterize(pairs, shape, -1, transform=TRANSFORM, dtype="int32") if pairs else np.full(shape, -1, np.int32)


def two_fields(width: int = 1, gap: int = 0) -> np.ndarray:
    """Two fields of 20 × 20 and a boundary between them, with a gap in its middle."""
    values = np.full((20, 40 + width), FIELD, np.uint8)
    values[:, 20 : 20 + width] = BOUNDARY
    values[10 - gap // 2 : 10 - gap // 2 + gap, 20 : 20 + width] = FIELD
    return values


@given(values=rasters, seed=st.integers(0, 2**32), by_pixels=st.booleans(), smallest=st.sampled_from([0.0, 13.0]), rows=st.integers(1, 9))
@example(values=np.full((3, 3), BOUNDARY, np.uint8), seed=0, by_pixels=True, smallest=0.0, rows=1)
@example(values=np.full((3, 3), NOTHING, np.uint8), seed=0, by_pixels=True, smallest=0.0, rows=1)
@example(values=two_fields(3)[:9, 16:27], seed=1, by_pixels=False, smallest=0.0, rows=2)
@settings(max_examples=30, deadline=None)
def test_parcels_kept_apart_cover_the_same_ground_without_the_boundary(
    values: np.ndarray, seed: int, by_pixels: bool, smallest: float, rows: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    probability = np.random.default_rng(seed).random(values.shape)
    path = save(tmp_path_factory.mktemp("scene"), values, None if by_pixels else probability)
    parcels = outline(path, instances="boundary", min_area_m2=smallest)
    assert shapely.is_valid(parcels.polygons).all() and shapely.coverage_is_valid(parcels.polygons)
    owner = drawn(parcels, values.shape)
    assert ((owner >= 0) == (values != NOTHING)).all()
    assert shapely.area(parcels.polygons).sum() == (values != NOTHING).sum() * 4
    assert parcels.divided is not None and (parcels.specks == 0 or smallest)
    assert parcels.divided.dissolved + parcels.divided.left == (values == BOUNDARY).sum()
    if not smallest:
        found = np.append(parcels.class_id, NOTHING)[owner]
        is_class = (values != NOTHING) & (values != BOUNDARY)
        assert (found[is_class] == values[is_class]).all(), "an instance has no pixel of another class"
        assert (found[values == BOUNDARY] == BOUNDARY).sum() == parcels.divided.left
    for i in np.flatnonzero(parcels.class_id == BOUNDARY):
        beside = owner == i
        grown = np.pad(beside, 1)
        around = (grown[:-2, 1:-1] | grown[2:, 1:-1] | grown[1:-1, :-2] | grown[1:-1, 2:]) & ~beside
        assert (values[around] == NOTHING).all(), "it stays where no other class adjoins it, and only there"
    again = outline(path, instances="boundary", min_area_m2=smallest, rows=rows)
    assert shapely.to_wkb(parcels.polygons).tolist() == shapely.to_wkb(again.polygons).tolist()
    assert (parcels.class_id == again.class_id).all() and parcels.divided == again.divided


@pytest.mark.parametrize("by_pixels", [True, False])
@pytest.mark.parametrize("width", [1, 4, 7])
def test_a_boundary_is_divided_between_the_fields_beside_it(tmp_path: Path, width: int, by_pixels: bool) -> None:
    """Equally, however wide and however sure it is: a plateau has a middle."""
    values = two_fields(width)
    path = save(tmp_path, values, None if by_pixels else np.where(values == BOUNDARY, 1.0, 0.0))
    parcels = outline(path, instances="boundary")
    assert parcels.class_id.tolist() == [FIELD, FIELD]
    assert np.abs(shapely.area(parcels.polygons) / 4 - 20 * (20 + width / 2)).max() <= 10
    assert outline(path).class_id.tolist() == [FIELD, BOUNDARY, FIELD], "as ever where it is not asked for"
    divided = parcels.divided
    assert divided is not None and (divided.dissolved, divided.left) == (20 * width, 0)
    assert divided.probabilities == (None if by_pixels else "scene_probabilities.tif")


def test_a_border_that_the_classes_miss_is_found_in_the_probabilities(tmp_path: Path) -> None:
    """Five pixels are no boundary by their class, but likely enough one; the same of 0.02 are none."""
    values = two_fields(1, gap=5)
    line = np.where(np.arange(41) == 20, 1.0, 0.0)[None].repeat(20, 0)
    for likely, fields in ((0.2, 2), (0.02, 1)):
        probability = np.where(values == BOUNDARY, 0.9, likely * line)
        path = save(tmp_path, values, probability)
        assert outline(path).class_id.tolist().count(FIELD) == 1
        assert outline(path, instances="boundary").class_id.tolist() == [FIELD] * fields
        path.unlink()


def test_noise_within_a_field_parts_nothing(tmp_path: Path) -> None:
    values = two_fields()
    noise = np.random.default_rng(3).random(values.shape) * 0.02
    parcels = outline(save(tmp_path, values, np.where(values == BOUNDARY, 0.8, noise)), instances="boundary")
    assert parcels.class_id.tolist() == [FIELD, FIELD]


def test_without_probabilities_a_gap_narrower_than_the_fields_is_closed(tmp_path: Path) -> None:
    for gap, fields in ((4, 2), (16, 1)):
        values = np.pad(two_fields(2, gap), 2, constant_values=BOUNDARY)
        path = save(tmp_path, values)
        assert outline(path, instances="boundary").class_id.tolist() == [FIELD] * fields
        path.unlink()


def test_unknown_probabilities_are_those_of_the_pixels(tmp_path: Path) -> None:
    values = two_fields()
    path = save(tmp_path, values, np.zeros(values.shape))
    assert len(outline(path, instances="boundary").polygons) == 1
    with rasterio.open(tmp_path / "scene_probabilities.tif", "r+") as dataset:
        dataset.write(np.full(values.shape, NOTHING, np.uint8), 3)
    assert len(outline(path, instances="boundary").polygons) == 2


def test_parcels_of_two_classes_divide_the_boundary_too_and_empty_ground_stays_empty(tmp_path: Path) -> None:
    values = two_fields(3)
    values[:, 23:] = OTHER
    values[:, 30:33], values[:, 38:41] = BOUNDARY, NOTHING
    values[:, 41:] = BOUNDARY
    parcels = outline(save(tmp_path, values), instances="boundary")
    assert parcels.class_id.tolist() == [FIELD, OTHER, OTHER, BOUNDARY]
    assert parcels.divided is not None and (parcels.divided.dissolved, parcels.divided.left) == (120, 40)
    assert (drawn(parcels, values.shape)[:, 38:41] == -1).all()


def test_specks_are_given_away_and_leave_parcels_apart(tmp_path: Path) -> None:
    """A speck between two fields goes to one of them; that they touch then does not make them one, as it does of areas."""
    values = two_fields()
    values[8:11, 19:22] = OTHER
    path = save(tmp_path, values)
    parcels = outline(path, instances="boundary", min_area_m2=80)
    assert parcels.class_id.tolist() == [FIELD, FIELD] and parcels.specks == 1
    assert outline(path, min_area_m2=80).class_id.tolist() == [FIELD]


def test_kept_apart_parcels_are_simplified_and_smoothed_as_others(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    seats = rng.uniform(0, 90, (12, 2))
    owner = np.linalg.norm(np.indices((90, 90))[:, :, :, None] - seats.T[:, None, None], axis=0).argmin(2)
    values = np.full((90, 90), FIELD, np.uint8)
    values[:, 1:][owner[:, 1:] != owner[:, :-1]] = BOUNDARY
    values[1:][owner[1:] != owner[:-1]] = BOUNDARY
    path = save(tmp_path, values)
    exact = outline(path, instances="boundary")
    assert len(exact.polygons) == 12
    for options in ({"tolerance_m": 4.0}, {"is_smooth": True}):
        parcels = outline(path, instances="boundary", **options)
        assert shapely.coverage_is_valid(parcels.polygons) and len(parcels.polygons) == 12
        assert shapely.area(parcels.polygons).sum() == pytest.approx(90 * 90 * 4)
        assert shapely.get_num_coordinates(parcels.polygons).sum() < shapely.get_num_coordinates(exact.polygons).sum()


def test_a_class_that_the_raster_does_not_name_is_refused_with_those_that_it_does(tmp_path: Path) -> None:
    path = save(tmp_path, two_fields())
    with pytest.raises(LandsegError, match=r"no class is named hedge, one of other, field, boundary; .*--instances CLASS"):
        outline(path, instances="hedge")
    nameless = save(tmp_path / "nameless", two_fields(), names=None)
    with pytest.raises(LandsegError, match="no class is named boundary, class 0 to class 254"):
        outline(nameless, instances="boundary")
    assert outline(nameless, instances="class 2").class_id.tolist() == [FIELD, FIELD]


def test_probabilities_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path, two_fields(), np.zeros((20, 41)))
    beside, grid = tmp_path / "scene_probabilities.tif", Grid(20, 41, TRANSFORM, UTM)
    with rasterio.open(beside, "r+") as dataset:
        dataset.descriptions = ["other", "field", "road"]
    for bands, place, words in (
        (None, grid, "3 bands, none of them called boundary"),
        (np.zeros((20, 41, 2), np.uint8), grid, "2 bands, none of them called boundary"),
        (np.zeros((20, 40, 3), np.uint8), Grid(20, 40, TRANSFORM, UTM), "its grid, 20 × 41"),
        (np.full((20, 41, 3), 201, np.uint8), grid, "beyond 200.*predict --probabilities"),
        (np.zeros((20, 41, 3), np.int16), grid, "one a class of uint8"),
    ):
        if bands is not None:
            write(beside, bands, place)
        with pytest.raises(LandsegError, match=words):
            outline(path, instances="boundary")
    assert outline(path).divided is None, "not read where they are not needed"


def test_fractions_are_probabilities_too(tmp_path: Path) -> None:
    values = two_fields(1, gap=5)
    path = save(tmp_path, values)
    likely = np.where(np.arange(41) == 20, 0.3, 0.0)[None].repeat(20, 0).astype(np.float32)
    write(tmp_path / "scene_probabilities.tif", np.stack([1 - likely, likely * 0, likely], 2), Grid(20, 41, TRANSFORM, UTM))
    assert len(outline(path, instances="boundary").polygons) == 2


def test_confidence_is_that_of_a_parcels_own_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not of the boundary's, which went to it; those that stay boundary keep theirs."""
    values = np.full((12, 30), FIELD, np.uint8)
    values[:, 9:12], values[:, 18:21], values[:, 21:] = BOUNDARY, NOTHING, BOUNDARY
    sure = np.where(values == BOUNDARY, 40, 180).astype(np.uint8)
    sure[:, 12:18], sure[3, 2] = 160, NOTHING
    path = save(tmp_path, values)
    write(tmp_path / "scene_confidence.tif", sure, Grid(12, 30, TRANSFORM, UTM), nodata=NOTHING)
    monkeypatch.setattr("landseg.product.classmap.STRIP_PIXELS", 5 * 30)
    parcels = outline(path, instances="boundary")
    assert parcels.class_id.tolist() == [FIELD, FIELD, BOUNDARY]
    assert parcels.confidence == pytest.approx([0.9, 0.8, 0.2])
    assert outline(path).confidence == pytest.approx([0.9, 0.2, 0.8, 0.2])


def test_a_flood_that_memory_does_not_hold_is_refused_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, two_fields())
    monkeypatch.setattr("landseg.product.parcels.memory", lambda: Room(10**6, 300_000))
    with pytest.raises(LandsegError, match=r"strips of 20 × 41 pixels to flood, which take about.*a part of it that is narrower") as caught:
        outline(path, instances="boundary")
    assert "--min-area-m2" not in str(caught.value), "which changes nothing of a strip"
    assert len(outline(path).polygons) == 3


@pytest.mark.parametrize("by_pixels", [True, False])
def test_distances_reach_beyond_a_strip(tmp_path: Path, by_pixels: bool) -> None:
    """A boundary of many rows, each read alone, is divided in its middle."""
    values = np.ascontiguousarray(two_fields(12).T)
    path = save(tmp_path, values, None if by_pixels else np.where(values == BOUNDARY, 1.0, 0.0))
    parcels = outline(path, instances="boundary", rows=1)
    assert shapely.area(parcels.polygons).tolist() == [20 * 26 * 4] * 2
