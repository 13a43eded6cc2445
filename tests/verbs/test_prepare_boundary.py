"""`cut.boundary_m`: outlines are the last class, on the tiles' own grid, and everything else stays as it is without."""

from __future__ import annotations

import logging
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import shapely
from affine import Affine
from rasterio.crs import CRS

from landseg.core.errors import LandsegError
from landseg.core.grid import Grid
from landseg.data import raster
from landseg.data.boundary import COLOURS
from landseg.data.dataset import open_dataset
from landseg.data.fields import write_fields
from landseg.data.tiles import decode_codes, read_bytes
from landseg.verbs.prepare import prepare

LIST = {"classes": "background,field", "class_column": "class_name", "background": "background"}


@pytest.fixture(scope="module")
def farmland(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("farmland")
    write_fields(folder, 2, 2, 96, 96)
    return folder


def labels_of(data: Path) -> dict[str, np.ndarray]:
    return {tile.name: decode_codes(read_bytes(tile.label)) for tile in open_dataset(data).tiles if tile.label}


def make(farmland: Path, out: Path, **options: Any) -> Any:
    return prepare([str(farmland / "*.tif")], out, labels=str(farmland / "*.geojson"), tile=32, **{**LIST, **options})


def test_outlines_are_the_last_class_and_nothing_else_changes(farmland: Path, tmp_path: Path) -> None:
    plain, made = make(farmland, tmp_path / "plain"), make(farmland, tmp_path / "made", settings=["cut.boundary_m=4"])
    assert plain.classes == ("background", "field") and made.classes == ("background", "field", "boundary")
    info = open_dataset(tmp_path / "made").info
    assert [item.name for item in info.classes] == list(made.classes) and len({item.colour for item in info.classes}) == 3
    assert [item.colour for item in info.classes[:2]] == [item.colour for item in open_dataset(tmp_path / "plain").info.classes]
    before, after = labels_of(tmp_path / "plain"), labels_of(tmp_path / "made")
    assert before.keys() == after.keys() and len(after) == 18
    for name, label in after.items():
        assert (label[label != 2] == before[name][label != 2]).all() and (label[before[name] == 255] == 255).all()
    assert made.class_pixels["boundary"] == sum((label == 2).sum() for label in after.values()) > 500
    assert sum(made.class_pixels.values()) == sum(plain.class_pixels.values())


def test_outlines_are_drawn_on_coarse_tiles_and_not_resampled_away(tmp_path: Path) -> None:
    """A majority of four by four pixels would leave nothing of a line of one."""
    grid = Grid(128, 128, Affine(2, 0, 500_000, 0, -2, 4_000_000), CRS.from_epsg(32650))
    raster.write(tmp_path / "a.tif", np.full((128, 128, 3), 9, np.uint8), grid)
    fields = [shapely.box(500_000 + left, 3_999_000, 500_000 + right, 4_001_000) for left, right in pairwise([-40, 89, 181, 400])]
    names = np.array(["wheat", "wheat", "maize"], object)
    layer = tmp_path / "l.gpkg"
    pyogrio.raw.write(layer, shapely.to_wkb(np.array(fields)), [names], ["crop"], crs="EPSG:32650", geometry_type="Polygon")
    made = prepare(
        tmp_path / "a.tif", tmp_path / "d", labels=layer, class_column="crop", tile=16, resolution=8.0, settings=["cut.boundary_m=1"]
    )
    assert made.classes == ("maize", "wheat", "boundary") and made.pairs == 4
    found = labels_of(tmp_path / "d")
    whole = np.block([[found[f"a/{row:04d}_{col:04d}"] for col in range(2)] for row in range(2)])
    # Pixels of 8 m: of all centres, 92 m and 180 m lie within four metres of the outlines at 89 m and 181 m.
    assert (whole == whole[0]).all() and "".join(map(str, whole[0])) == "1" * 11 + "2" + "1" * 10 + "2" + "0" * 9


def test_labels_go_on_across_the_seam_of_two_scenes(tmp_path: Path) -> None:
    """A field that ends just beyond a scene has its boundary in it."""
    west, below = 500_000, 4_000_000 - 64
    for name, left, wide in (("west", west, 32), ("east", west + 64, 32), ("both", west, 64)):
        grid = Grid(32, wide, Affine(2, 0, left, 0, -2, below + 64), CRS.from_epsg(32650))
        raster.write(tmp_path / f"{name}.tif", np.full((32, wide, 3), 9, np.uint8), grid)
    layer = tmp_path / "l.gpkg"
    fields = [shapely.box(west + 10.5, below + 6.5, west + 62.5, below + 50.5), shapely.box(west + 90.5, below, west + 140, below + 30.5)]
    columns = [np.array(["field", "field"], object)]
    pyogrio.raw.write(layer, shapely.to_wkb(np.array(fields)), columns, ["class_name"], crs="EPSG:32650", geometry_type="Polygon")
    for out, names in (("two", ("west", "east")), ("one", ("both",))):
        scenes = [tmp_path / f"{name}.tif" for name in names]
        prepare(scenes, tmp_path / out, labels=layer, tile=32, settings=["cut.boundary_m=8"], **LIST)
    two, one = labels_of(tmp_path / "two"), labels_of(tmp_path / "one")
    assert (two["east/0000_0000"][8:24, 0] == 2).all(), "the field ends 1.5 m to the west of it"
    assert (two["east/0000_0000"] == one["both/0000_0001"]).all() and (two["west/0000_0000"] == one["both/0000_0000"]).all()


def test_its_colour_is_no_other_class_s(farmland: Path, tmp_path: Path) -> None:
    classes = tmp_path / "classes.yaml"
    taken = COLOURS[0]
    classes.write_text(f"- {{id: 0, name: background, colour: '{taken}'}}\n- {{id: 1, name: field, colour: '#00ff00'}}\n", encoding="utf-8")
    make(farmland, tmp_path / "d", settings=["cut.boundary_m=4"], classes=classes)
    assert [item.colour for item in open_dataset(tmp_path / "d").info.classes] == [taken, "#00ff00", COLOURS[1]]


def test_a_line_narrower_than_a_pixel_is_one_pixel_and_said(farmland: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "landseg"):
        made = make(farmland, tmp_path / "d", settings=["cut.boundary_m=0.5"])
    assert "outlines of 0.5 m are narrower than a pixel of its tiles (2 m), and one pixel wide" in caplog.text
    assert made.class_pixels["boundary"] > 500


def test_what_has_no_outlines_is_refused_in_one_line(farmland: Path, tmp_path: Path) -> None:
    scene = sorted(farmland.glob("*.tif"))[0]
    _, grid, _ = raster.read(scene)
    labels = raster.write(tmp_path / "label.tif", np.ones((96, 96), np.uint8), grid)
    layer = tmp_path / "l.gpkg"
    box = shapely.box(*shapely.bounds(shapely.Point(grid.transform @ (48, 48)).buffer(50)))
    words = np.array(["Boundary"], object)
    pyogrio.raw.write(layer, shapely.to_wkb([box]), [words], ["kind"], crs="EPSG:32650", geometry_type="Polygon")
    cases: list[tuple[str, dict[str, Any]]] = [
        (r"cut.boundary_m: the labels are rasters \(.*label\.tif\).*polygons, one an object.*gdal_polygonize", {"labels": labels}),
        (r"cut.boundary_m: there is a class named Boundary already", {"labels": layer, "classes": None, "class_column": "kind"}),
        (r"cut.boundary_m: there is a class named boundary already", {"classes": "background,field,boundary"}),
        (r"cut.boundary_m: 255 classes without it", {"classes": ",".join(["background", "field", *(f"c{i}" for i in range(253))])}),
        (r"cut.boundary_m: -1", {"settings": ["cut.boundary_m=-1"]}),
        (r"cut.boundary_m: '?nan", {"settings": ["cut.boundary_m=.nan"]}),
        (r"cut.boundary_m: given without --tile", {"tile": None, "class_column": None, "background": None}),
        (r"--labels: none given", {"labels": None, "classes": None, "class_column": None, "background": None}),
    ]
    for words_of, options in cases:
        given = {"labels": str(farmland / "*.geojson"), "tile": 32, "settings": ["cut.boundary_m=4"], **LIST, **options}
        if options.get("labels") == labels:
            given |= {"class_column": None}
        with pytest.raises(LandsegError, match=words_of):
            prepare([scene], tmp_path / "d", **given)
        assert not (tmp_path / "d").exists()
