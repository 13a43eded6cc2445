"""Scenes in, tiles out: image and label of the same ground, whatever the labels were made of; and every misfit one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from rasterio.crs import CRS
from rasterio.features import shapes

from landseg.core.classes import make_classes
from landseg.core.errors import LandsegError
from landseg.core.grid import Grid
from landseg.data import raster, world
from landseg.data.dataset import open_dataset
from landseg.data.ground import move
from landseg.data.tiles import decode_codes, decode_image, read_bytes
from landseg.splitting.assignment import read_split
from landseg.verbs.prepare import prepare
from landseg.verbs.split import split

UTM = CRS.from_epsg(32650)
NAMES = "building,farmland,forest,road,water"


def write_world(folder: Path, count: int = 2, size: int = 96) -> tuple[list[Path], list[Path], list[world.Scene]]:
    """Invented scenes 100 km apart, and their label rasters."""
    made = [world.make_scene(seed, size, size) for seed in range(count)]
    images, labels = [], []
    for i, item in enumerate(made):
        grid = Grid(size, size, Affine(2, 0, 500_000 + 100_000 * i, 0, -2, 4_000_000), UTM)
        images.append(raster.write(folder / "images" / f"north_{i}.tif", item.image, grid))
        labels.append(raster.write(folder / "labels" / f"north_{i}_label.tif", item.truth, grid))
    return images, labels, made


def polygons_of(labels: list[Path], path: Path, crs: CRS = UTM) -> Path:
    """The labels as polygons, one a connected area."""
    found = []
    for label in labels:
        array, grid, _ = raster.read(label)
        found += [(shapely.geometry.shape(outline), int(value)) for outline, value in shapes(array[:, :, 0], transform=grid.transform)]
    geometries = move(np.array([item for item, _ in found], object), UTM, crs)
    values = np.array([NAMES.split(",")[value] for _, value in found], object)
    pyogrio.raw.write(path, shapely.to_wkb(geometries), [values], ["use"], crs=crs.to_wkt(), geometry_type="Polygon")
    return path


def tiles(data: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    dataset = open_dataset(data)
    return {tile.name: (decode_image(read_bytes(tile.image)), decode_codes(read_bytes(tile.label))) for tile in dataset.tiles if tile.label}


def test_tiles_are_the_scenes(tmp_path: Path) -> None:
    images, _, made = write_world(tmp_path)
    result = prepare([tmp_path / "images"], tmp_path / "data", labels=tmp_path / "labels", classes=NAMES, tile=32)
    assert result.pairs == result.images == 18 and result.dropped == {} and result.resolution_m == pytest.approx(2, rel=1e-3)
    found = tiles(tmp_path / "data")
    for i, item in enumerate(made):
        for row in range(3):
            for col in range(3):
                image, label = found[f"north_{i}/{row:04d}_{col:04d}"]
                here = np.s_[32 * row : 32 * row + 32, 32 * col : 32 * col + 32]
                assert (image == item.image[here]).all() and (label == item.truth[here]).all()
    total = sum((item.truth == 1).sum() for item in made)
    assert result.class_pixels["farmland"] == total
    with rasterio.open(tmp_path / "data" / "images" / "north_1" / "0001_0002.tif") as tile:
        assert tile.crs == UTM and tile.tags()["scene"] == "north_1"
        assert tile.transform == Affine(2, 0, 600_000 + 128, 0, -2, 4_000_000 - 64)
    with rasterio.open(tmp_path / "data" / "labels" / "north_1" / "0001_0002.tif") as tile:
        assert tile.nodata == 255 and tile.tags(1)["class_0"] == "building" and tile.transform.c == 600_128
        assert tile.colormap(1)[0][:3] == make_classes(NAMES.split(","))[0].rgb
    info = open_dataset(tmp_path / "data").info
    assert info.bands == ("red", "green", "blue") and info.resolution_m == pytest.approx(2, rel=1e-3) and info.scaling is None
    assert json.loads(json.dumps(result.as_json()))["scenes"][0]["labels"] == [str(tmp_path / "labels" / "north_0_label.tif")]
    assert "2 scenes, 2 m a pixel: north_0 9, north_1 9" in result.as_text()
    assert images[0].exists() and not (tmp_path / "data" / ".prepare").exists()


def test_polygons_give_the_same_tiles_as_rasters(tmp_path: Path) -> None:
    _, labels, _ = write_world(tmp_path, size=64)
    prepare([tmp_path / "images"], tmp_path / "a", labels=tmp_path / "labels", classes=NAMES, tile=32)
    expected = tiles(tmp_path / "a")
    polygons_of(labels, tmp_path / "l.gpkg")
    prepare([tmp_path / "images" / "*.tif"], tmp_path / "b", labels=tmp_path / "l.gpkg", classes=NAMES, class_column="use", tile=32)
    polygons_of(labels, tmp_path / "l.geojson", CRS.from_epsg(4326))
    prepare([tmp_path / "images"], tmp_path / "c", labels=tmp_path / "l.geojson", classes=NAMES, class_column="use", tile=32)
    for data, share in ((tmp_path / "b", 0.0), (tmp_path / "c", 0.02)):  # GeoJSON rounds to 7 digits: 1 cm
        found = tiles(data)
        assert found.keys() == expected.keys()
        assert all((found[name][0] == expected[name][0]).all() for name in expected)
        differs = np.mean([found[name][1] != expected[name][1] for name in expected])
        assert differs <= share


def test_outside_the_polygons_is_unlabelled_or_the_background(tmp_path: Path) -> None:
    images, _, _ = write_world(tmp_path, count=1)
    geometry = shapely.box(500_000, 4_000_000 - 64, 500_064, 4_000_000)
    path = tmp_path / "l.gpkg"
    pyogrio.raw.write(path, shapely.to_wkb([geometry]), [], [], crs="EPSG:32650", geometry_type="Polygon")
    result = prepare(images, tmp_path / "a", labels=path, classes="building", tile=32)
    assert (result.pairs, result.class_pixels) == (1, {"building": 1024}) and result.dropped == {"too little that is labelled": 8}
    result = prepare(images, tmp_path / "b", labels=path, classes="land,building", background="land", tile=32)
    assert (result.pairs, result.class_pixels) == (9, {"land": 8 * 1024, "building": 1024})


def test_a_resolution_is_made_while_cutting(tmp_path: Path) -> None:
    images, labels, made = write_world(tmp_path, count=1)
    x, y = move(shapely.Point(10, 50), CRS.from_epsg(4326), CRS.from_epsg(3857)).coords[0]
    grid = Grid(96, 96, Affine(1, 0, x, 0, -1, y), CRS.from_epsg(3857))  # 0.644 m a pixel
    raster.write(images[0], made[0].image, grid)
    raster.write(labels[0], made[0].truth, grid)
    result = prepare(images, tmp_path / "data", labels=labels[0], classes=NAMES, tile=16, resolution=1.288)
    assert result.resolution_m == 1.288
    with rasterio.open(tmp_path / "data" / "images" / "north_0" / "0001_0000.tif") as tile:
        assert tile.transform.a == pytest.approx(2, rel=2e-3) and tile.transform.f == pytest.approx(y - 32, abs=0.1)
    assert [scene.resolution_m for scene in result.scenes] == [pytest.approx(1.288)]


def test_tiles_of_squashed_pixels_state_no_resolution_and_square_ones_do(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A model of them is then shown other scenes as they are; one that knows its resolution is shown squares."""
    images, labels, made = write_world(tmp_path, count=1)
    grid = Grid(96, 96, Affine(1e-5, 0, 10, 0, -1e-5, 60), CRS.from_epsg(4326))
    raster.write(images[0], made[0].image, grid)
    raster.write(labels[0], made[0].truth, grid)
    options = {"labels": labels[0], "classes": NAMES, "tile": 32}
    assert prepare(images, tmp_path / "own", **options).resolution_m is None  # type: ignore[arg-type]
    assert "pixels 1.11 m high and 0.558 m wide, so its tiles show the ground squashed; --resolution 1.1 makes" in caplog.text
    caplog.clear()
    result = prepare(images, tmp_path / "square", resolution=1.0, **options)  # type: ignore[arg-type]
    assert result.resolution_m == 1.0 and open_dataset(tmp_path / "square").info.resolution_m == 1.0 and "squashed" not in caplog.text


def test_split_keeps_scenes_whole(tmp_path: Path) -> None:
    write_world(tmp_path, count=4, size=64)
    data = tmp_path / "data"
    prepare([tmp_path / "images"], data, labels=tmp_path / "labels", classes=NAMES, tile=32)
    for name, options in (("scene", {}), ("names", {"by": "group", "groups": "^[^/]+"})):
        split(data, val=0.25, name=name, **options)  # type: ignore[arg-type]
        placed = read_split(open_dataset(data), name).tiles
        parts: dict[str, set[str]] = {}
        for tile in placed:
            parts.setdefault(tile.tile.split("/")[0], set()).add(tile.part)
        assert len(placed) == 16 and all(len(of) == 1 for of in parts.values()) and set.union(*parts.values()) == {"train", "val"}


def test_codes_from_one_are_shifted_when_asked(tmp_path: Path) -> None:
    images, labels, made = write_world(tmp_path, count=1)
    _, grid, _ = raster.read(labels[0])
    raster.write(labels[0], made[0].truth + np.uint8(1), grid, nodata=0)
    with pytest.raises(LandsegError, match=r"code 5 in it, of 1, 2.*--mend"):
        prepare(images, tmp_path / "data", labels=labels[0], classes=NAMES, tile=32)
    result = prepare(images, tmp_path / "data", labels=labels[0], classes=NAMES, tile=32, mend=True)
    assert (tiles(tmp_path / "data")["north_0/0000_0000"][1] == made[0].truth[:32, :32]).all()
    assert result.reasons == ("codes count from 1, and are shifted by one",)


def test_names_may_come_from_the_labels(tmp_path: Path) -> None:
    images, labels, made = write_world(tmp_path, count=1)
    _, grid, _ = raster.read(labels[0])
    raster.write(labels[0], made[0].truth, grid, names=NAMES.split(","))
    assert prepare(images, tmp_path / "a", labels=labels[0], tile=32).classes == tuple(NAMES.split(","))
    path = polygons_of(labels, tmp_path / "l.gpkg")
    result = prepare(images, tmp_path / "b", labels=path, class_column="use", tile=32)
    assert result.classes == tuple(sorted({NAMES.split(",")[value] for value in np.unique(made[0].truth)}))


def test_scenes_without_labels_are_a_set_without(tmp_path: Path) -> None:
    images, _, _ = write_world(tmp_path, count=1)
    result = prepare(images, tmp_path / "data", tile=64)
    assert (result.images, result.pairs, result.classes) == (4, 0, ()) and open_dataset(tmp_path / "data").info.labels is None


def test_misfits_are_refused_in_one_line_and_leave_nothing(tmp_path: Path) -> None:
    images, labels, made = write_world(tmp_path)
    array, grid, _ = raster.read(labels[0])
    away = raster.write(tmp_path / "away.tif", array, Grid(96, 96, Affine(2, 0, 570_000, 0, -2, 4_000_000), UTM))
    bare = raster.write(tmp_path / "bare.tif", array, Grid(96, 96))
    grey = raster.write(tmp_path / "grey.tif", made[0].image[:, :, :1], grid)
    polygons = polygons_of(labels, tmp_path / "l.gpkg")
    empty = tmp_path / "empty.geojson"
    empty.write_text('{"type": "FeatureCollection", "features": []}')
    many = tmp_path / "many.gpkg"
    boxes = shapely.box(500_000, 3_999_900, np.linspace(500_001, 500_100, 256), 4_000_000)
    use = np.array([f"parcel {i}" for i in range(256)], object)
    pyogrio.raw.write(many, shapely.to_wkb(boxes), [use], ["use"], crs="EPSG:32650", geometry_type="Polygon")
    cases: list[tuple[str, dict[str, Any]]] = [
        (r"away\.tif: it shares no ground with .*labels x 570000.*image x 500000", {"labels": away}),
        (r"bare\.tif: it has no CRS, while .*north_0\.tif has EPSG:32650", {"labels": bare}),
        (r"grey\.tif: 1 bands uint8, while .*3 bands", {"labels": labels[0], "sources": [images[0], grey]}),
        (r"l\.gpkg: no column kind, one of use", {"labels": polygons, "class_column": "kind"}),
        (r"l\.gpkg: the class column holds", {"labels": polygons, "class_column": "use", "classes": "building,forest"}),
        (r"--class-column: none given, and 5 classes.*\(use\)", {"labels": polygons}),
        (r"many\.gpkg: column use holds 256 values, at most 255", {"labels": many, "class_column": "use", "classes": None}),
        (r"empty\.geojson: it holds no feature", {"labels": empty}),
        (r"--background: sea is no class", {"labels": labels[0], "background": "sea"}),
        (r"code \d in it", {"labels": labels[0], "classes": "building"}),
        (r"--classes: no class names", {"labels": labels[0], "classes": None}),
        (r"--tile: 4", {"labels": labels[0], "tile": 4}),
        (r"--labels: none given", {}),
        (r"no tile is left", {"labels": labels[0], "tile": 256}),
        (r"gone\.tif: it is not there", {"labels": labels[0], "sources": [tmp_path / "gone.tif"]}),
        (r"north_0\.tif: no band nir, one of 1 red, 2 green, 3 blue", {"labels": labels[0], "settings": ["cut.bands=[nir]"]}),
        (r"add --tile 256", {"labels": labels[0], "tile": None}),
        (r"--resolution: given without --tile", {"labels": labels[0], "tile": None, "resolution": 0.3}),
    ]
    for words, options in cases:
        given = {"sources": [images[0]], "classes": NAMES, "tile": 32} | options
        with pytest.raises(LandsegError, match=words):
            prepare(out=tmp_path / "data", **given)
        assert not (tmp_path / "data").exists(), words


def test_a_scene_without_labels_on_its_ground_is_named(tmp_path: Path) -> None:
    images, labels, _ = write_world(tmp_path)
    result = prepare(images, tmp_path / "data", labels=labels[1], classes=NAMES, tile=32)
    assert result.images == 9 and result.left_out == (f"{images[0]}: no labels on its ground",)


def test_sources_inside_the_result_are_left_alone(tmp_path: Path) -> None:
    images, labels, _ = write_world(tmp_path, count=1)
    data = tmp_path / "data"
    prepare(images, data, labels=labels[0], classes=NAMES, tile=48)
    tile, label = (data / role / "north_0" / "0000_0000.tif" for role in ("images", "labels"))
    for source, own in ((tile, labels[0]), (images[0], label)):
        with pytest.raises(LandsegError, match=r"0000_0000\.tif: it is a part of .*data.*choose another --out"):
            prepare([source], data, labels=own, classes=NAMES, tile=32, overwrite=True)
        assert tile.exists() and label.exists()


def test_bands_in_another_order_are_not_mixed(tmp_path: Path) -> None:
    images, _, made = write_world(tmp_path)
    for path, order in zip(images, (("red", "green", "nir"), ("nir", "red", "green")), strict=True):
        with rasterio.open(path, "r+") as scene:
            scene.descriptions = order
    with pytest.raises(LandsegError, match=r"north_1\.tif: bands nir, red, green, while .*north_0\.tif has red, green, nir.*cut\.bands"):
        prepare(images, tmp_path / "data", tile=48)
    prepare(images, tmp_path / "data", tile=48, settings=["cut.bands=[red]"])
    with rasterio.open(tmp_path / "data" / "images" / "north_1" / "0000_0000.tif") as tile:
        assert (tile.read(1) == made[1].image[:48, :48, 1]).all()


def test_bands_are_chosen_by_wavelength_whatever_their_order(tmp_path: Path) -> None:
    images, _, made = write_world(tmp_path)
    for path, centres in zip(images, ((664.6, 559.8, 842.0), (0.5602, 0.8425, 0.6646)), strict=True):
        with rasterio.open(path, "r+") as scene:
            scene.colorinterp = [rasterio.enums.ColorInterp.undefined] * 3
            for number, centre in enumerate(centres, 1):
                scene.update_tags(number, wavelength=centre, wavelength_units="nm" if centre > 1 else "Micrometers")
    result = prepare(images, tmp_path / "data", tile=96, settings=["cut.bands=[665nm,0.56um]"])
    assert result.bands == open_dataset(tmp_path / "data").info.bands == ("665nm", "560nm")
    for name, item, order in (("north_0", made[0], [0, 1]), ("north_1", made[1], [2, 0])):
        with rasterio.open(tmp_path / "data" / "images" / name / "0000_0000.tif") as tile:
            assert (np.moveaxis(tile.read(), 0, 2) == item.image[:, :, order]).all()
    with pytest.raises(LandsegError, match=r"north_0\.tif: no band at 490 nm, the nearest is 2 at 559\.8 nm"):
        prepare(images, tmp_path / "blue", tile=96, settings=["cut.bands=[490nm]"])


def test_a_set_is_replaced_only_when_asked_and_cut_the_same_again(tmp_path: Path) -> None:
    images, labels, _ = write_world(tmp_path, count=1)
    data = tmp_path / "data"

    def cut(**options: Any) -> dict[str, bytes]:
        prepare(images, data, labels=labels[0], classes=NAMES, tile=32, **options)
        return {path.relative_to(data).as_posix(): path.read_bytes() for path in sorted(data.rglob("*")) if path.is_file()}

    first = cut()
    with pytest.raises(LandsegError, match="it exists already"):
        cut()
    assert cut(overwrite=True) == first
