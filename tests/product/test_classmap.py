"""Fractions that lie beside a class raster are taken as others write them: a softmax in float32 passes 1 by its rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from rasterio.crs import CRS

from landseg.core.errors import LandsegError
from landseg.core.grid import Grid, Window
from landseg.data.raster import write
from landseg.product.classmap import FRACTIONS, open_fractions

GRID = Grid(1, 5, Affine(2, 0, 5e5, 0, -2, 4e6), CRS.from_epsg(32650))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_fractions_that_rounding_took_beyond_their_ends_are_at_them(tmp_path: Path, dtype: str) -> None:
    values = np.array([[1 + 4e-7, 1, -4e-7, 0.25, np.nan]]).astype(dtype)
    path = write(tmp_path / "a.tif", values, GRID)
    with open_fractions(path, GRID, "probabilities") as fractions:
        found, known = fractions.read(Window(0, 0, 1, 5))
    assert found.tolist() == [[FRACTIONS, FRACTIONS, 0, FRACTIONS // 4, 0]]
    assert known.tolist() == [[True, True, True, True, False]]


@pytest.mark.parametrize("value", [1.00001, -0.00001])
def test_fractions_further_beyond_are_refused(tmp_path: Path, value: float) -> None:
    path = write(tmp_path / "a.tif", np.full((1, 5), value, np.float32), GRID)
    with open_fractions(path, GRID, "probabilities") as fractions, pytest.raises(LandsegError, match="values beyond 1, 0 to 1"):
        fractions.read(Window(0, 0, 1, 5))
