"""Windows cover every pixel and stay inside; a crop lies where its pixels lay."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS

from landseg.core.errors import LandsegError
from landseg.core.grid import Grid, Window


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_windows_cover_every_pixel_and_stay_inside(data: st.DataObject) -> None:
    height, width, size = (data.draw(st.integers(1, 70)) for _ in range(3))
    stride = data.draw(st.none() | st.integers(1, size))
    times = np.zeros((height, width), int)
    windows = list(Grid(height, width).windows(size, stride))
    for window in windows:
        assert window.row >= 0 and window.col >= 0
        assert window.row + window.height <= height and window.col + window.width <= width
        assert (window.height, window.width) == (min(size, height), min(size, width))
        times[window.slices] += 1
    assert times.min() >= 1
    assert len(set(windows)) == len(windows)
    assert windows == sorted(windows, key=lambda window: (window.row, window.col))
    if stride is None and height % size == 0 and width % size == 0:
        assert times.max() == 1


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 400), st.integers(1, 90), st.data())
def test_neighbouring_windows_are_never_further_apart_than_the_stride(length: int, size: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, size))
    cols = [window.col for window in Grid(1, length).windows(size, stride)]
    assert all(0 < b - a <= stride for a, b in pairwise(cols))


@pytest.mark.parametrize(("size", "stride"), [(0, None), (-1, None), (8, 0), (8, 9)])
def test_sizes_that_leave_gaps_are_refused(size: int, stride: int | None) -> None:
    with pytest.raises(LandsegError, match="1 ≤ stride ≤ size"):
        list(Grid(32, 32).windows(size, stride))


def test_a_crop_keeps_its_place_on_earth() -> None:
    grid = Grid(100, 80, Affine(2.0, 0, 500_000, 0, -2.0, 4_000_000), CRS.from_epsg(32650))
    crop = grid.crop(Window(10, 30, 20, 15))
    assert crop.shape == (20, 15) and crop.crs == grid.crs and crop.is_georeferenced
    assert crop.transform @ (0, 0) == grid.transform @ (30, 10) == (500_060, 3_999_980)
    assert crop.transform @ (15, 20) == grid.transform @ (45, 30)


def test_a_grid_without_a_place_says_so() -> None:
    assert not Grid(4, 4).is_georeferenced
    assert not Grid(4, 4, crs=CRS.from_epsg(32650)).is_georeferenced
