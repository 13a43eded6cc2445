"""A raster comes out as its strips went in, and its bytes do not tell how it was cut into them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS

from landseg.core.classes import make_classes, palette
from landseg.core.errors import LandsegError
from landseg.core.grid import Grid
from landseg.data.cog import Strips, read_reduced, read_strips

CLASSES = make_classes(["a & <b>", "水"])
GRID = Grid(700, 610, Affine(0.25, 0, 12.5, 0, -0.25, 47), CRS.from_epsg(4326))


def values(bands: int = 1) -> np.ndarray:
    blocks = np.random.default_rng(0).choice(np.array([0, 1, 255], np.uint8), (bands, 70, 61))
    return np.kron(blocks, np.ones((1, 10, 10), np.uint8))


def finish(folder: Path, cuts: list[int], array: np.ndarray, **options: object) -> Path:
    strips = Strips(folder / "work", "classes", GRID, list(pairwise([0, *cuts, 700])), [f"band {i}" for i in range(len(array))])
    for i, (begin, end) in reversed(list(enumerate(pairwise([0, *cuts, 700])))):
        strips.write(i, array[:, begin:end])
    strips.finish(folder / "a.tif", tags={"LANDSEG_MODEL": "x<y&z"}, **options)  # type: ignore[arg-type]
    return folder / "a.tif"


def test_bytes_do_not_tell_the_strips(tmp_path: Path) -> None:
    options = {"names": [item.name for item in CLASSES], "palette": palette(CLASSES)}
    made = [finish(tmp_path / str(i), cuts, values(), **options) for i, cuts in enumerate([[], [384], [1, 2, 511, 699]])]
    assert len({path.read_bytes() for path in made}) == 1
    with rasterio.open(made[0]) as dataset:
        assert (dataset.read() == values()).all() and (dataset.crs, dataset.transform) == (GRID.crs, GRID.transform)
        assert dataset.tags()["LANDSEG_MODEL"] == "x<y&z" and dataset.tags(1) == {"class_0": "a & <b>", "class_1": "水"}
        assert dataset.overviews(1) == [2] and dataset.descriptions == ("band 0",)
        assert set(np.unique(dataset.read(1, out_shape=(350, 305)))) == {0, 1, 255}, "an overview of classes holds classes"
    rebuilt = np.concatenate([rows for _, rows in read_strips(made[0], 128)])
    assert (rebuilt == values()[0]).all()
    reduced, transform = read_reduced(made[0], 350)
    assert reduced.shape == (350, 305) and transform.almost_equals(GRID.transform @ Affine.scale(2))


def test_bands_without_a_palette(tmp_path: Path) -> None:
    path = finish(tmp_path, [100, 300], values(3))
    with rasterio.open(path) as dataset:
        assert (dataset.read() == values(3)).all() and dataset.nodatavals == (255,) * 3
        assert dataset.descriptions == ("band 0", "band 1", "band 2") and not Path(f"{path}.aux.xml").exists()


def test_nothing_is_finished_without_all_strips(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"earlier")
    strips = Strips(tmp_path / "work", "classes", GRID, [(0, 500), (500, 700)])
    strips.write(0, values()[:, :500])
    assert strips.has(0) and not strips.has(1)
    with pytest.raises(LandsegError, match="it is missing"):
        strips.finish(tmp_path / "a.tif")
    strips.write(1, values()[:, 500:])
    (tmp_path / "work" / "classes-00000.tif").write_bytes(b"no raster")
    with pytest.raises(LandsegError):
        strips.finish(tmp_path / "a.tif")
    assert (tmp_path / "a.tif").read_bytes() == b"earlier"
