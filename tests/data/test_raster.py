"""Rasters come back as they were written: values, place, nodata, palette; and what is no raster is said to be none."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio._env import get_gdal_config
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS

from landseg.core.classes import make_classes, palette
from landseg.core.errors import LandsegError
from landseg.core.grid import Grid, Window
from landseg.data.raster import CACHE_BYTES, open_scene, read, write


def grid_of(height: int, width: int) -> Grid:
    return Grid(height, width, Affine(2, 0, 500_000, 0, -2, 4_000_000), CRS.from_epsg(32650))


@given(
    height=st.integers(1, 300), width=st.integers(1, 300), bands=st.integers(1, 5),
    dtype=st.sampled_from(["uint8", "uint16", "int16", "int32", "float32", "float64"]), seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=20, deadline=None)
def test_a_raster_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, bands: int, dtype: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    array = rng.integers(0, 200, (height, width, bands)).astype(dtype)
    path = tmp_path_factory.mktemp("raster") / "a.tif"
    write(path, array, grid_of(height, width))
    found, grid, valid = read(path)
    assert found.dtype == array.dtype and (found == array).all() and found.flags.c_contiguous
    assert grid == grid_of(height, width)
    assert valid.all() and valid.shape == (height, width)
    row, col = int(rng.integers(height)), int(rng.integers(width))
    window = Window(row, col, height - row, width - col)
    part, place, _ = read(path, window)
    assert (part == array[window.slices]).all() and place == grid.crop(window)


def test_the_file_is_tiled_compressed_and_alone(tmp_path: Path) -> None:
    array = np.zeros((600, 700), np.uint8)
    write(tmp_path / "deep" / "a.tif", array, grid_of(600, 700))
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.tif"]
    assert (tmp_path / "deep" / "a.tif").stat().st_size < array.nbytes / 20
    with rasterio.open(tmp_path / "deep" / "a.tif") as dataset:
        assert dataset.block_shapes == [(256, 256)] and dataset.compression.name == "deflate"


def test_nodata_and_validity(tmp_path: Path) -> None:
    array = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    array[0, 0] = 0
    array[1, 1] = (0, 5, 0)
    write(tmp_path / "a.tif", array, grid_of(4, 4), nodata=0)
    _, _, valid = read(tmp_path / "a.tif")
    assert not valid[0, 0] and valid.sum() == 15, "a pixel is missing when all its bands are"
    with rasterio.open(tmp_path / "a.tif") as dataset:
        assert dataset.nodata == 0


def test_an_alpha_band_is_validity_and_no_band(tmp_path: Path) -> None:
    rgba = np.full((4, 5, 6), 200, np.uint8)
    rgba[3, :, :2] = 0
    with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", height=5, width=6, count=4, dtype="uint8", photometric="rgb",
                       alpha="yes", crs=CRS.from_epsg(32650), transform=Affine(2, 0, 0, 0, -2, 0)) as dataset:  # fmt: skip
        dataset.write(rgba)
    array, _, valid = read(tmp_path / "a.tif")
    assert array.shape == (5, 6, 3)
    assert not valid[:, :2].any() and valid[:, 2:].all()


def test_a_fourth_band_is_a_band_and_no_alpha(tmp_path: Path) -> None:
    array = np.full((4, 4, 4), 9, np.uint8)
    array[:, :, 3] = 0  # near infrared over water: taken for alpha, all of it would be invalid
    found, _, valid = read(write(tmp_path / "a.tif", array, grid_of(4, 4)))
    assert (found == array).all() and valid.all()


def test_palette_and_class_names_lie_in_the_file(tmp_path: Path) -> None:
    classes = make_classes(["building 建筑", "water"])
    label = np.array([[0, 1], [1, 255]], np.uint8)
    write(tmp_path / "a.tif", label, grid_of(2, 2), nodata=255, palette=palette(classes), names=[item.name for item in classes])
    with rasterio.open(tmp_path / "a.tif") as dataset:
        colours = dataset.colormap(1)
        assert colours[0][:3] == classes[0].rgb and colours[1][:3] == classes[1].rgb
        assert dataset.tags(1)["class_0"] == "building 建筑" and dataset.tags(1)["class_1"] == "water"
    array, _, valid = read(tmp_path / "a.tif")
    assert (array[:, :, 0] == label).all() and (valid == (label != 255)).all()


def test_a_raster_without_a_place_on_earth(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", np.ones((3, 4), np.float32), Grid(3, 4))
    _, grid, valid = read(tmp_path / "a.tif")
    assert grid == Grid(3, 4) and not grid.is_georeferenced and valid.all()


def test_the_same_array_gives_the_same_bytes(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    for name in ("a.tif", "b.tif"):
        write(tmp_path / name, array, grid_of(50, 60), nodata=0)
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


def test_unreadable_rasters_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.tif").write_text("no raster at all")
    (tmp_path / "empty.tif").write_bytes(b"")
    array = np.random.default_rng(0).integers(0, 256, (600, 600), dtype=np.uint8)
    whole = write(tmp_path / "whole.tif", array, grid_of(600, 600))
    (tmp_path / "short.tif").write_bytes(whole.read_bytes()[:150_000])
    for name in ("text.tif", "empty.tif", "short.tif"):
        with pytest.raises(LandsegError, match=f"{name}: it cannot be read"):
            read(tmp_path / name)
    with pytest.raises(LandsegError, match=r"missing\.tif: no such file"):
        read(tmp_path / "missing.tif")


def test_a_window_beyond_the_raster_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", np.ones((4, 4), np.uint8), grid_of(4, 4))
    for window in (Window(-1, 0, 2, 2), Window(3, 3, 2, 2)):
        with pytest.raises(LandsegError, match="a window inside it"):
            read(path, window)


@pytest.mark.parametrize(
    ("array", "colours"),
    [
        (np.ones((4, 5), np.uint8), None),
        (np.ones((4, 4), bool), None),
        (np.ones((4, 4, 3), np.uint8), [0] * 768),
        (np.ones(4, np.uint8), None),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_the_old_file(tmp_path: Path, array: np.ndarray, colours: list[int] | None) -> None:
    (tmp_path / "a.tif").write_bytes(b"old")
    with pytest.raises(LandsegError):
        write(tmp_path / "a.tif", array, grid_of(4, 4), palette=colours)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.tif", b"old")]


def stored(path: Path, bands: np.ndarray, **profile: object) -> Path:
    """A GeoTIFF of bands (C, H, W) by rasterio alone."""
    count, height, width = bands.shape
    given: dict[str, object] = {"crs": CRS.from_epsg(32650), "transform": grid_of(1, 1).transform}
    settings: dict[str, object] = {"driver": "GTiff", "height": height, "width": width, "count": count, "dtype": bands.dtype}
    with rasterio.open(path, "w", **(settings | given | profile)) as dataset:
        dataset.write(bands)
    return path


@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    dtype=st.sampled_from(["uint8", "uint16", "int16", "float32"]),
    seed=st.integers(0, 99),
)
@settings(max_examples=12, deadline=None)
def test_a_scene_gives_any_window_and_any_bands(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, dtype: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    array = rng.integers(0, 200, (height, width, 3)).astype(dtype)
    path = write(tmp_path_factory.mktemp("scene") / "a.tif", array, grid_of(height, width))
    row, col = int(rng.integers(height)), int(rng.integers(width))
    window = Window(row, col, int(rng.integers(1, height - row + 1)), int(rng.integers(1, width - col + 1)))
    with open_scene(path) as scene:
        assert (scene.path, scene.grid, scene.bands, scene.dtype) == (str(path), grid_of(height, width), 3, dtype)
        image, valid = scene.read(window, [3, 1])
    assert image.dtype == dtype and image.flags.c_contiguous and (image == array[window.slices][:, :, [2, 0]]).all()
    assert valid.shape == image.shape[:2] and valid.all()


def test_scales_and_offsets_are_applied_and_stored_values_are_had_too(tmp_path: Path) -> None:
    path = stored(tmp_path / "a.tif", np.array([[[0, 100, 200]], [[7, 8, 9]]], np.int16), nodata=0)
    with rasterio.open(path, "r+") as dataset:
        dataset.scales, dataset.offsets = (0.5, 1.0), (10.0, 0.0)
    with open_scene(path) as scene:
        image, _ = scene.read()
        assert scene.dtype == "float32" == image.dtype and image[0].tolist() == [[10, 7], [60, 8], [110, 9]]
        assert scene.read(bands=[2])[0][0].tolist() == [[7], [8], [9]]
    with open_scene(path, is_stored=True) as scene:
        assert scene.dtype == "int16" and scene.read()[0][0, 1].tolist() == [100, 8]


def test_a_sentinel_in_one_band_is_missing_and_a_black_band_is_not(tmp_path: Path) -> None:
    values = np.array([[[5, -9999, 6, -9999]], [[5, 7, -9999, -9999]]], np.int16)
    path = stored(tmp_path / "a.tif", values, nodata=-9999)
    with open_scene(path) as scene:
        image, valid = scene.read()
        assert valid.tolist() == [[True, False, False, False]] and not image[~valid].any()
        assert scene.read(bands=[2])[1].tolist() == [[True, True, False, False]], "of the bands that are read"
    black = np.array([[[0, 0]], [[0, 9]]], np.uint8)
    with open_scene(stored(tmp_path / "b.tif", black, nodata=0)) as scene:
        assert scene.read()[1].tolist() == [[False, True]]
    with open_scene(stored(tmp_path / "c.tif", values), nodata=-9999) as scene:
        assert scene.read()[1].tolist() == [[True, False, False, False]], "a value that the file does not state"


def test_nan_is_missing_stated_or_not(tmp_path: Path) -> None:
    values = np.array([[[1, np.nan, np.inf, 2]], [[1, 1, 1, 1]]])
    for name, profile in (("a.tif", {}), ("b.tif", {"nodata": np.nan})):
        with open_scene(stored(tmp_path / name, values, **profile)) as scene:
            image, valid = scene.read()
        assert scene.dtype == "float32" and np.isfinite(image).all() and valid.tolist() == [[True, False, False, True]]


def test_masks_inside_and_beside_the_file_and_alpha_say_what_is_valid(tmp_path: Path) -> None:
    shown = np.array([[255, 0, 255], [0, 255, 255]], np.uint8)
    for name, is_inside in (("in.tif", "YES"), ("beside.tif", "NO")):
        path = stored(tmp_path / name, np.full((3, 2, 3), 9, np.uint8))
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=is_inside), rasterio.open(path, "r+") as dataset:
            dataset.write_mask(shown)
        assert (tmp_path / "beside.tif.msk").exists() == (is_inside == "NO")
        with open_scene(path) as scene:
            assert scene.bands == 3 and (scene.read(bands=[2])[1] == (shown > 0)).all()
    deep = np.stack([np.full((2, 3), 900), shown], 0).astype(np.uint16)  # GDAL's own mask makes 255 of 65535 nothing
    with open_scene(stored(tmp_path / "alpha.tif", deep, alpha="yes")) as scene:
        assert scene.bands == 1 and (scene.read()[1] == (shown > 0)).all()


def test_colour_maps_are_expanded_and_their_indices_had_too(tmp_path: Path) -> None:
    path = stored(tmp_path / "a.tif", np.array([[[0, 1, 2]]], np.uint8))
    with rasterio.open(path, "r+") as dataset:
        dataset.write_colormap(1, {0: (10, 20, 30, 255), 1: (40, 50, 60, 255), 2: (70, 80, 90, 255)})
    with open_scene(path) as scene:
        assert scene.bands == 3 and scene.names == ("red", "green", "blue")
        assert scene.read()[0].tolist() == [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]]
        assert scene.read(bands=[3])[0][0, :, 0].tolist() == [30, 60, 90]
    with open_scene(path, is_stored=True) as scene:
        assert scene.bands == 1 and scene.read()[0].ravel().tolist() == [0, 1, 2]


def test_ground_control_points_give_a_grid_or_are_refused(tmp_path: Path) -> None:
    true = Affine.translation(500_000, 4_000_000) @ Affine.rotation(20) @ Affine.scale(2, -2)
    for name, shift in (("straight", 0.0), ("bent", 30.0)):
        corners = [(0, 0), (0, 40), (30, 0), (30, 40), (15, 20)]
        points = [GroundControlPoint(row, col, *(true @ (col, row))) for row, col in corners]
        points[-1].x += shift
        path = write(tmp_path / f"{name}.tif", np.ones((30, 40), np.uint8), Grid(30, 40))
        with rasterio.open(path, "r+") as dataset:
            dataset.gcps = points, CRS.from_epsg(32650)
    with open_scene(tmp_path / "straight.tif") as scene:
        assert scene.grid.crs == CRS.from_epsg(32650) and scene.grid.transform.almost_equals(true, precision=1e-4)
        assert scene.resolution_m == pytest.approx(2, rel=1e-3)
    with pytest.raises(LandsegError, match=r"bent\.tif.*5 ground control points.*gdalwarp"), open_scene(tmp_path / "bent.tif"):
        pass


def test_a_resolution_is_true_metres_or_unknown(tmp_path: Path) -> None:
    for name, grid, metres in (
        ("utm.tif", grid_of(8, 8), 2.0), ("bare.tif", Grid(8, 8), None),
        ("degrees.tif", Grid(8, 8, Affine(1e-5, 0, 10, 0, -1e-5, 60), CRS.from_epsg(4326)), 0.789),
    ):  # fmt: skip
        with open_scene(write(tmp_path / name, np.ones((8, 8), np.uint8), grid)) as scene:
            assert scene.resolution_m == (None if metres is None else pytest.approx(metres, rel=2e-3))


def test_what_is_no_scene_is_said(tmp_path: Path) -> None:
    (tmp_path / "text.tif").write_text("no raster at all")
    stored(tmp_path / "radar.tif", np.ones((1, 4, 4), np.complex64))
    whole = write(tmp_path / "whole.tif", np.random.default_rng(0).integers(0, 256, (600, 600), dtype=np.uint8), grid_of(600, 600))
    (tmp_path / "short.tif").write_bytes(whole.read_bytes()[:150_000])
    for name, words in (("text.tif", "it cannot be read"), ("gone.tif", "no such file"), ("radar.tif", "bands of complex64"),
                        ("short.tif", "it cannot be read")):  # fmt: skip
        with pytest.raises(LandsegError, match=f"{name}: {words}"), open_scene(tmp_path / name) as scene:
            scene.read()
    with open_scene(whole) as scene:
        for asked in ({"window": Window(0, 0, 601, 1)}, {"window": Window(0, 0, 0, 5)}, {"bands": [2]}, {"bands": []}):
            with pytest.raises(LandsegError, match=r"whole\.tif"):
                scene.read(**asked)


def test_threads_read_one_scene_and_open_others(tmp_path: Path) -> None:
    array = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    path = write(tmp_path / "a.tif", array, Grid(64, 64))

    def job(i: int) -> bool:
        window = Window(i % 48, 3 * i % 48, 16, 16)
        with open_scene(path) as own:
            return bool(
                (own.read(window)[0][:, :, 0] == array[window.slices]).all()
                and (scene.read(window)[0][:, :, 0] == array[window.slices]).all()
            )

    with open_scene(path) as scene, ThreadPoolExecutor(4) as pool:
        assert all(pool.map(job, range(40)))


def test_a_scene_that_is_closed_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", np.ones((64, 64), np.uint8), Grid(64, 64))
    with open_scene(path) as scene:
        pass
    assert scene.names == (None,) or scene.bands == 1, "what is known stays known"
    for ask in (scene.read, lambda: scene.labels, lambda: scene.read(Window(0, 0, 4, 4), [1])):
        with pytest.raises(LandsegError, match=r"a\.tif: it is read after it was closed.*within"):
            ask()


def test_a_scene_is_not_closed_while_it_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", np.ones((64, 64), np.uint8), Grid(64, 64))
    within, go_on = Event(), Event()
    with ThreadPoolExecutor(1) as pool, open_scene(path) as scene:
        plain = scene._values

        def slow(*given: Any) -> np.ndarray:
            within.set()
            assert go_on.wait(20)
            return plain(*given)

        scene._values = slow  # type: ignore[method-assign]
        reading = pool.submit(scene.read)
        assert within.wait(20)
        closing = Thread(target=scene.close)
        closing.start()
        closing.join(0.05)
        assert closing.is_alive(), "it waits"
        go_on.set()
        closing.join(20)
        assert not closing.is_alive() and (reading.result()[0] == 1).all()


def test_what_gdal_keeps_is_bounded(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", np.ones((8, 8), np.uint8), grid_of(8, 8))
    with open_scene(path) as scene:
        scene.read()
        assert get_gdal_config("GDAL_CACHEMAX") <= CACHE_BYTES


def test_tags_lie_in_the_file(tmp_path: Path) -> None:
    with rasterio.open(write(tmp_path / "a.tif", np.ones((4, 4), np.uint8), grid_of(4, 4), tags={"scene": "north 北"})) as dataset:
        assert dataset.tags()["scene"] == "north 北"
