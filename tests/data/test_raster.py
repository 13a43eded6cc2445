"""Rasters come back as they were written: values, place, nodata, palette; and what is no raster is said to be none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS

from landseg.core.classes import make_classes, palette
from landseg.core.errors import LandsegError
from landseg.core.grid import Grid, Window
from landseg.data.raster import read, write


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
