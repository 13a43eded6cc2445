"""Layers hold what was put in, in every format, byte for byte the same each time."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import geopandas
import numpy as np
import pyogrio
import pytest
import shapely
from rasterio.crs import CRS

from landseg.core.classes import LandClass
from landseg.core.errors import LandsegError
from landseg.core.files import replacing
from landseg.product.layers import FORMATS, write
from landseg.product.parcels import Parcels

CLASSES = {0: LandClass(id=0, name="耕地 & <field>", colour="#e3b448"), 4: LandClass(id=4, name='"roof"', colour="#c8553d")}
PROVENANCE = {"software": "landseg", "source": "scene_classes.tif"}


@pytest.fixture
def parcels() -> Parcels:
    """A square with a hole, and what fills the hole."""
    x, y = 500_000.0, 4_000_000.0
    hole = shapely.box(x + 10, y + 10, x + 20, y + 20)
    polygons = np.array([shapely.box(x, y, x + 40, y + 30) - hole, hole])
    return Parcels(
        polygons, np.array([0, 4], np.uint8), shapely.area(polygons), shapely.length(polygons), np.array([0.75, np.nan]), CLASSES,
        CRS.from_epsg(32650), 0,
    )  # fmt: skip


@pytest.mark.parametrize("ending", FORMATS)
def test_a_layer_holds_its_parcels(tmp_path: Path, parcels: Parcels, ending: str) -> None:
    path = write(tmp_path / f"p{ending}", parcels, PROVENANCE)
    frame = geopandas.read_parquet(path) if "parquet" in ending else geopandas.read_file(path)
    frame = frame.sort_values("class_id", ignore_index=True)  # FlatGeobuf puts neighbours together
    assert [column for column in frame.columns if column != "geometry"] == [
        "class_id",
        "class_name",
        "area_m2",
        "perimeter_m",
        "confidence",
    ]
    assert frame.class_id.tolist() == [0, 4] and frame.class_name.tolist() == ["耕地 & <field>", '"roof"']
    assert frame.area_m2.tolist() == [1100.0, 100.0] and frame.perimeter_m.tolist() == [180.0, 40.0]
    assert frame.confidence[0] == 0.75 and np.isnan(frame.confidence[1])
    assert frame.crs.to_epsg() == (4326 if "json" in ending else 32650)
    back = frame.geometry.to_crs(32650).values
    assert shapely.hausdorff_distance(np.asarray(back), parcels.polygons).max() < (1e-3 if "json" in ending else 1e-9)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("ending", FORMATS)
def test_the_same_parcels_give_the_same_bytes(tmp_path: Path, parcels: Parcels, ending: str) -> None:
    one, other = (write(tmp_path / folder / f"p{ending}", parcels, PROVENANCE) for folder in ("a", "b"))
    assert one.read_bytes() == other.read_bytes()


def test_nothing_to_write_is_a_layer_without_parcels(tmp_path: Path, parcels: Parcels) -> None:
    none = np.zeros(0)
    empty = Parcels(np.zeros(0, object), np.zeros(0, np.uint8), none, none, None, {}, parcels.crs, 0)
    for ending in FORMATS:
        path = write(tmp_path / f"p{ending}", empty, {})
        assert len(geopandas.read_parquet(path) if "parquet" in ending else geopandas.read_file(path)) == 0


def test_without_a_confidence_raster_the_column_is_null(tmp_path: Path, parcels: Parcels) -> None:
    bare = Parcels(parcels.polygons, parcels.class_id, parcels.area_m2, parcels.perimeter_m, None, CLASSES, parcels.crs, 0)
    write(tmp_path / "p.geojson", bare, {})
    features = json.loads((tmp_path / "p.geojson").read_text(encoding="utf-8"))["features"]
    assert [feature["properties"]["confidence"] for feature in features] == [None, None]


def test_geojson_follows_rfc_7946(tmp_path: Path, parcels: Parcels) -> None:
    document = json.loads(write(tmp_path / "p.geojson", parcels, {}).read_text(encoding="utf-8"))
    assert "crs" not in document
    for feature in document["features"]:
        shell, *holes = (shapely.LinearRing(ring) for ring in feature["geometry"]["coordinates"])
        assert shell.is_ccw and not any(hole.is_ccw for hole in holes)
        assert 116 < shell.centroid.x < 118 and 36 < shell.centroid.y < 37


def test_formats_with_metadata_say_where_parcels_come_from(tmp_path: Path, parcels: Parcels) -> None:
    info = pyogrio.read_info(write(tmp_path / "p.gpkg", parcels, PROVENANCE), layer="parcels")
    assert info["layer_metadata"] == PROVENANCE
    text = write(tmp_path / "p.parquet", parcels, PROVENANCE).read_bytes()
    assert b"scene_classes.tif" in text


def test_an_unknown_ending_is_refused_with_those_that_are_known(tmp_path: Path, parcels: Parcels) -> None:
    for name in ("p.shp", "p"):
        with pytest.raises(LandsegError, match=r"\.gpkg, \.parquet.*for example --out p\.gpkg"):
            write(tmp_path / name, parcels, {})


@pytest.mark.parametrize("ending", [".gpkg", ".parquet", ".fgb", ".geojson"])
def test_what_cannot_be_written_is_one_line_and_the_old_file_stays(tmp_path: Path, parcels: Parcels, ending: str) -> None:
    path = tmp_path / f"p{ending}"
    path.write_text("old", encoding="utf-8")
    with replacing(path) as partial:
        partial.write_text("old", encoding="utf-8")
        blocked = partial.with_name(f"{partial.name}{ending}")
    blocked.mkdir()  # where the unfinished file would be
    with pytest.raises(LandsegError, match=r"cannot be written") as error:
        write(path, parcels, {})
    assert "\n" not in str(error.value) and path.read_text(encoding="utf-8") == "old"


def test_a_journal_that_a_killed_program_left_is_not_played_into_the_new_file(tmp_path: Path, parcels: Parcels) -> None:
    """QGIS keeps changes in ``-wal`` beside a GeoPackage; SQLite would apply those of the old file to its successor."""
    path = write(tmp_path / "p.gpkg", parcels, PROVENANCE)
    wal = path.with_name("p.gpkg-wal")
    with closing(sqlite3.connect(path)) as database:
        database.execute("pragma journal_mode = wal")
        database.execute("create table other (a)")
        database.commit()
        left = wal.read_bytes()
    fresh = write(path, parcels, PROVENANCE).read_bytes()
    wal.write_bytes(left)
    assert write(path, parcels, PROVENANCE).read_bytes() == fresh
    with closing(sqlite3.connect(path)) as database:
        assert not database.execute("select * from sqlite_master where name = 'other'").fetchall()


def test_geojson_of_another_planet_is_refused_in_one_line(tmp_path: Path, parcels: Parcels) -> None:
    moon = replace(parcels, crs=CRS.from_string("+proj=longlat +R=1737400 +no_defs"))
    with pytest.raises(LandsegError, match=r"p\.geojson.*WGS 84.*--out p\.gpkg") as error:
        write(tmp_path / "p.geojson", moon, {})
    assert "\n" not in str(error.value)
