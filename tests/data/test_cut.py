"""Cutting: every pixel of a scene in one tile at its place, means and majorities exact, labels of any kind on the scene's grid."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.features import rasterize

from landseg.core.classes import lookup_table, make_classes
from landseg.core.earth import pixel_frame_m
from landseg.core.errors import LandsegError
from landseg.core.grid import Grid, Window
from landseg.core.settings import CutConfig
from landseg.data import cut as cut_room
from landseg.data.bands import chosen_bands
from landseg.data.burn import Burner, class_codes, class_values, open_layers
from landseg.data.cut import KEY, NO_IMAGE, NO_LABEL, Counts, CutTile, factor_of, tiles_of, write_tiles
from landseg.data.ground import ground_of, move, move_points, require_common
from landseg.data.label_rasters import RasterLabels, SeveralLabels, codes_in
from landseg.data.pairing import LabelFiles, SceneFile, find_labels, find_scenes, pair
from landseg.data.raster import open_scene, write
from landseg.data.sink import Sink
from landseg.data.tiles import read_bytes

UTM = CRS.from_epsg(32650)
ALL = CutConfig(min_valid=0)
RNG = np.random.default_rng(3)


def grid_of(height: int, width: int, *, pixel: float = 2.0, x: float = 500_000, y: float = 4_000_000, crs: CRS | None = UTM) -> Grid:
    return Grid(height, width, Affine(pixel, 0, x, 0, -pixel, y), crs)


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(1, 255, shape, np.uint8)


def layer_of(path: Path, shapes: Iterable[shapely.Geometry], crs: str | None = "EPSG:32650", **columns: list[Any]) -> Path:
    geometries = list(shapes)
    kinds = {geometry.geom_type for geometry in geometries}
    data = [np.array(values, object if isinstance(values[0], str) else None) for values in columns.values()]
    kind = kinds.pop() if len(kinds) == 1 else "Unknown"
    pyogrio.raw.write(path, shapely.to_wkb(np.array(geometries, object)), data, list(columns), crs=crs, geometry_type=kind)
    return path


def cut(path: Path, size: int, *, labels: Any = None, config: CutConfig = ALL, metres: float | None = None) -> tuple[list[CutTile], Counts]:
    counts = Counts()
    with open_scene(path) as scene:
        return list(tiles_of(scene, labels, size, factor_of(scene, metres), config, counts)), counts


@given(height=st.integers(1, 70), width=st.integers(1, 70), size=st.integers(16, 40))
@settings(max_examples=15, deadline=None)
def test_every_pixel_lies_in_one_tile_at_its_place(tmp_path_factory: pytest.TempPathFactory, height: int, width: int, size: int) -> None:
    image, grid = noise(height, width, 2), grid_of(height, width)
    tiles, counts = cut(write(tmp_path_factory.mktemp("cut") / "a.tif", image, grid), size)
    back = np.zeros((height + size, width + size, 2), np.uint8)
    for tile in tiles:
        assert tile.image.shape == (size, size, 2) and tile.grid.shape == (size, size) and tile.grid.crs == UTM
        col, row = (round(value) for value in ~grid.transform @ (tile.grid.transform.c, tile.grid.transform.f))
        assert (row, col) == (tile.row * size, tile.col * size)
        assert not back[row : row + size, col : col + size].any(), "no two tiles share a pixel"
        back[row : row + size, col : col + size] = tile.image
    assert (back[:height, :width] == image).all() and not back[height:].any() and not back[:, width:].any()
    assert counts.kept == len(tiles) == -(-height // size) * -(-width // size)


def test_rotated_and_south_up_scenes_keep_their_transform(tmp_path: Path) -> None:
    for name, turn in (("rotated", Affine.rotation(30)), ("south_up", Affine.scale(1, -1))):
        transform = Affine.translation(500_000, 4_000_000) @ turn @ Affine.scale(2, -2)
        path = write(tmp_path / f"{name}.tif", noise(20, 40, 1), Grid(20, 40, transform, UTM))
        tiles, _ = cut(path, 20)
        assert tiles[1].grid.transform.almost_equals(transform @ Affine.translation(20, 0))


def test_a_resolution_means_true_metres_in_web_mercator(tmp_path: Path) -> None:
    # At 50° north a web-Mercator metre is 0.64 m on the ground: pixels of 1 unit are 0.64 m, a tile of 0.3 m is finer, one of 3 m coarser.
    x, y = move(shapely.Point(10, 50), CRS.from_epsg(4326), CRS.from_epsg(3857)).coords[0]
    path = write(tmp_path / "a.tif", np.full((128, 128, 1), 7, np.uint8), grid_of(128, 128, pixel=1, x=x, y=y, crs=CRS.from_epsg(3857)))
    for metres in (0.3, 3.0):
        tiles, _ = cut(path, 16, metres=metres)
        with open_scene(path) as scene:
            assert scene.resolution_m == pytest.approx(0.644, abs=2e-3)
        assert abs(tiles[0].grid.transform.a - metres / 0.644) < 0.01 * metres
        assert all(set(np.unique(tile.image)) <= {0, 7} for tile in tiles) and tiles[0].image.min() == 7


def test_a_resolution_means_square_pixels_where_degrees_are_not(tmp_path: Path) -> None:
    grid = grid_of(128, 256, pixel=1e-5, x=10, y=60, crs=CRS.from_epsg(4326))  # 0.56 m wide, 1.11 m high
    tiles, _ = cut(write(tmp_path / "a.tif", noise(128, 256, 1), grid), 16, metres=2.0)
    frame = pixel_frame_m(tiles[0].grid)
    assert np.allclose(np.abs(frame), np.diag([2.0, 2.0]), atol=2e-3)
    assert {(tile.row, tile.col) for tile in tiles} == {(row, col) for row in range(5) for col in range(5)}


@pytest.mark.parametrize("epsg", [4326, 3857])
@pytest.mark.parametrize("metres", [0.7, 3.0])
def test_tiles_at_60_degrees_are_as_long_on_the_ground_as_asked(tmp_path: Path, epsg: int, metres: float) -> None:
    """By geodesics, which nothing of ours measures with; a degree is half as long there, and web-Mercator's metres twice too long."""
    crs, size = CRS.from_epsg(epsg), 16
    x, y = move(shapely.Point(10, 60), CRS.from_epsg(4326), crs).coords[0]
    grid = grid_of(100, 200, pixel=1e-5 if epsg == 4326 else 2.0, x=x, y=y, crs=crs)
    tiles, _ = cut(write(tmp_path / "a.tif", noise(100, 200, 1), grid), size, metres=metres)
    for tile in tiles[:: len(tiles) - 1]:
        corners = [tile.grid.transform @ corner for corner in ((0, 0), (size, 0), (0, size))]
        (lon, east, south), (lat, along, below) = move_points(*np.array(corners).T, crs, CRS.from_epsg(4326))
        geod = Geod(ellps="WGS84")
        assert geod.inv(lon, lat, east, along)[2] == pytest.approx(size * metres, rel=2e-3)
        assert geod.inv(lon, lat, south, below)[2] == pytest.approx(size * metres, rel=2e-3)


def test_ground_control_points_alone_place_tiles_and_their_polygons(tmp_path: Path) -> None:
    image, grid = noise(32, 48, 1), grid_of(32, 48)
    path = write(tmp_path / "a.tif", image, Grid(32, 48))
    points = [GroundControlPoint(row, col, *(grid.transform @ (col, row))) for row, col in ((0, 0), (0, 48), (32, 0), (32, 48))]
    with rasterio.open(path, "r+") as dataset:
        dataset.gcps = points, UTM
    left, top = grid.transform @ (10, 5)
    layer = layer_of(tmp_path / "a.gpkg", [shapely.box(left, top - 20, left + 40, top)])
    scenes, _ = pair(find_scenes([str(path)], LabelFiles(), tmp_path), find_labels(str(layer), tmp_path))
    burner = Burner(scenes[0].layers, scenes[0].grid, column=None, codes={}, only=1, background=0, buffer_m=None, order="file")
    tiles, _ = cut(path, 48, labels=burner)
    assert tiles[0].grid.crs == UTM and tiles[0].grid.transform.almost_equals(grid.transform, precision=1e-6)
    wanted = np.zeros((32, 48), np.uint8)
    wanted[5:15, 10:30] = 1
    assert tiles[0].label is not None and (tiles[0].label[:32] == wanted).all() and (tiles[0].image[:32] == image).all()
    coarse, _ = cut(path, 16, metres=4.0)
    assert np.allclose(np.abs(pixel_frame_m(coarse[0].grid)), np.diag([4.0, 4.0]), rtol=1e-3, atol=0.06)


def test_nan_does_not_spread_into_means(tmp_path: Path) -> None:
    image = noise(32, 32, 2).astype(np.float32)
    image[:3, :4, 1] = np.nan
    for nodata in (None, np.nan):
        with open_scene(write(tmp_path / "a.tif", image, grid_of(32, 32), nodata=nodata)) as scene:
            tiles = list(tiles_of(scene, None, 16, (2.0, 2.0), ALL, Counts()))
        means = image.reshape(16, 2, 16, 2, 2)
        wanted = np.where(np.isnan(means).any(4, keepdims=True), np.nan, means)
        valid = np.isfinite(wanted[..., 0]).sum((1, 3)) >= 2
        with np.errstate(invalid="ignore"):
            found = np.where(valid[..., None], np.nansum(wanted, (1, 3)) / np.maximum(np.isfinite(wanted).sum((1, 3)), 1), 0)
        assert np.allclose(tiles[0].image, found, rtol=1e-6) and not valid.all() and not tiles[0].image[~valid].any()


def test_a_far_finer_resolution_is_a_slip(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", noise(32, 32, 1), grid_of(32, 32, pixel=10))
    assert len(cut(path, 64, metres=1.0)[0]) == 25
    with pytest.raises(LandsegError, match=r"a\.tif: 10 m a pixel, at least 0\.625 m.*--resolution"):
        cut(path, 64, metres=0.3)


def test_the_scenes_own_resolution_is_no_resampling(tmp_path: Path) -> None:
    """UTM's metres are 0.04 % too short on purpose; to resample by so little would only blur."""
    image = noise(16, 2048, 1)
    tiles, _ = cut(write(tmp_path / "a.tif", image, grid_of(16, 2048, pixel=0.3)), 16, metres=0.3)
    assert (np.concatenate([tile.image for tile in tiles], 1) == image).all()


def test_whole_factors_give_means_and_majorities(tmp_path: Path) -> None:
    image, ids = noise(64, 96, 3), RNG.integers(0, 3, (64, 96), np.uint8)
    path, label = write(tmp_path / "a.tif", image, grid_of(64, 96)), write(tmp_path / "l.tif", ids, grid_of(64, 96))
    with open_scene(path) as scene, open_scene(label, is_stored=True) as raster:
        own = RasterLabels(raster, scene.grid, lookup_table(3, 255, {}))
        tiles = list(tiles_of(scene, own, 16, (4.0, 4.0), ALL, Counts()))
    assert len(tiles) == 2
    got, got_ids = np.concatenate([tile.image for tile in tiles], 1)[:, :24], np.concatenate([tile.label for tile in tiles], 1)[:, :24]
    blocks = image.reshape(16, 4, 24, 4, 3).astype(float)
    assert (got == np.floor(blocks.mean((1, 3)) + 0.5)).all()
    counts = np.stack([(ids == k).reshape(16, 4, 24, 4).sum((1, 3)) for k in range(3)], 2)
    assert (got_ids == counts.argmax(2)).all()


@given(factor=st.floats(0.3, 7.0), seed=st.integers(0, 50))
@settings(max_examples=15, deadline=None)
def test_any_factor_gives_area_means(tmp_path_factory: pytest.TempPathFactory, factor: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    down, across = rng.random(50), rng.random(60)
    image = np.stack([np.full((50, 60), 33.0), down[:, None] + across[None]], 2).astype(np.float32)
    path = write(tmp_path_factory.mktemp("cut") / "a.tif", image, grid_of(50, 60))
    with open_scene(path) as scene:
        tiles = list(tiles_of(scene, None, 256, (factor, factor), ALL, Counts()))
    rows, cols = int(50 // factor), int(60 // factor)
    whole = tiles[0].image[:rows, :cols]
    assert (whole[:, :, 0] == 33).all()

    def means(values: np.ndarray, count: int) -> np.ndarray:
        """Of a step function over equal stretches, by its integral."""
        integral = np.interp(np.arange(count + 1) * factor, np.arange(len(values) + 1), np.append(0, np.cumsum(values)))
        return np.asarray(np.diff(integral) / factor)

    assert np.allclose(whole[:, :, 1], means(down, rows)[:, None] + means(across, cols)[None], atol=1e-5)


def test_missing_pixels_neither_count_in_means_nor_train(tmp_path: Path) -> None:
    image = np.full((32, 32), 100, np.int16)
    image[:, ::2] = -9999
    image[:16, :16] = -9999
    path = write(tmp_path / "a.tif", image, grid_of(32, 32), nodata=-9999)
    label = write(tmp_path / "l.tif", np.zeros((32, 32), np.uint8), grid_of(32, 32))
    with open_scene(path) as scene, open_scene(label, is_stored=True) as raster:
        labels = RasterLabels(raster, scene.grid, lookup_table(1, 255, {}))
        (tile,) = tiles_of(scene, labels, 16, (2.0, 2.0), ALL, Counts())
    assert tile.label is not None
    assert not tile.image[:8, :8].any() and (tile.label[:8, :8] == 255).all()
    assert (tile.image[8:] == 100).all() and (tile.label[8:] == 0).all(), "the mean of what is valid, where half of it is"


def test_tiles_are_dropped_by_the_stated_rules(tmp_path: Path) -> None:
    image, ids = noise(32, 64, 1), np.full((32, 64), 255, np.uint8)
    image[:, :30] = 0
    ids[3, 40] = 1
    ids[:, 48:] = 1
    path = write(tmp_path / "a.tif", image, grid_of(32, 64), nodata=0)
    label = write(tmp_path / "l.tif", ids, grid_of(32, 64), nodata=255)
    for config, kept, no_image, no_label in (
        (CutConfig(), [(0, 2), (0, 3), (1, 3)], 4, 1),
        (CutConfig(min_valid=0.1), [(0, 2), (0, 3), (1, 3)], 2, 3),
        (CutConfig(min_labelled=0.5), [(0, 3), (1, 3)], 4, 2),
    ):
        with open_scene(path) as scene, open_scene(label, is_stored=True) as raster:
            counts = Counts()
            labels = RasterLabels(raster, scene.grid, lookup_table(2, 255, {}))
            tiles = list(tiles_of(scene, labels, 16, (1.0, 1.0), config, counts))
        assert [(tile.row, tile.col) for tile in tiles] == kept
        assert (counts.dropped[NO_IMAGE], counts.dropped[NO_LABEL]) == (no_image, no_label)
        assert counts.pixels[1] == sum(np.count_nonzero(tile.label == 1) for tile in tiles)


@pytest.mark.parametrize("is_packed", [False, True])
def test_the_bytes_of_a_tile_are_kept_no_longer_than_it_takes_to_write_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_packed: bool
) -> None:
    write(tmp_path / "a.tif", noise(64, 64, 3), grid_of(64, 64))
    real, passed = cut_room.parallel_map, []

    def noted(*words: Any, **options: Any) -> Iterator[Any]:
        for place, files in real(*words, **options):
            passed.append(sorted(files))
            yield place, files

    monkeypatch.setattr(cut_room, "parallel_map", noted)
    with open_scene(str(tmp_path / "a.tif")) as scene, Sink(tmp_path / "out", is_packed=is_packed) as sink:
        counts = write_tiles(scene, None, "a", sink, size=32, factor=(1.0, 1.0), config=ALL, classes=())
    assert passed == [["images"] if is_packed else []] * 4
    assert list(counts.images) == [f"a/000{row}_000{col}" for row in range(2) for col in range(2)]
    assert all(read_bytes(path) for path in counts.images.values())


def test_bands_by_number_and_name(tmp_path: Path) -> None:
    image = noise(16, 16, 3)
    path = write(tmp_path / "a.tif", image, grid_of(16, 16))
    with open_scene(path) as scene:
        assert chosen_bands(scene, None, KEY) == [1, 2, 3] and chosen_bands(scene, ["Blue", 1], KEY) == [3, 1]
        for wrong in (["nir"], [4], [0]):
            with pytest.raises(LandsegError, match="1 red, 2 green, 3 blue"):
                chosen_bands(scene, wrong, KEY)
    tiles, _ = cut(path, 16, config=CutConfig(bands=(3, "red")))
    assert (tiles[0].image == image[:, :, [2, 0]]).all()


@pytest.mark.parametrize("epsg", [32650, 4326, 3857])
def test_a_label_raster_of_another_grid_gives_the_nearest_label(tmp_path: Path, epsg: int) -> None:
    """Each label pixel's class is a function of its place; so the scene's must be, to a label pixel."""
    grid, crs = grid_of(60, 50, pixel=10), CRS.from_epsg(epsg)
    left, bottom, right, top = move(ground_of("", grid).outline.buffer(100), UTM, crs).bounds
    theirs = Grid(200, 210, Affine((right - left) / 210, 0, left, 0, (bottom - top) / 200, top), crs)
    rows, cols = np.indices(theirs.shape)
    ids = ((rows // 20 + cols // 20) % 3).astype(np.uint8)
    path = write(tmp_path / "l.tif", ids, theirs)
    with open_scene(path, is_stored=True) as raster:
        labels = RasterLabels(raster, grid, lookup_table(3, 255, {}))
        assert labels.is_resampled
        whole = labels.read(Window(0, 0, 60, 50))
        part = labels.read(Window(7, 9, 20, 30))
    r, c = np.indices(grid.shape)
    x, y = grid.transform.a * (c + 0.5) + grid.transform.c, grid.transform.e * (r + 0.5) + grid.transform.f
    at = np.array([(~theirs.transform @ point.coords[0]) for point in move(shapely.points(x.ravel(), y.ravel()), UTM, crs)])
    expected = ids[np.floor(at[:, 1]).astype(int), np.floor(at[:, 0]).astype(int)].reshape(grid.shape)
    assert np.mean(whole != expected) < (0 if epsg == 32650 else 0.002) + 1e-9
    assert np.mean(part != whole[7:27, 9:39]) < 0.002


def test_a_label_raster_in_step_is_read_pixel_for_pixel(tmp_path: Path) -> None:
    ids = RNG.integers(0, 5, (40, 40), np.uint8)
    path = write(tmp_path / "l.tif", ids, grid_of(40, 40, x=500_000 + 2 * 5, y=4_000_000 + 2 * 3), nodata=4)
    with open_scene(path, is_stored=True) as raster:
        for background in (255, 0):
            labels = RasterLabels(raster, grid_of(20, 60), lookup_table(4, 255, {}), background)
            assert not labels.is_resampled
            got = labels.read(Window(0, 0, 20, 60))
            inside = np.where(ids == 4, background, ids)[3:23]
            assert (got[:, 5:45] == inside).all() and (got[:, :5] == 255).all() and (got[:, 45:] == 255).all()
        other = SeveralLabels([labels, RasterLabels(raster, grid_of(20, 60), lookup_table(4, 255, {0: 255, 1: 1, 2: 2, 3: 3}))])
        assert (other.read(Window(0, 0, 20, 60)) == got).all(), "what a later raster leaves open stays"
    assert codes_in(str(path)) == ([0, 1, 2, 3], {})


def test_label_rasters_that_hold_no_codes_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "half.tif", np.full((4, 4), 0.5, np.float32), grid_of(4, 4))
    write(tmp_path / "rgb.tif", noise(4, 4, 3), grid_of(4, 4))
    for name, words in (("half.tif", r"it holds 0\.5"), ("rgb.tif", "3 bands")):
        with pytest.raises(LandsegError, match=words):
            codes_in(str(tmp_path / name))


def test_polygons_are_burned_in_order_wherever_the_window_lies(tmp_path: Path) -> None:
    grid = grid_of(40, 60)

    def box(left: int, top: int, right: int, bottom: int) -> shapely.Polygon:
        corners = [grid.transform @ corner for corner in ((left, top), (right, top), (right, bottom), (left, bottom))]
        return shapely.Polygon(corners)

    small, large = box(10, 10, 20, 20), box(5, 5, 50, 30)
    path = layer_of(tmp_path / "l.gpkg", [small, large, box(-20, -20, 3, 3)], kind=["water", "field", "field"])
    layers = open_layers(str(path))
    assert class_values(layers, "kind") == ["field", "water"]
    codes = class_codes(["field", "water"], make_classes(["Water", "field"]), {}, "")
    for order, inner in (("file", 1), ("area", 0)):
        burner = Burner(layers, grid, column="kind", codes=codes, order=order)  # type: ignore[arg-type]
        label = burner.read(Window(0, 0, 40, 60))
        expected = np.full((40, 60), 255)
        expected[5:30, 5:50], expected[:3, :3] = 1, 1
        expected[10:20, 10:20] = inner
        assert (label == expected).all() and burner.features == 3
        pieces = [[burner.read(Window(row, col, 8, 12)) for col in range(0, 60, 12)] for row in range(0, 40, 8)]
        assert (np.block(pieces) == label).all()


@pytest.mark.parametrize("ending", ["gpkg", "geojson", "shp"])
def test_later_features_lie_on_top_in_every_format(tmp_path: Path, ending: str) -> None:
    """A spatial index gives features in an order of its own."""
    grid = grid_of(100, 100)
    corners, values = RNG.uniform((499_800, 3_999_800), (500_200, 4_000_000), (800, 2)), RNG.integers(0, 5, 800)
    boxes = [shapely.box(x, y, x + 20, y + 20) for x, y in corners.tolist()]
    path = layer_of(tmp_path / f"l.{ending}", boxes, kind=values.tolist())
    burner = Burner(open_layers(str(path)), grid, column="kind", codes={str(i): i for i in range(5)})
    expected = rasterize(zip(boxes, values.tolist(), strict=True), (100, 100), fill=255, transform=grid.transform, dtype="uint8")
    assert (burner.read(Window(0, 0, 100, 100)) == expected).all()


def test_a_buffer_is_as_wide_as_high_on_the_ground(tmp_path: Path) -> None:
    grid = grid_of(100, 100, pixel=1e-5, x=10, y=60, crs=CRS.from_epsg(4326))
    path = layer_of(tmp_path / "l.gpkg", [shapely.Point(10 + 50e-5, 60 - 50e-5)], "EPSG:4326")
    label = Burner(open_layers(str(path)), grid, column=None, codes={}, buffer_m=10.0).read(Window(0, 0, 100, 100))
    high, wide = (label == 0).any(1).sum(), (label == 0).any(0).sum()
    assert (high, wide) == (pytest.approx(20 / 1.114, abs=2), pytest.approx(20 / 0.558, abs=2))


def test_polygons_of_another_crs_land_where_they_lie(tmp_path: Path) -> None:
    grid = grid_of(50, 50, pixel=10)
    circle = shapely.Point(500_250, 4_000_000 - 250).buffer(180, quad_segs=64)
    away = shapely.Point(-170, -80).buffer(1)
    moved = move(circle, UTM, CRS.from_epsg(4326))
    burner = Burner(
        open_layers(str(layer_of(tmp_path / "l.geojson", [moved, away], "EPSG:4326"))), grid, column=None, codes={}, only=3, background=0
    )
    rows, cols = np.indices(grid.shape)
    distance = np.hypot(rows + 0.5 - 25, cols + 0.5 - 25) * 10
    label = burner.read(Window(0, 0, 50, 50))
    assert (label[distance < 175] == 3).all() and (label[distance > 185] == 0).all() and burner.features == 1


def test_lines_need_a_width(tmp_path: Path) -> None:
    grid = grid_of(40, 40)
    line = shapely.LineString([(500_000, 4_000_000 - 41), (500_080, 4_000_000 - 41)])
    layers = open_layers(str(layer_of(tmp_path / "l.gpkg", [line])))
    with pytest.raises(LandsegError, match=r"1 lines in it.*cut\.buffer_m"):
        Burner(layers, grid, column=None, codes={})
    label = Burner(layers, grid, column=None, codes={}, buffer_m=4.0).read(Window(0, 0, 40, 40))
    assert (label[19:22, 3:37] == 0).all() and (label[:18] == 255).all() and (label[23:] == 255).all()


def test_class_columns(tmp_path: Path) -> None:
    shapes = [shapely.box(i, 0, i + 1, 1) for i in range(4)]
    layers = open_layers(str(layer_of(tmp_path / "l.gpkg", shapes, number=[2.0, 10.0, 1.0, np.nan], word=["b", "a", "b", ""])))
    assert class_values(layers, "number") == ["1", "2", "10"] and class_values(layers, "word") == ["a", "b"]
    classes = make_classes(["a", "b"])
    assert class_codes(["a", "B", "1"], classes, {}, "") == {"a": 0, "B": 1, "1": 1}
    assert class_codes(["10", "2"], classes, {10: 0, 2: 1}, "") == {"10": 0, "2": 1}
    with pytest.raises(LandsegError, match=r"l\.gpkg: no column kind, one of number, word"):
        class_values(layers, "kind")
    with pytest.raises(LandsegError, match="'c', 'd'"):
        class_codes(["c", "a", "d"], classes, {}, "x")


def test_empty_and_broken_layers_are_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.geojson").write_text("{")
    (tmp_path / "empty.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    for name, words in (("broken", "cannot be read"), ("empty", "no feature"), ("gone", "cannot be read")):
        with pytest.raises(LandsegError, match=words):
            open_layers(str(tmp_path / f"{name}.geojson"))


def test_image_and_label_far_apart_are_refused_with_both_extents() -> None:
    image, label = ground_of("a.tif", grid_of(100, 100)), ground_of("l.tif", grid_of(100, 100, x=570_000))
    with pytest.raises(
        LandsegError, match=r"l\.tif: it shares no ground with a\.tif \(labels x 570000\.\.570200.*image x 500000\.\.500200"
    ):
        require_common(image, label)
    with pytest.raises(LandsegError, match=r"l\.tif: it has no CRS, while a\.tif has EPSG:32650"):
        require_common(image, ground_of("l.tif", grid_of(100, 100, crs=None)))
    require_common(image, ground_of("l.tif", grid_of(10, 10)))


def test_scenes_and_labels_pair_by_ground_then_by_stem(tmp_path: Path) -> None:
    places = {"a": 500_000, "b": 500_150, "c": 600_000}  # a and b overlap
    scenes = [write(tmp_path / "im" / f"{name}_rgb.tif", noise(100, 100, 3), grid_of(100, 100, x=x)) for name, x in places.items()]
    grids = tuple((f"lab/{name}_label.tif", grid_of(100, 100, x=places[name])) for name in ("b", "a"))
    labels = LabelFiles(rasters=grids)
    found = find_scenes([str(tmp_path / "im")], labels, tmp_path / "out")
    assert [scene.name for scene in found] == ["a_rgb", "b_rgb", "c_rgb"] and [scene.path for scene in found] == list(map(str, scenes))
    paired, alone = pair(found, labels)
    assert [scene.rasters for scene in paired] == [("lab/a_label.tif",), ("lab/b_label.tif",)]
    assert [scene.name for scene in alone] == ["c_rgb"]
    unnamed = LabelFiles(rasters=tuple((f"{i}.tif", grid) for i, (_, grid) in enumerate(grids)))
    assert [scene.rasters for scene in pair(found, unnamed)[0]] == [("0.tif", "1.tif")] * 2
    swapped = LabelFiles(rasters=(*grids, ("c.tif", grid_of(100, 100, x=670_000))))
    with pytest.raises(LandsegError, match=r"c\.tif: it shares no ground with .*c_rgb\.tif"):
        pair(found, swapped)


def test_without_a_crs_the_shape_must_agree(tmp_path: Path) -> None:
    def scene(height: int) -> SceneFile:
        grid = Grid(height, 30)
        return SceneFile("a.png", "a", grid, ground_of("a.png", grid))

    labels = LabelFiles(rasters=(("l.png", Grid(20, 30)),))
    assert pair([scene(20)], labels)[0][0].rasters == ("l.png",)
    with pytest.raises(LandsegError, match=r"20 × 30 pixels.*24 × 30.*neither has a CRS"):
        pair([scene(24)], labels)


def test_labels_of_one_stem_go_by_their_folders(tmp_path: Path) -> None:
    grid = grid_of(20, 20)
    for year in ("2019", "2020"):
        write(tmp_path / "images" / year / "area.tif", noise(20, 20, 3), grid)
    labels = LabelFiles(rasters=tuple((str(tmp_path / "labels" / year / "area.tif"), grid) for year in ("2020", "2019")))
    paired, _ = pair(find_scenes([str(tmp_path / "images")], labels, tmp_path / "out"), labels)
    assert [(scene.name, [Path(path).parent.name for path in scene.rasters]) for scene in paired] == [
        ("area", ["2019"]),
        ("area-2", ["2020"]),
    ]


def test_without_a_crs_names_must_agree_where_there_are_several() -> None:
    def scene(name: str) -> SceneFile:
        return SceneFile(f"{name}.png", name, Grid(20, 30), ground_of(f"{name}.png", Grid(20, 30)))

    paired, alone = pair([scene("a"), scene("b")], LabelFiles(rasters=(("a_label.png", Grid(20, 30)),)))
    assert ([item.name for item in paired], [item.name for item in alone]) == (["a"], ["b"])
    with pytest.raises(LandsegError, match=r"no label of its name.*name labels like images"):
        pair([scene("a"), scene("b")], LabelFiles(rasters=(("x.png", Grid(20, 30)),)))


@pytest.mark.parametrize("shape", [shapely.Point(500_050, 3_999_950), shapely.LineString([(400_000, 3_999_950), (600_000, 3_999_950)])])
def test_a_layer_without_extent_has_ground(tmp_path: Path, shape: shapely.Geometry) -> None:
    write(tmp_path / "a.tif", noise(100, 100, 1), grid_of(100, 100))
    labels = LabelFiles(layers=tuple(open_layers(str(layer_of(tmp_path / "l.gpkg", [shape])))))
    paired, _ = pair(find_scenes([str(tmp_path / "a.tif")], labels, tmp_path / "out"), labels)
    assert len(paired) == 1


WORLD = Grid(180, 3600, Affine(0.1, 0, -180, 0, -1, 90), CRS.from_epsg(4326))


@pytest.mark.parametrize("west", [-180, 0])
@pytest.mark.parametrize(("epsg", "place"), [(32650, (117, 36)), (32601, (-180, 10)), (3857, (30, 60))])
def test_labels_of_the_whole_globe_reach_every_scene(tmp_path: Path, epsg: int, place: tuple[float, float], west: float) -> None:
    """On the scene's CRS the globe is no rectangle, and a scene may cross 180° or Greenwich."""
    crs = CRS.from_epsg(epsg)
    x, y = move(shapely.Point(place), CRS.from_epsg(4326), crs).coords[0]
    path = write(tmp_path / "a.tif", noise(64, 64, 1), grid_of(64, 64, x=x - 64, y=y + 64, crs=crs))
    world = Grid(180, 3600, Affine(0.1, 0, west, 0, -1, 90), WORLD.crs)
    ids = np.zeros(world.shape, np.uint8)
    column = round((place[0] - west) * 10) % 3600
    ids[:, [column - 1, column]] = 1, 2  # west and east of the place
    labels = LabelFiles(rasters=((str(write(tmp_path / "l.tif", ids, world)), world),))
    ((scene,), _) = pair(find_scenes([str(path)], labels, tmp_path / "out"), labels)
    with open_scene(scene.rasters[0], is_stored=True) as raster:
        label = RasterLabels(raster, scene.grid, lookup_table(3, 255, {})).read(Window(0, 0, 64, 64))
    assert (label[:, :31] == 1).all() and (label[:, 33:] == 2).all()
    away = Grid(10, 10, Affine(0.1, 0, place[0] + 20, 0, -0.1, place[1]), WORLD.crs)
    with pytest.raises(LandsegError, match="it shares no ground"):
        pair([scene], LabelFiles(rasters=(("l.tif", away),)))


def test_a_layer_around_the_globe_reaches_a_scene(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", noise(64, 64, 1), grid_of(64, 64))
    places = [shapely.box(-180, -90, -170, -80), shapely.box(170, 80, 180, 90), shapely.box(116, 36, 118, 37)]
    labels = LabelFiles(layers=tuple(open_layers(str(layer_of(tmp_path / "l.gpkg", places, "EPSG:4326")))))
    assert pair(find_scenes([str(path)], labels, tmp_path / "out"), labels)[0][0].layers == labels.layers


def test_a_layer_is_told_by_its_content(tmp_path: Path) -> None:
    text = '<gpx version="1.1" creator="x" xmlns="http://www.topografix.com/GPX/1/1"><wpt lat="36.1" lon="117.0"><name>a</name></wpt></gpx>'
    (tmp_path / "l.gpx").write_text(text)
    assert [layer.name for layer in find_labels(str(tmp_path / "l.gpx"), tmp_path / "out").layers] == ["waypoints"]
    (tmp_path / "l.abc").write_text("neither")
    with pytest.raises(LandsegError, match=r"l\.abc: it cannot be read"):
        find_labels(str(tmp_path / "l.abc"), tmp_path / "out")


def test_what_a_source_may_name(tmp_path: Path) -> None:
    for name in ("a.tif", "b/a.tif", "b/c d.tif"):
        write(tmp_path / name, noise(8, 8, 1), grid_of(8, 8))
    (tmp_path / "b" / "notes.txt").write_text("no scene")

    def names(*sources: str) -> list[str]:
        return [scene.name for scene in find_scenes([str(tmp_path / source) for source in sources], LabelFiles(), tmp_path / "out")]

    assert (
        names("a.tif") == ["a"]
        and names("a.tif", "b") == ["a", "a-2", "c_d"]
        and names("b/*.tif") == ["a", "c_d"]
        and names("a.*", "a.tif") == ["a"]
    )
    for wrong, words in (("gone.tif", "it is not there"), ("*.jp2", "no file has such a name")):
        with pytest.raises(LandsegError, match=words):
            names(wrong)
