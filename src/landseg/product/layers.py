"""Parcels as a layer in a file of geographic information systems. It makes no polygons; colours are `core.qgis`'.

The format follows the ending. The same parcels give the same bytes: no time is written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pyogrio
import pyproj
import shapely
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError, FieldError, GeometryError
from pyproj.exceptions import ProjError

from landseg.core.errors import LandsegError
from landseg.core.files import replacing, unwritable
from landseg.core.progress import progress
from landseg.product.parcels import Parcels

FORMATS = {
    ".gpkg": "GPKG", ".parquet": "GeoParquet", ".geoparquet": "GeoParquet", ".fgb": "FlatGeobuf", ".geojson": "GeoJSON", ".json": "GeoJSON",
}  # fmt: skip
"""Endings and what is written under them."""

LAYER = "parcels"
"""The layer's name, where the format has one."""

_DATE = "1970-01-01T00:00:00.000Z"
"""What a GeoPackage, which must have a time of its last change, says: the same bytes each time."""

_JSON_DIGITS = "9"
"""Decimals of a degree in GeoJSON: a tenth of a millimetre. Seven, as RFC 7946 suggests, are a centimetre, a seventh of a drone's pixel."""

_BATCH = 1 << 13
"""Parcels encoded at a time: Arrow holds at most 2 GB of polygons in one batch, 16,000 vertices a parcel on average."""

_SCHEMA = pa.schema(
    [
        ("class_id", pa.int32()), ("class_name", pa.string()), ("area_m2", pa.float64()), ("perimeter_m", pa.float64()),
        ("confidence", pa.float64()), ("geometry", pa.binary()),
    ]
)  # fmt: skip
"""The attributes of the contract, and the polygons."""

_ERRORS = (DataSourceError, DataLayerError, FeatureError, FieldError, GeometryError)


def format_of(path: Path) -> str:
    """The format that a path's ending names.

    Raises:
        LandsegError: It names none.
    """
    ending = path.suffix.lower()
    if ending not in FORMATS:
        found = f"its ending is {ending}" if ending else "it has no ending"
        raise LandsegError(path, found, ", ".join(FORMATS), f"for example --out {path.with_suffix('.gpkg').name}")
    return FORMATS[ending]


def write(path: Path, parcels: Parcels, provenance: Mapping[str, str]) -> Path:
    """Write parcels with their attributes, whole or not at all; an older file is replaced.

    Args:
        path: Its ending chooses the format; GeoJSON is in WGS 84, the others in the parcels' CRS.
        parcels: What to write.
        provenance: What they were made of and how, for the metadata of formats that have some (GeoPackage, GeoParquet); no times.

    Returns:
        `path`.

    Raises:
        LandsegError: The ending is unknown, or the file cannot be written.
    """
    kind = format_of(path)
    if kind == "GeoJSON":
        _require_earth(path, parcels)
    with replacing(path) as partial:
        # GDAL wants the ending that it knows; so the name of the unfinished file has it too.
        made = partial.with_name(f"{partial.name}{path.suffix.lower()}")
        try:
            if kind == "GeoParquet":
                _write_parquet(made, parcels, provenance)
            else:
                _write_gdal(made, kind, parcels, provenance)
            os.replace(made, partial)
            if kind == "GPKG":
                for ending in ("-wal", "-shm", "-journal"):  # of the file that is replaced; SQLite would apply them to this one
                    path.with_name(path.name + ending).unlink(missing_ok=True)
        except _ERRORS as error:
            raise unwritable(path, OSError(0, str(error).splitlines()[0].replace(str(made), path.name)[:160])) from error
        finally:
            with suppress(OSError):
                made.unlink()
    return path


def _require_earth(path: Path, parcels: Parcels) -> None:
    """Refuse what has no place in WGS 84, such as another planet.

    Raises:
        LandsegError: The parcels' CRS does not lead there.
    """
    try:
        pyproj.Transformer.from_crs(pyproj.CRS.from_wkt(parcels.crs.to_wkt()), 4326)
    except ProjError as error:
        instead = f"write another format, for example --out {path.with_suffix('.gpkg').name}"
        raise LandsegError(path, f"{parcels.crs.to_string()[:60]} does not lead there", "WGS 84, as GeoJSON is", instead) from error


def _stream(parcels: Parcels) -> pa.RecordBatchReader:
    """The parcels as Arrow batches, made one at a time, with a bar."""
    names = np.full(256, "", object)
    for i, item in parcels.classes.items():
        names[i] = item.name
    unknown = np.full(len(parcels.class_id), np.nan)
    confidence = unknown if parcels.confidence is None else parcels.confidence

    def batch(part: slice) -> pa.RecordBatch:
        ids = parcels.class_id[part]
        values = [
            pa.array(ids, pa.int32()),
            pa.array(names[ids], pa.string()),
            pa.array(parcels.area_m2[part]),
            pa.array(parcels.perimeter_m[part]),
            pa.array(confidence[part], from_pandas=True),
            pa.array(shapely.to_wkb(parcels.polygons[part]), pa.binary()),
        ]
        return pa.RecordBatch.from_arrays(values, schema=_SCHEMA)

    parts = [slice(start, start + _BATCH) for start in range(0, len(parcels.polygons), _BATCH)]
    batches = (batch(part) for part in progress(parts, "writing parcels", len(parts), "batches"))
    return pa.RecordBatchReader.from_batches(_SCHEMA, batches)


def _write_gdal(path: Path, kind: str, parcels: Parcels, provenance: Mapping[str, str]) -> None:
    options: dict[str, Any] = {}
    if kind == "GPKG":
        options = {"layer_metadata": dict(provenance)}
    elif kind == "GeoJSON":
        options = {"RFC7946": "YES", "COORDINATE_PRECISION": _JSON_DIGITS}
    with _settings({"OGR_CURRENT_DATE": _DATE, "OGR_SQLITE_SYNCHRONOUS": "OFF"}):
        pyogrio.raw.write_arrow(
            _stream(parcels), str(path), layer=LAYER, driver=kind, geometry_name="geometry", geometry_type="Polygon",
            crs=parcels.crs.to_wkt(), **options,
        )  # fmt: skip


def _write_parquet(path: Path, parcels: Parcels, provenance: Mapping[str, str]) -> None:
    """GeoParquet. Source: GeoParquet 1.1.0, Open Geospatial Consortium."""
    column: dict[str, Any] = {
        "encoding": "WKB", "geometry_types": ["Polygon"], "crs": pyproj.CRS.from_wkt(parcels.crs.to_wkt()).to_json_dict(),
    }  # fmt: skip
    if len(parcels.polygons):
        column["bbox"] = [float(value) for value in shapely.total_bounds(parcels.polygons)]
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    schema = _SCHEMA.with_metadata({"geo": json.dumps(geo), "landseg": json.dumps(dict(provenance))})
    with pyarrow.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in _stream(parcels):
            writer.write_batch(batch)


@contextmanager
def _settings(options: dict[str, str]) -> Iterator[None]:
    """GDAL's settings for the time of a block."""
    former = {key: pyogrio.get_gdal_config_option(key) for key in options}
    pyogrio.set_gdal_config_options(options)
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options(former)
