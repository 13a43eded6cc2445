"""A map against a reference: what `landseg evaluate MAP --against PARCELS` does. It composes; the scores are `scoring`'s."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import shapely
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError, FieldError, GeometryError

from landseg.core.columns import columns
from landseg.core.errors import LandsegError
from landseg.core.files import replacing, require_writable, unwritable, write_json
from landseg.core.settings import ScoreConfig
from landseg.data.burn import SUFFIXES
from landseg.data.pairing import RASTERS
from landseg.data.polygons import PARQUET
from landseg.scoring.confusion import Scores, scores
from landseg.scoring.intervals import Interval, intervals
from landseg.scoring.matching import LEAST_IOU
from landseg.scoring.objects import LEFT_OUT, NOT_SCORED, ObjectScores, score_objects
from landseg.scoring.rasters import block_matrices, classes_of
from landseg.scoring.sides import OWN_COLUMN, Matching, Source, is_layer, match_classes, on_one_plane, read_layer, read_raster

log = logging.getLogger("landseg")

TOLERANCE_PX, TOLERANCE_M = 2, 1.0
"""Tolerance of outlines: pixels of the map, or of the reference where that alone is a raster; metres where neither is."""

MAPS = RASTERS | SUFFIXES | frozenset(PARQUET)
"""Endings of maps and references."""

OBJECTS = "objects.gpkg"
"""The layer of matched, missed and extra objects in the folder of ``--out``."""

_GATES = ("precision", "recall", "f1", "f1_50_95", "pq", "sq", "rq", "boundary_precision", "boundary_recall", "boundary_f1")
_PIXEL_GATES = ("miou", "overall_accuracy", "kappa", "iou")
_ERRORS = (DataSourceError, DataLayerError, FeatureError, FieldError, GeometryError)
_HEADLINES = (
    ("precision", "precision"), ("recall", "recall"), ("F1", "f1"), ("PQ", "pq"), ("SQ", "sq"), ("over", "over_segmentation"),
    ("under", "under_segmentation"), ("boundary F1", "boundary_f1"), ("area error", "area_error"),
)  # fmt: skip


@dataclass(frozen=True)
class ScoredMap:
    """What a map is worth against a reference.

    Args:
        map: As it was given.
        reference: As it was given.
        objects: Scores of objects; None where pixels alone were counted.
        pixels: Scores of pixels, of a raster against a raster; None else.
        pixel_intervals: 95 % intervals of those.
        unmatched: ``map`` and ``reference`` → classes that the other does not have.
        notes: What a reader must know, in sentences.
        out: The layer of objects, where one was written.
    """

    map: str
    reference: str
    objects: ObjectScores | None
    pixels: Scores | None
    pixel_intervals: dict[str, Interval | None]
    unmatched: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]
    out: Path | None = None

    def as_json(self) -> dict[str, Any]:
        """The document of ``--json``: objects' scores at the top; those of pixels beside them and, whole, under ``pixels``."""
        found: dict[str, Any] = {"map": self.map, "reference": self.reference}
        if self.pixels is not None:
            spans = {name: None if span is None else list(span) for name, span in self.pixel_intervals.items()}
            pixels = {**self.pixels.as_json(), "intervals": spans}
            found |= {**pixels, "pixels": pixels}
        if self.objects is not None:
            found |= self.objects.as_json()
        unmatched = {side: list(names) for side, names in self.unmatched.items()}
        return {**found, "unmatched_classes": unmatched, "notes": list(self.notes), "out": None if self.out is None else str(self.out)}

    def as_text(self) -> str:
        """Tables, notes, and where the layer lies."""
        lines = [*self._object_lines(), *([""] if self.objects and self.pixels else []), *self._pixel_lines()]
        return "\n".join([*lines, *self.notes, *([] if self.out is None else [str(self.out)])])

    def value(self, name: str) -> float | None:
        """A score by the name that ``--require`` has for it.

        Raises:
            KeyError: There is no such score.
        """
        score, _, of = name.partition("/")
        if score in _PIXEL_GATES:
            if self.pixels is None:
                raise KeyError(name)
            single = {"miou": self.pixels.miou, "overall_accuracy": self.pixels.overall_accuracy, "kappa": self.pixels.kappa}
            return self.pixels.iou[of] if score == "iou" else single[score]
        if self.objects is None:
            raise KeyError(name)
        return self.objects.classes[of][score] if of else self.objects.overall[score]

    def _object_lines(self) -> list[str]:
        found = self.objects
        if found is None:
            return []
        rows = [["class", "map", "reference", "matched", "95 % of F1", *(title for title, _ in _HEADLINES)]]
        total = {key: sum(counts[key] for counts in found.counts.values()) for key in ("map_objects", "reference_objects", "matched")}
        for name, values, counts, span in (
            *((name, found.classes[name], found.counts[name], found.intervals[f"f1/{name}"]) for name in found.classes),
            ("all objects", found.overall, total, found.intervals["f1"]),
        ):
            numbers = [f"{counts[key]:,}" for key in ("map_objects", "reference_objects", "matched")]
            rows.append([name, *numbers, _span(span), *(_number(values[key]) for _, key in _HEADLINES)])
        level = f"matched at IoU > {LEAST_IOU:g}; outlines within {found.tolerance_m:.3g} m; intervals from {found.blocks} blocks "
        return [*columns(rows, "l" + "r" * (len(rows[0]) - 1)), f"{level}of {found.block_m:,.0f} m"]

    def _pixel_lines(self) -> list[str]:
        found = self.pixels
        if found is None:
            return []
        rows = [["class", "IoU", "95 % interval", "precision", "recall", "F1"]]
        for name in found.names:
            values = [_number(score[name]) for score in (found.precision, found.recall, found.f1)]
            rows.append([name, _number(found.iou[name]), _span(self.pixel_intervals.get(f"iou/{name}")), *values])
        for title, key, value in (("mIoU", "miou", found.miou), ("overall accuracy", "overall_accuracy", found.overall_accuracy)):
            rows.append([title, _number(value), _span(self.pixel_intervals.get(key)), "", "", ""])
        return [*columns(rows, "lrrrrr"), f"{found.pixels:,} pixels that both have a class for"]


def only_map(given: str | Path | Sequence[str | Path], data: object, *, split: str | None, part: str, tta: str | None) -> str:
    """The map that ``--against`` scores, when nothing else is asked for.

    Raises:
        LandsegError: There are several, it is a folder, or a model's option is given with it.
    """
    paths = [given] if isinstance(given, str | Path) else list(given)
    if data is not None or len(paths) != 1:
        named = ", ".join(map(str, paths if data is None else [*paths, data]))
        raise LandsegError("--against", f"{named} to score", "one map", "landseg evaluate MAP --against PARCELS, or without it MODEL DATA")
    if Path(paths[0]).is_dir() and Path(paths[0]).suffix.lower() != ".gdb":
        needed = "a class raster or a layer of polygons"
        raise LandsegError(paths[0], "it is a folder", needed, "name a map; a model is scored by: landseg evaluate MODEL DATA")
    for option, value in (("--split", split), ("--part", None if part == "val" else part), ("--tta", tta)):
        if value is not None:
            raise LandsegError(option, f"{value} with --against", "a model, of which a map knows nothing", "leave it out")
    return str(paths[0])


def require_model(given: Sequence[Path], data: str | Path | None) -> Path:
    """The data set that a model is scored on; a map is refused where no ``--against`` says that it is one.

    Raises:
        LandsegError: There is no data set, or a raster or a layer in place of a model.
    """
    for path in map(str, given):
        if Path(path).suffix.lower() in MAPS and Path(path).is_file():
            todo = f"to score a map: landseg evaluate {path} --against {data or 'PARCELS'}"
            raise LandsegError(path, "it is a raster or a layer", "a run folder or a model folder", todo)
    if data is None:
        needed = "the dataset folder that the model is scored on"
        raise LandsegError("DATA", "it is not named", needed, "landseg evaluate MODEL DATA, or MAP --against PARCELS for a map")
    return Path(data)


def score_map(map_path: str, reference: str, config: ScoreConfig, *, require: str | None = None, out: Path | None = None) -> ScoredMap:
    """Score a map against reference polygons, or a reference raster.

    Args:
        map_path: A class raster, or a layer of polygons.
        reference: A layer of polygons of any CRS, or a class raster.
        config: The section `score`: which column tells the class, within what distance outlines agree, and so on.
        require: A gate, such as ``f1=0.5``, ``pq/building=0.4`` or, of two rasters, ``miou=0.7``.
        out: Folder for the layer of objects and the scores; nothing is written when None.

    Raises:
        LandsegError: A file cannot be read, the two share no class or no ground; with `is_gate`, a score is below the one required.
    """
    gate = _parse_gate(require)
    places = [out / OBJECTS, out / "scores.json"] if out is not None else []
    for place in places:
        if place.resolve() in (Path(map_path).resolve(), Path(reference).resolve()):
            raise LandsegError(place, "it is what is scored", "another folder for the result", "choose another --out")
        require_writable(place)
    if places and places[0].exists() and not places[1].exists():
        strange = f"it is there, and no result of this command: no {places[1].name} lies beside it"
        raise LandsegError(places[0], strange, "a folder for the result", "choose another --out")
    are_rasters = not is_layer(map_path) and not is_layer(reference)
    if config.class_column is not None and are_rasters:
        raise LandsegError("score.class_column", f"{config.class_column}, of two rasters", "a vector layer", "leave it out")
    found: ObjectScores | None = None
    result = _score_pixels(map_path, reference, config) if are_rasters else ScoredMap(map_path, reference, None, None, {}, {}, ())
    if not are_rasters or config.objects:
        sources = _read(map_path, reference, config.class_column)
        matching = match_classes(*sources, config.only, config.classes)
        sides = on_one_plane(*sources, matching, (config.map_extent, config.reference_extent))
        found = score_objects(*sides, matching.names, config.tolerance_m or _tolerance(sources), config.block_m)
        notes = tuple(_notes(sources, matching, found))
        result = replace(result, objects=found, unmatched=_unmatched(matching), notes=notes, out=places[0] if places else None)
        if places:
            _write_objects(places[0], sources, found)
    if places:
        write_json(places[1], result.as_json())
    if gate is not None:
        _hold(gate, result)
    return result


def _read(map_path: str, reference: str, class_column: str | None) -> tuple[Source, Source]:
    named = [class_column] if class_column else []
    ours = read_layer(map_path, [*named, OWN_COLUMN]) if is_layer(map_path) else read_raster(map_path)
    wanted = named or [OWN_COLUMN]
    theirs = read_layer(reference, wanted, is_required=bool(named)) if is_layer(reference) else read_raster(reference)
    return ours, theirs


def _tolerance(sources: Sequence[Source]) -> float:
    return next((TOLERANCE_PX * source.resolution_m for source in sources if source.resolution_m), TOLERANCE_M)


def _score_pixels(map_path: str, reference: str, config: ScoreConfig) -> ScoredMap:
    """Scores of pixels over the classes of both rasters, and their intervals from blocks of ground."""
    ours, theirs = classes_of(map_path), classes_of(reference)
    matching = match_classes(ours, theirs, None, config.classes)
    names = [*matching.names, *(matching.only_map if config.classes is None else ())]
    of_reference = {item.number: int(k) for item, k in zip(theirs.classes, matching.of_reference, strict=True) if k >= 0}
    of_map = {item.number: int(k) for item, k in zip(ours.classes, matching.of_map, strict=True) if k >= 0}
    if config.classes is None:
        of_map |= {item.number: names.index(item.name) for item in ours.classes if item.number not in of_map}
    found = block_matrices(map_path, reference, _numbered(of_map), _numbered(of_reference), len(names), config.block_m)
    if not found.any():
        needed = "two rasters of the same ground"
        raise LandsegError(reference, f"no pixel of {map_path} has a class in both", needed, "check the CRS and the place of both files")
    notes = tuple(_pixel_notes(matching, is_whole=config.classes is None))
    return ScoredMap(map_path, reference, None, scores(found.sum(0), names), intervals(found, names), _unmatched(matching), notes)


def _unmatched(matching: Matching) -> dict[str, tuple[str, ...]]:
    return {"map": matching.only_map, "reference": matching.only_reference}


def _pixel_notes(matching: Matching, *, is_whole: bool) -> list[str]:
    """What a reader of pixels' scores alone must know; `is_whole`: all classes of both are scored."""
    said = []
    if matching.only_map:
        end = "so that all their pixels are wrong" if is_whole else "and score.classes does not name them: their pixels are left out"
        said.append(f"not in the reference, {end}: {', '.join(matching.only_map)}")
    if matching.only_reference:
        said.append(f"not in the map, so that all their pixels are missed: {', '.join(matching.only_reference)}")
    return said


def _numbered(values: dict[int | None, int]) -> dict[int, int]:
    return {number: k for number, k in values.items() if number is not None}


def _notes(sources: Sequence[Source], matching: Matching, found: ObjectScores) -> list[str]:
    ours, theirs = sources
    said = [f"{source.path}: {note}" for source in sources for note in source.notes]
    for source, side in ((ours, "map"), (theirs, "reference")):
        if not source.classes and not source.is_raster and len(source.polygons):
            taken = ", ".join(matching.names)
            said.append(f"{source.path} has no class column: its {len(source.polygons):,} objects are taken for {taken}")
        if found.left_out[side]:
            said.append(
                f"{found.left_out[side]:,} objects of the {side} lie for the most part on ground that the other does not know: left out"
            )
    if matching.only_map:
        said.append(f"not scored, for the reference does not have them: {', '.join(matching.only_map)}")
    if matching.only_reference:
        said.append(f"not in the map, so that all their objects are missed: {', '.join(matching.only_reference)}")
    return said


def _write_objects(path: Path, sources: Sequence[Source], found: ObjectScores) -> None:
    """A GeoPackage of all scored objects in their own CRS, the map's and the reference's as a layer each, by what became of them.

    Raises:
        LandsegError: It cannot be written.
    """
    with replacing(path) as partial:
        made = partial.with_name(f"{partial.name}.gpkg")  # GDAL wants the ending that it knows
        try:
            for side, lonely, source in (("map", "extra", sources[0]), ("reference", "missed", sources[1])):
                state = found.state[side]
                keep = state != NOT_SCORED
                words = np.where(state >= 0, "matched", np.where(state == LEFT_OUT, "left out", lonely)).astype(object)[keep]
                names = np.array([item.name for item in source.classes] or [next(iter(found.classes), "")], object)
                pyogrio.raw.write(
                    str(made), shapely.to_wkb(_multi(source.polygons[keep])), [words, names[source.kind[keep]],
                    found.iou[side][keep]], np.array(["result", "class_name", "iou"]), layer=side, driver="GPKG",
                    geometry_type="MultiPolygon", crs=source.crs.to_wkt(), append=side != "map",
                )  # fmt: skip
            made.replace(partial)
        except _ERRORS as error:
            raise unwritable(path, OSError(0, str(error).splitlines()[0].replace(str(made), path.name)[:160])) from error
        finally:
            made.unlink(missing_ok=True)


def _parse_gate(require: str | None) -> tuple[str, float] | None:
    if require is None:
        return None
    found = re.fullmatch(rf"((?:{'|'.join(_GATES)})(?:/.+)?|miou|overall_accuracy|kappa|iou/.+)=([0-9]*\.?[0-9]+)", require.strip())
    if not found:
        needed = f"{', '.join((*_GATES, *_PIXEL_GATES[:3]))}, and its least value"
        raise LandsegError("--require", f"{require!r}", needed, "for example --require f1=0.5 or pq/building=0.4")
    return found[1], float(found[2])


def _hold(gate: tuple[str, float], result: ScoredMap) -> None:
    name, least = gate
    try:
        value = result.value(name)
    except KeyError as error:
        names = ", ".join((result.objects.classes if result.objects else None) or (result.pixels.iou if result.pixels else {}))
        found = f"{name!r}, and the classes {names}"
        needed = "a score that was computed: of pixels for two rasters, of objects for all but score.objects=false"
        raise LandsegError("--require", found, needed, "name one of --json's") from error
    if value is None or value < least:
        raise LandsegError(
            f"{name} of {result.map}", _number(value), f"at least {least:g} was required", "mend the map, or lower the gate",
            is_gate=True, result=result,
        )  # fmt: skip


def _multi(polygons: np.ndarray) -> np.ndarray:
    """Every feature as a multipolygon, so that a layer has one type of geometry."""
    parts, owner = shapely.get_parts(polygons, return_index=True)
    return np.asarray(shapely.multipolygons(parts, indices=owner)) if len(parts) else np.zeros(0, object)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _span(span: Interval | None) -> str:
    return "–" if span is None else f"{span[0]:.4f} – {span[1]:.4f}"
