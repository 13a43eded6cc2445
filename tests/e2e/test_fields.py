"""Touching fields from polygons to parcels: what a network that makes no mistake would say, from `cut.boundary_m` to `evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import landseg
from landseg.data.fields import FIELD, write_fields


def test_planted_fields_come_back_from_their_boundary(tmp_path: Path) -> None:
    scene = write_fields(tmp_path, 4, 1, 256, 256)[0]
    truth = tmp_path / "fields_000.geojson"
    found: dict[float | None, Any] = {}
    for width_m in (None, 2.0):
        data = tmp_path / f"data-{width_m}"
        landseg.prepare(
            scene, data, labels=truth, classes=f"background,{FIELD}", class_column="class_name", background="background", tile=256,
            settings=[] if width_m is None else [f"cut.boundary_m={width_m}"],
        )  # fmt: skip
        (label,) = data.glob("labels/*/*.tif")  # one tile: a class raster of the whole scene
        landseg.parcels(label, out=data / "parcels.gpkg", min_area_m2=160, instances=None if width_m is None else "boundary")
        objects: Any = landseg.evaluate(data / "parcels.gpkg", against=truth).objects
        found[width_m] = objects.classes[FIELD] | objects.counts[FIELD]
    assert found[None]["reference_objects"] > 20 and found[None]["f1"] < 0.3, "without it, touching fields are one"
    assert found[2.0]["f1"] > 0.7 and found[2.0]["under_segmentation"] < 0.15 and found[2.0]["boundary_f1"] > 0.7
