"""Polygons of a vector file of any format, GeoParquet included, and the values of their class column. It draws and scores nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pyogrio
import pyproj
import shapely
from pyogrio.errors import DataLayerError, DataSourceError, FieldError
from pyogrio.raw import read as read_raw
from pyproj.exceptions import ProjError
from rasterio.crs import CRS
from rasterio.errors import CRSError

from landseg.core.errors import LandsegError
from landseg.data.ground import move, same_crs

PARQUET = (".parquet", ".geoparquet")
"""Endings of GeoParquet, which the GDAL inside pyogrio's wheels does not read."""

_ERRORS = (DataSourceError, DataLayerError, FieldError, ValueError, UnicodeDecodeError, OSError)
_POLYGON, _MULTIPOLYGON, _COLLECTION = 3, 6, 7
_LONGITUDE_FIRST = "OGC:CRS84"
"""What GeoParquet without a CRS is in. Source: GeoParquet 1.1.0."""


@dataclass(frozen=True)
class Polygons:
    """The polygons of a file, in its order; a feature is one polygon or multipolygon.

    Args:
        geometries: (N,) valid shapely polygons and multipolygons with an area, in units of the CRS.
        values: (N,) words of the class column, empty where a feature has none; None where there is no such column.
        column: The class column; None where there is none.
        crs: Of the first layer; others are moved to it.
        repaired: How many were invalid (crossed themselves) and were made valid.
        without_area: Features that are left out: points, lines, and what is empty or has no area.
        fields: Names of the columns that every layer has.
    """

    geometries: np.ndarray
    values: np.ndarray | None
    column: str | None
    crs: CRS
    repaired: int
    without_area: int
    fields: frozenset[str] = frozenset()


def read_polygons(path: str, columns: Sequence[str], *, is_required: bool = False) -> Polygons:
    """Read every layer of a vector file that has geometry.

    Args:
        path: As OGR takes it, or GeoParquet by its ending.
        columns: Names of the class column; the first that every layer has is read.
        is_required: Whether one of them must be there.

    Raises:
        LandsegError: The file cannot be read, has no layer with geometry, no CRS, features but no areas, or lacks a required column.
    """
    is_parquet = Path(path).suffix.lower() in PARQUET
    try:
        layers, column = _parquet(path, columns) if is_parquet else _ogr(path, columns)
    except _ERRORS as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        found = f"it cannot be read ({reason})" if Path(path).exists() else "no such file"
        raise LandsegError(path, found, "a vector layer that OGR opens, or GeoParquet", "check the path") from error
    if is_required and column is None:
        has = ", ".join(dict.fromkeys(name for layer in layers for name in layer.fields)) or "(it has none)"
        raise LandsegError(path, f"no column {' or '.join(columns)}", f"one of {has}", "name it with --set score.class_column=…")
    crs = layers[0].crs
    for layer in layers:
        if layer.crs is None or crs is None:
            raise LandsegError(path, "it has no CRS", "a place on earth", "assign it: ogr2ogr -a_srs EPSG:… OUT IN")
    assert crs is not None
    moved = [
        layer.geometries if layer.crs is None or same_crs(layer.crs, crs) else np.asarray(move(layer.geometries, layer.crs, crs))
        for layer in layers
    ]
    geometries, repaired = _areal(np.concatenate(moved))
    keep = shapely.area(geometries) > 0
    if len(keep) and not keep.any():
        raise LandsegError(path, f"{len(keep):,} features without an area", "polygons", "name a layer of polygons")
    fields = frozenset.intersection(*(frozenset(layer.fields) for layer in layers))
    values = np.concatenate([layer.values for layer in layers])[keep] if column else None
    return Polygons(geometries[keep], values, column, crs, repaired, int((~keep).sum()), fields)


@dataclass(frozen=True)
class _Layer:
    geometries: np.ndarray  # (N,) as stored, None where missing
    values: np.ndarray  # (N,) words; empty ones without a column
    crs: CRS | None
    fields: tuple[str, ...]


def _ogr(path: str, columns: Sequence[str]) -> tuple[list[_Layer], str | None]:
    names = [str(name) for name, kind in pyogrio.list_layers(path) if kind is not None]
    if not names:
        raise LandsegError(path, "no layer with geometry in it", "a layer of polygons", "check what was exported")
    infos = [pyogrio.read_info(path, layer=name) for name in names]
    column = _column([tuple(map(str, info["fields"])) for info in infos], columns)
    layers = []
    for name, info in zip(names, infos, strict=True):
        meta, _, wkb, fields = read_raw(path, layer=name, columns=[column] if column else [], force_2d=True)
        geometries = _decoded(wkb if wkb is not None else np.zeros(0, object))
        layers.append(_Layer(geometries, _words(fields[0] if column else None, len(geometries)), _crs(meta["crs"]), tuple(info["fields"])))
    return layers, column


def _parquet(path: str, columns: Sequence[str]) -> tuple[list[_Layer], str | None]:
    """GeoParquet. Source: GeoParquet 1.1.0, Open Geospatial Consortium."""
    schema = pyarrow.parquet.read_schema(path)
    geo = json.loads((schema.metadata or {}).get(b"geo", b"{}"))
    primary = geo.get("primary_column")
    about = geo.get("columns", {}).get(primary)
    if about is None or about.get("encoding") != "WKB":
        raise LandsegError(path, "no geometry column in WKB", "GeoParquet", "write it with geopandas or GDAL, or name another format")
    fields = tuple(name for name in schema.names if name != primary)
    column = _column([fields], columns)
    table = pyarrow.parquet.read_table(path, columns=[primary, *([column] if column else [])])
    geometries = _decoded(np.asarray(table[primary].to_pylist(), object))
    values = np.asarray(table[column].to_pylist(), object) if column else None
    crs = about.get("crs", _LONGITUDE_FIRST)
    return [_Layer(geometries, _words(values, len(geometries)), _crs(crs), fields)], column


def _decoded(wkb: np.ndarray) -> np.ndarray:
    """Flat geometries, None where there is none."""
    with np.errstate(invalid="ignore"):  # `_areal` leaves out what has coordinates that are no numbers
        return np.asarray(shapely.force_2d(shapely.from_wkb(wkb, on_invalid="ignore")))


def _column(fields: Sequence[tuple[str, ...]], columns: Sequence[str]) -> str | None:
    return next((column for column in columns if all(column in names for names in fields)), None)


def _crs(text: Any) -> CRS | None:
    if not text:
        return None
    try:
        if isinstance(text, str):
            return CRS.from_user_input(text)
    except CRSError:
        pass  # PROJ may know what GDAL does not
    try:
        return CRS.from_wkt(pyproj.CRS.from_user_input(text).to_wkt())
    except (ProjError, CRSError) as error:
        raise ValueError(f"its CRS is not known: {str(error)[:80]}") from error


def _words(values: np.ndarray | None, count: int) -> np.ndarray:
    if values is None:
        return np.full(count, "", object)
    return np.array([_word(value) for value in values], object)


def _word(value: Any) -> str:
    """``3.0`` is ``3``; nothing for a missing one."""
    if value is None or (isinstance(value, float | np.floating) and not np.isfinite(value)):
        return ""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value).strip()


def _is_somewhere(geometries: np.ndarray) -> np.ndarray:
    """(N,) bool: whether every coordinate is a number: GEOS can neither mend nor cut what lies nowhere."""
    places, owner = shapely.get_coordinates(geometries, return_index=True)
    return np.asarray(np.bincount(owner, ~np.isfinite(places).all(1), minlength=len(geometries)) == 0)


def _areal(geometries: np.ndarray) -> tuple[np.ndarray, int]:
    """Valid polygons and multipolygons, empty where there is no area; and how many had to be made valid."""
    found = np.where(shapely.is_missing(geometries), shapely.Polygon(), geometries)
    found = np.where((shapely.get_dimensions(found) == 2) & _is_somewhere(found), found, shapely.Polygon())
    broken = np.flatnonzero(~shapely.is_valid(found))
    if len(broken):
        found[broken] = shapely.make_valid(found[broken])
    for i in np.flatnonzero(shapely.get_type_id(found) == _COLLECTION):
        parts = shapely.get_parts(found[i])
        found[i] = shapely.union_all(parts[shapely.get_dimensions(parts) == 2])
    return np.where(np.isin(shapely.get_type_id(found), (_POLYGON, _MULTIPOLYGON)), found, shapely.Polygon()), len(broken)
