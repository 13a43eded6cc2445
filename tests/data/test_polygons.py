"""Polygons come out of every format alike, mended where they cross themselves, and what cannot be used is said."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas
import numpy as np
import pyarrow.parquet
import pytest
import shapely
from shapely import box

from landseg.core.errors import LandsegError
from landseg.data.polygons import read_polygons

BOXES = [box(i, 0, i + 1, 2) for i in range(3)]


def frame(geometries: list[shapely.Geometry], crs: object = 32650, **columns: list[object]) -> geopandas.GeoDataFrame:
    return geopandas.GeoDataFrame(columns, geometry=geometries, crs=crs)


def save(frame: geopandas.GeoDataFrame, path: Path) -> str:
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_file(path)
    return str(path)


@pytest.mark.parametrize("ending", [".gpkg", ".shp", ".fgb", ".geojson", ".parquet"])
def test_every_format_gives_the_same(tmp_path: Path, ending: str) -> None:
    crs = 4326 if ending == ".geojson" else 32650
    path = save(frame(BOXES, crs, zone=["1", "b", "b"], other=[1, 2, 3]), tmp_path / f"a b{ending}")
    found = read_polygons(path, ["missing", "zone"])
    order = np.argsort(shapely.bounds(found.geometries)[:, 0])  # FlatGeobuf sorts its features
    assert shapely.equals(found.geometries[order], np.array(BOXES)).all() and found.column == "zone"
    assert found.values is not None and found.values[order].tolist() == ["1", "b", "b"]
    assert found.crs.to_epsg() == crs and found.fields >= {"zone", "other"} and found.repaired == found.without_area == 0


def test_numbers_are_words_and_missing_ones_are_empty(tmp_path: Path) -> None:
    path = save(frame(BOXES, id=[3.0, None, 2.5]), tmp_path / "a.gpkg")
    found = read_polygons(path, ["id"])
    assert found.values is not None and found.values.tolist() == ["3", "", "2.5"]


def test_what_crosses_itself_is_mended_and_what_has_no_area_left_out(tmp_path: Path) -> None:
    bow = shapely.Polygon([(0, 0), (2, 2), (2, 0), (0, 2)])
    mixed = shapely.MultiPolygon([box(5, 5, 6, 6), box(8, 8, 9, 9)])
    path = save(frame([bow, shapely.Point(1, 1), None, shapely.Polygon(), mixed]), tmp_path / "a.gpkg")
    found = read_polygons(path, [])
    assert shapely.area(found.geometries).tolist() == [2, 2] and shapely.is_valid(found.geometries).all()
    assert found.repaired == 1 and found.without_area == 3 and found.values is None


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_lies_nowhere_is_left_out(tmp_path: Path, bad: float) -> None:
    with np.errstate(invalid="ignore"):
        nowhere = shapely.from_wkt(f"POLYGON ((0 0, {bad} 2, 2 0, 0 0))")
    for ending in (".gpkg", ".parquet"):
        found = read_polygons(save(frame([BOXES[0], nowhere]), tmp_path / f"a{ending}"), [])
        assert shapely.area(found.geometries).tolist() == [2] and (found.repaired, found.without_area) == (0, 1)


def test_all_layers_are_read_in_the_crs_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "a.gpkg"
    place = geopandas.GeoSeries([box(5e5, 4e6, 5e5 + 100, 4e6 + 100)], crs=32650)
    frame(list(place), zone=["a"]).to_file(path, layer="one")
    frame(list(place.to_crs(4326)), 4326, zone=["b"]).to_file(path, layer="two")
    found = read_polygons(str(path), ["zone"])
    assert found.crs.to_epsg() == 32650 and shapely.bounds(found.geometries[1]) == pytest.approx(place.total_bounds, abs=1e-3)


@pytest.mark.parametrize("ending", [".gpkg", ".parquet"])
def test_an_empty_layer_is_no_fault(tmp_path: Path, ending: str) -> None:
    found = read_polygons(save(frame(BOXES, zone=["a", "b", "c"]).iloc[:0], tmp_path / f"a{ending}"), ["zone"])
    assert len(found.geometries) == 0 and found.values is not None and len(found.values) == 0


def test_what_cannot_be_used_is_said(tmp_path: Path) -> None:
    points = save(frame([shapely.Point(0, 0)]), tmp_path / "points.gpkg")
    nowhere = save(frame(BOXES, None), tmp_path / "nowhere.parquet")
    plain = tmp_path / "plain.parquet"
    frame(BOXES).drop(columns="geometry").assign(a=1).to_parquet(plain)
    (tmp_path / "text.gpkg").write_text("no layer")
    strange = tmp_path / "strange.parquet"
    table = pyarrow.parquet.read_table(save(frame(BOXES), strange))
    about = json.loads(table.schema.metadata[b"geo"])
    about["columns"]["geometry"]["crs"] = {"name": "somewhere"}
    pyarrow.parquet.write_table(table.replace_schema_metadata({b"geo": json.dumps(about).encode()}), strange)
    for path, words in (
        (str(strange), "its CRS is not known"),
        (points, "1 features without an area"), (nowhere, "no CRS"), (str(plain), "no geometry column"),
        (str(tmp_path / "text.gpkg"), "cannot be read"), (str(tmp_path / "none.gpkg"), "no such file"),
    ):  # fmt: skip
        with pytest.raises(LandsegError, match=words):
            read_polygons(path, [])
    with pytest.raises(LandsegError, match="no column zone, one of kind"):
        read_polygons(save(frame(BOXES, kind=["a"] * 3), tmp_path / "kind.gpkg"), ["zone"], is_required=True)
