"""Invented fields: planted objects that touch, agree with the picture's land, and go on beyond the scene."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from rasterio.features import rasterize

from landseg.core.errors import LandsegError
from landseg.data.fields import FIELD, FieldScene, make_fields, write_fields
from landseg.data.world import make_scene


@pytest.fixture(scope="module")
def scene() -> FieldScene:
    return make_fields(3, 256, 320)


def test_fields_touch_and_do_not_overlap(scene: FieldScene) -> None:
    assert scene.image.shape == (256, 320, 3) and scene.grid.shape == (256, 320) and scene.image.min() > 0
    assert shapely.is_valid(scene.polygons).all() and shapely.coverage_is_valid(scene.polygons)
    first, second = shapely.STRtree(scene.polygons).query(scene.polygons, "touches")
    shared = shapely.length(shapely.intersection(scene.polygons[first], scene.polygons[second]))
    assert len(scene.polygons) > 25 and (shared > 20).sum() > len(scene.polygons), "most have a neighbour along more than ten pixels"
    assert shapely.area(scene.polygons).min() > 40


def test_fields_go_on_beyond_the_scene(scene: FieldScene) -> None:
    left, top = scene.grid.transform @ (0, 0)
    right, bottom = scene.grid.transform @ (320, 256)
    here = shapely.box(left, bottom, right, top)
    beyond = shapely.difference(scene.polygons, here)
    assert shapely.intersects(scene.polygons, here).all() and (shapely.area(beyond) > 0).any()
    on_edge = shapely.length(shapely.intersection(shapely.boundary(scene.polygons), shapely.boundary(here)))
    assert on_edge.sum() < 0.1 * here.length, "by chance alone: they follow pixels"


def test_neighbours_differ_in_the_picture(scene: FieldScene) -> None:
    shapes = [(shape, i) for i, shape in enumerate(scene.polygons)]
    numbers = rasterize(shapes, (256, 320), fill=len(shapes), transform=scene.grid.transform, dtype="int32").ravel()
    counts = np.maximum(np.bincount(numbers, minlength=len(shapes) + 1), 1)
    means = np.stack([np.bincount(numbers, band.ravel(), len(shapes) + 1) / counts for band in np.moveaxis(scene.image, 2, 0)], 1)[:-1]
    means[counts[:-1] < 40] = np.nan
    first, second = shapely.STRtree(scene.polygons).query(scene.polygons, "touches")
    apart = np.abs(means[first] - means[second]).max(1)
    assert np.nanmedian(apart) > 5 and (apart < 4).any(), "most by their colour, some hardly"


def test_a_seed_gives_the_same_files_and_scenes_lie_apart(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_fields(tmp_path / name, 5, 2, 64, 96)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["fields_000.geojson", "fields_000.tif", "fields_001.geojson", "fields_001.tif"]
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)
    info, _, wkb, (classes,) = pyogrio.raw.read(tmp_path / "a" / "fields_001.geojson")
    made = make_fields(5, 64, 96, number=1)
    assert set(classes) == {FIELD} and shapely.equals_exact(shapely.from_wkb(wkb), made.polygons, 1e-6).all()
    with rasterio.open(tmp_path / "a" / "fields_001.tif") as file, rasterio.open(tmp_path / "a" / "fields_000.tif") as other:
        assert rasterio.crs.CRS.from_user_input(info["crs"]) == file.crs and rasterio.coords.disjoint_bounds(file.bounds, other.bounds)
        assert (np.moveaxis(file.read(), 0, 2) == made.image).all()
    assert make_scene(5, 64, 96).grid.crs == made.grid.crs


def test_the_same_land_is_seen_on_another_day() -> None:
    own, other = make_fields(5, 64, 96), make_fields(5, 64, 96, looks=3)
    assert shapely.equals(own.polygons, other.polygons).all() and own.grid == other.grid
    assert np.abs(own.image.mean((0, 1)) - other.image.mean((0, 1))).max() > 2


def test_what_cannot_be_invented_is_refused() -> None:
    for options in ({"seed": -1}, {"seed": 1, "height": 8}, {"seed": 1, "number": -1}, {"seed": 1, "looks": -1}):
        with pytest.raises(LandsegError, match=r"seed|scene"):
            make_fields(**options)
