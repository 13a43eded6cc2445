"""The verb `parcels`: a class raster → polygons without gaps or overlaps. It composes; the work is in `product.parcels`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from landseg import __version__
from landseg.core.errors import LandsegError
from landseg.core.files import refuse_existing, require_writable, write_text
from landseg.core.qgis import parcel_style
from landseg.product.classmap import open_classes
from landseg.product.layers import format_of, write
from landseg.product.parcels import outline


@dataclass(frozen=True)
class Outlined:
    """What `parcels` made.

    Args:
        out: The layer.
        style: The QGIS style beside it.
        parcels: How many.
        area_m2: Class name → ground area.
        specks: Areas smaller than asked for that were given to their neighbours.
        has_confidence: Whether a confidence raster lay beside the class raster.
    """

    out: Path
    style: Path
    parcels: int
    area_m2: dict[str, float]
    specks: int
    has_confidence: bool

    def as_json(self) -> dict[str, Any]:
        """The document of ``--json``."""
        return {
            "out": str(self.out),
            "style": str(self.style),
            "parcels": self.parcels,
            "area_m2": self.area_m2,
            "specks": self.specks,
            "confidence": self.has_confidence,
        }

    def as_text(self) -> str:
        """Lines for a person."""
        total = sum(self.area_m2.values())
        lines = [f"{self.out}: {self.parcels:,} parcels, {total / 1e4:,.2f} ha"]
        lines += [f"  {area / 1e4:14,.2f} ha {area / total:7.2%}  {name}" for name, area in self.area_m2.items() if total]
        if self.specks:
            lines.append(f"  {self.specks:,} specks were given to their neighbours")
        return "\n".join(lines)


def parcels(
    classes: str | Path,
    out: str | Path,
    *,
    min_area_m2: float = 0.0,
    tolerance_m: float = 0.0,
    overwrite: bool = False,
) -> Outlined:
    """Make polygons of a class raster: a valid coverage, without gaps or overlaps.

    Args:
        classes: A class raster, such as ``predict`` makes: one band of ids, 255 and nodata are no class. Where ``<stem>_confidence.tif``
            lies beside ``<stem>_classes.tif``, parcels have a mean confidence, 0 to 1.
        out: The layer to write: ``.gpkg``, ``.parquet``, ``.fgb`` or ``.geojson`` (in WGS 84); and a ``.qml`` beside it.
        min_area_m2: Smaller areas are given to the neighbour with the longest common border; 0 keeps all. True metres, whatever the CRS.
        tolerance_m: Borders lose details up to about this size, each shared border once; 0 keeps the pixels' edges. The outer boundary of
            the mapped area stays as it is.
        overwrite: Replace an earlier result.

    Returns:
        What was made.

    Raises:
        LandsegError: The raster is no class raster or has no place on the globe, the ending names no format, or `out` exists or cannot be
            written.
    """
    target = Path(out)
    for option, value in (("--min-area-m2", min_area_m2), ("--tolerance-m", tolerance_m)):
        if not (math.isfinite(value) and value >= 0):
            raise LandsegError(option, f"{value:g}", "0 or more", "give it in true metres, or leave it out")
    format_of(target)
    style = target.with_suffix(".qml")
    _refuse_inputs(target, style, classes)
    for path in (target, style):
        refuse_existing(path, overwrite=overwrite)
        if path.is_dir():
            raise LandsegError(path, "it is a folder", "the path of a file", f"for example --out {path / 'parcels.gpkg'}")
    with open_classes(classes):  # what is no class raster is refused before a folder is made
        require_writable(target)
    made = outline(classes, min_area_m2=min_area_m2, tolerance_m=tolerance_m)
    provenance = {
        "software": f"landseg {__version__}",
        "source": Path(classes).name,
        "min_area_m2": f"{min_area_m2:g}",
        "tolerance_m": f"{tolerance_m:g}",
    }
    write(target, made, provenance)
    write_text(style, parcel_style(made.classes.values()))
    return Outlined(target, style, len(made.polygons), made.area_by_class(), made.specks, made.confidence is not None)


def _refuse_inputs(target: Path, style: Path, classes: str | Path) -> None:
    """Refuse, even with ``--overwrite``, to replace the class raster or the style that `predict` put beside it.

    Raises:
        LandsegError: The layer or its style would lie there.
    """
    instead = f"for example --out {target.stem.removesuffix('_classes')}_parcels{target.suffix}"
    if target.resolve() == Path(classes).resolve():
        raise LandsegError(target, "it is the class raster itself", "another place for the layer", instead)
    try:
        is_raster_style = "<rasterrenderer" in style.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return  # there is none
    if is_raster_style:
        raise LandsegError(style, "it is the style of a raster, and the layer's would replace it", "a layer of another name", instead)
