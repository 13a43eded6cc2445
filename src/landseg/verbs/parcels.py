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
from landseg.product.backdrop import read_backdrop
from landseg.product.classmap import open_classes
from landseg.product.instances import Divided, class_id
from landseg.product.layers import format_of, write
from landseg.product.map_frame import frame_of
from landseg.product.map_page import is_map, write_map
from landseg.product.parcels import outline


@dataclass(frozen=True)
class Outlined:
    """What `parcels` made.

    Args:
        out: The layer.
        style: The QGIS style beside it.
        page: The page beside it.
        parcels: How many.
        area_m2: Class name → ground area.
        specks: Areas smaller than asked for that were given to their neighbours.
        has_confidence: Whether a confidence raster lay beside the class raster.
        divided: What became of the class that keeps parcels apart; None where none was named.
    """

    out: Path
    style: Path
    page: Path
    parcels: int
    area_m2: dict[str, float]
    specks: int
    has_confidence: bool
    divided: Divided | None = None

    def as_json(self) -> dict[str, Any]:
        """The document of ``--json``."""
        return {
            "out": str(self.out),
            "style": str(self.style),
            "page": str(self.page),
            "parcels": self.parcels,
            "area_m2": self.area_m2,
            "specks": self.specks,
            "confidence": self.has_confidence,
            **({} if self.divided is None else {"instances": self.divided.as_json()}),
        }

    def as_text(self) -> str:
        """Lines for a person."""
        total = sum(self.area_m2.values())
        lines = [f"{self.out}: {self.parcels:,} parcels, {total / 1e4:,.2f} ha"]
        lines += [f"  {area / 1e4:14,.2f} ha {area / total:7.2%}  {name}" for name, area in self.area_m2.items() if total]
        if self.specks:
            lines.append(f"  {self.specks:,} specks were given to their neighbours")
        if self.divided is not None:
            lines.append(f"  {self.divided.as_text()}")
        lines.append(f"  look at it: {self.page}")
        return "\n".join(lines)


def parcels(
    classes: str | Path,
    out: str | Path,
    *,
    min_area_m2: float = 0.0,
    tolerance_m: float = 0.0,
    smooth: bool = False,
    scene: str | Path | None = None,
    instances: str | None = None,
    overwrite: bool = False,
) -> Outlined:
    """Make polygons of a class raster: a valid coverage, without gaps or overlaps.

    Args:
        classes: A class raster, such as ``predict`` makes: one band of ids, 255 and nodata are no class. Where ``<stem>_confidence.tif``
            lies beside ``<stem>_classes.tif``, parcels have a mean confidence, 0 to 1.
        out: The layer to write: ``.gpkg``, ``.parquet``, ``.fgb`` or ``.geojson`` (in WGS 84); and a ``.qml`` and an ``.html``
            beside it.
        min_area_m2: Smaller areas are given to the neighbour with the longest common border; 0 keeps all. True metres, whatever the CRS.
        tolerance_m: Borders lose details up to about this size, each shared border once; 0 keeps the pixels' edges. The outer boundary of
            the mapped area stays as it is.
        smooth: Borders between parcels lose the stairs of the pixels; each leaves its place by less than half a pixel, and each parcel
            keeps its area. Then they are simplified, by a quarter of a pixel at least.
        scene: What the page shows beneath the parcels: the scene that the map was made of, or another of the same ground, of any grid and
            CRS.
        instances: Name of the class that was learnt to lie between parcels, ``boundary`` as `prepare` draws it: touching parcels of one
            class are then several, and its own pixels go to the parcels beside them. Where ``<stem>_probabilities.tif`` lies beside
            ``<stem>_classes.tif``, its probability decides, else its pixels. None makes parcels of all classes as they are.
        overwrite: Replace an earlier result.

    Returns:
        What was made.

    Raises:
        LandsegError: The raster is no class raster or has no place on the globe, it has no class `instances`, the ending names no
            format, `scene` is no raster of the same ground, or `out` exists or cannot be written.
    """
    target = Path(out)
    for option, value in (("--min-area-m2", min_area_m2), ("--tolerance-m", tolerance_m)):
        if not (math.isfinite(value) and value >= 0):
            raise LandsegError(option, f"{value:g}", "0 or more", "give it in true metres, or leave it out")
    format_of(target)
    style, page = target.with_suffix(".qml"), target.with_suffix(".html")
    _refuse_inputs(target, style, page, classes)
    for path in (target, style, page):
        refuse_existing(path, overwrite=overwrite)
        if path.is_dir():
            raise LandsegError(path, "it is a folder", "the path of a file", f"for example --out {path / 'parcels.gpkg'}")
    with open_classes(classes) as source:  # what is no class raster is refused before a folder is made
        frame = frame_of(source.grid)
        if instances is not None:
            class_id(source, instances)
    require_writable(target)
    backdrop = None if scene is None else read_backdrop(str(scene), frame)
    made = outline(classes, min_area_m2=min_area_m2, tolerance_m=tolerance_m, is_smooth=smooth, picture=frame.shape, instances=instances)
    provenance = {
        "software": f"landseg {__version__}",
        "source": Path(classes).name,
        "min_area_m2": f"{min_area_m2:g}",
        "tolerance_m": f"{tolerance_m:g}",
        "smooth": "yes" if smooth else "no",
        **({} if made.divided is None else {"instances": f"{made.divided.name}, by {made.divided.probabilities or 'its pixels'}"}),
    }
    write(target, made, provenance)
    write_text(style, parcel_style(made.classes.values()))
    made_of = {
        "Software": provenance["software"],
        "Class map": provenance["source"],
        **({} if scene is None else {"Ground": Path(scene).name}),
        "Layer": target.name,
        **({} if made.divided is None else {"Parcels": f"kept apart by {provenance['instances']}"}),
        "Specks below": f"{min_area_m2:g} m²" if min_area_m2 else "kept",
        "Borders": ("smoothed" if smooth else "along pixels") + (f", simplified by {tolerance_m:g} m" if tolerance_m else ""),
        "CRS": made.crs.to_string()[:200],
        "Areas": "on the ellipsoid of the CRS",
    }
    write_map(page, made, frame, title=Path(classes).stem.removesuffix("_classes"), made_of=made_of, backdrop=backdrop)
    return Outlined(target, style, page, len(made.polygons), made.area_by_class(), made.specks, made.confidence is not None, made.divided)


def _refuse_inputs(target: Path, style: Path, page: Path, classes: str | Path) -> None:
    """Refuse, even with ``--overwrite``, to replace the class raster, the style that `predict` put beside it, or a page of something else.

    Raises:
        LandsegError: The layer, its style or its page would lie there.
    """
    instead = f"for example --out {target.stem.removesuffix('_classes')}_parcels{target.suffix}"
    if target.resolve() == Path(classes).resolve():
        raise LandsegError(target, "it is the class raster itself", "another place for the layer", instead)
    if page.is_file() and not is_map(page):
        raise LandsegError(page, "it is a page of something else, and the layer's would replace it", "a layer of another name", instead)
    try:
        is_raster_style = "<rasterrenderer" in style.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return  # there is none
    if is_raster_style:
        raise LandsegError(style, "it is the style of a raster, and the layer's would replace it", "a layer of another name", instead)
