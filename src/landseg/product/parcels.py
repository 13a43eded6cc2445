"""A class raster → coverage-valid polygons: parcels that leave no gap and do not overlap. It writes no file.

The order makes it so: areas on the raster first, specks given away there, borders noded, polygons from them, and only then are borders
smoothed and simplified, each shared one once. Nothing depends on how many rows are read at a time.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import shapely
from rasterio.crs import CRS

from landseg.core.classes import LandClass
from landseg.core.earth import PixelAreas, pixel_area_m2, pixel_frame_m, polygon_measures
from landseg.core.errors import LandsegError
from landseg.core.files import human_bytes
from landseg.core.grid import Grid, Window
from landseg.core.machine import memory
from landseg.product.classmap import ClassMap, confidence_beside, fraction, open_classes, read_confidence
from landseg.product.components import NOTHING, OUTSIDE, Runs, find_runs, label
from landseg.product.instances import Divided, class_id, divide
from landseg.product.outlines import Outlines, trace
from landseg.product.smoothing import STEPS, border_length, smooth
from landseg.product.specks import Areas, merge

log = logging.getLogger("landseg")

_AREA_UNITS = 1 << 16
"""Parts of a pixel in which ground is counted: whole numbers, so that no sum depends on its order."""

_MOST_RUNS = 2**31 - 2
"""Runs are numbered by 32 bits."""

_LABEL_BYTES, _RUN_BYTES, _SIMPLIFYING_BYTES, _PARCEL_BYTES = 110, 250, 300, 2000
"""Memory that finding areas takes by run, and what polygons take at most: by run, by run while borders are simplified, and by parcel.

Source: measured, bench/records/memory/2026-11-23-parcels.
"""

_EDGE_BYTES = 250
"""Memory that smoothing takes at most by pixel edge of a ring, simplifying what it made included. Source: measured, 220 at 6.5 million."""

_FEWER = "give specks away with a larger --min-area-m2, or outline a part of it"
_NARROWER = "free some memory, or outline a part of it that is narrower"
"""What to do where memory is short: for parcels; and for the strips of a flood, which are as wide as the raster."""

_PLAN_STEPS = 1 << 24
"""Parts of its unit in which the plane of simplification is made: times 2^29 columns, or 2^23 in 64ths, they are exact in float64."""

_SMOOTH_TOLERANCE = 0.25
"""Pixels by which smoothed borders are simplified at least: what smoothing makes has a vertex for each pixel edge, most on one line."""

_UNEVEN = 0.05
"""By how much pixels may differ in ground area before it is said that a tolerance holds in the raster's middle."""


@dataclass(frozen=True)
class Parcels:
    """Polygons without gaps or overlaps, in the order of their first pixels.

    Args:
        polygons: (N,) shapely polygons in units of the CRS.
        class_id: (N,) uint8.
        area_m2: (N,) float64, on the ellipsoid.
        perimeter_m: (N,) float64, holes included, on the ellipsoid.
        confidence: (N,) float64, mean of the pixels' confidences 0..1, but of dissolved ones of the divider; NaN where none is known;
            None without a confidence raster.
        classes: Class id → name and colour.
        crs: Of the polygons.
        specks: How many areas were given to their neighbours.
        picture: (H, W) uint8 class ids, `NOTHING` where there is none: the parcels' pixels as a picture of the size that was asked for.
        divided: What became of the pixels of the class that keeps parcels apart; None where none does.
    """

    polygons: np.ndarray
    class_id: np.ndarray
    area_m2: np.ndarray
    perimeter_m: np.ndarray
    confidence: np.ndarray | None
    classes: dict[int, LandClass]
    crs: CRS
    specks: int
    picture: np.ndarray | None = None
    divided: Divided | None = None

    def area_by_class(self) -> dict[str, float]:
        """Class name → m², of every class that the raster names or has."""
        totals = np.bincount(self.class_id, self.area_m2, minlength=256)
        return {item.name: float(totals[i]) for i, item in self.classes.items()}


def outline(
    path: str | Path,
    *,
    min_area_m2: float = 0.0,
    tolerance_m: float = 0.0,
    is_smooth: bool = False,
    picture: tuple[int, int] | None = None,
    instances: str | None = None,
    rows: int | None = None,
) -> Parcels:
    """The parcels of a class raster: its areas of one class, connected by pixel edges; or its objects, where a class keeps them apart.

    Args:
        path: Class ids 0..254 in one band of whole numbers; 255 and nodata are no class and stay empty.
        min_area_m2: Smaller areas are given to a neighbour, as `specks` says; 0 keeps all.
        tolerance_m: Borders lose details up to about this size (the root of the area of the triangles that are cut off), in metres of the
            raster's middle; 0 keeps the pixels' edges. Where parcels end at nothing, the border stays as it is.
        is_smooth: Borders between parcels lose their stairs, as `smoothing` says, before they are simplified.
        picture: Height and width of a picture of the parcels that is wanted too.
        instances: Name of the class that lies between parcels, as `instances` says; None where all classes are parcels.
        rows: Read at a time; changes no result.

    Raises:
        LandsegError: The raster is no class raster or has no place on the globe, the confidence raster beside it does not fit it, or its
            parcels do not fit in memory.
    """
    with open_classes(path) as source:
        grid, crs = source.grid, source.crs
        found = _connected(source, rows) if instances is None else _objects(source, instances, rows)
    runs, labels, values = found.runs, found.labels, found.values
    count = len(values)
    if min_area_m2 > 0 and count:
        labels, values = _without_specks(found, grid, min_area_m2)
    merged, specks = runs.with_labels(labels), count - len(values)
    classes, divided = found.classes, found.divided
    del runs, labels, found
    need = len(merged.start) * (_RUN_BYTES + (_SIMPLIFYING_BYTES if tolerance_m > 0 else 0)) + len(values) * _PARCEL_BYTES
    _require_memory(path, f"{len(values):,} parcels", need)
    if tolerance_m > 0 and len(values):
        _say_uneven(grid, tolerance_m)
    outlines = trace(merged, len(values))
    polygons = _smooth_polygons(path, outlines, grid, tolerance_m) if is_smooth else _polygons(outlines, grid, tolerance_m)
    shown = None if picture is None else np.append(values, np.uint8(NOTHING))[merged.picture(*picture)]  # of OUTSIDE, -1, the last
    beside = confidence_beside(path)
    confidence = None if beside is None else _confidence(path, beside, merged, values, instances)
    area, perimeter = polygon_measures(polygons, crs)
    return Parcels(polygons, values, area, perimeter, confidence, classes, crs, specks, shown, divided)


@dataclass(frozen=True)
class _Found:
    """Areas of a class raster: runs, (N,) int32 label of each, (K,) uint8 class of each label, and what classes and dividers there are."""

    runs: Runs
    labels: np.ndarray
    values: np.ndarray
    classes: dict[int, LandClass]
    divided: Divided | None = None


def _connected(source: ClassMap, rows: int | None) -> _Found:
    """Areas of one class that are connected by pixel edges.

    Raises:
        LandsegError: There are too many of them.
    """
    runs = find_runs(source.strips(rows), *source.grid.shape)
    _require_fit(source.path, len(runs.start))
    classes = source.classes(runs.value)
    labels, count = label(runs)
    values = np.empty(count, np.uint8)
    values[labels[runs.value != NOTHING]] = runs.value[runs.value != NOTHING]
    return _Found(runs, labels, values, classes)


def _objects(source: ClassMap, name: str, rows: int | None) -> _Found:
    """Areas of one class that the class of this name keeps apart.

    Raises:
        LandsegError: There is no such class, the probabilities beside the raster do not fit it, or memory is short.
    """
    runs, values, present, divided = divide(source, name, rows, partial(_require_memory, source.path, do=_NARROWER))
    _require_fit(source.path, len(runs.start))
    return _Found(runs, runs.value, values, source.classes(present), divided)


def _require_fit(path: str, count: int) -> None:
    """Refuse more runs than can be numbered, or than memory holds.

    Raises:
        LandsegError: There are.
    """
    if count > _MOST_RUNS:
        raise LandsegError(path, f"{count:,} stretches of one class", f"{_MOST_RUNS:,} at most", "cut it, or filter it first")
    _require_memory(path, f"{count:,} stretches of one class", count * _LABEL_BYTES, "cut it, or filter it first")


def _require_memory(path: str | Path, found: str, need: int, do: str = _FEWER) -> None:
    """Refuse what would not fit before it is begun: a raster of noise has millions of parcels. `do` is what then helps.

    Raises:
        LandsegError: Less memory is free.
    """
    room = memory()
    if room is not None and need > room.free:
        raise LandsegError(
            path, f"{found}, which take about {human_bytes(need)} of memory", f"no more than the {human_bytes(room.free)} free",
            do,
        )  # fmt: skip


def _without_specks(found: _Found, grid: Grid, min_area_m2: float) -> tuple[np.ndarray, np.ndarray]:
    """Labels of runs and classes of labels when small areas have been given away."""
    runs, labels, values = found.runs, found.labels, found.values
    areas = pixel_area_m2(grid)
    unit = float(areas.values.mean()) / _AREA_UNITS
    inside = labels != OUTSIDE
    size = np.zeros(len(values), np.int64)
    np.add.at(size, labels[inside], _ground(runs, areas, unit)[inside])
    seat = np.empty(len(values), np.int64)
    seat[labels[inside][::-1]] = runs.start[inside][::-1]
    frame = pixel_frame_m(grid)
    wide, high = (float(np.hypot(*frame[:, i])) for i in (0, 1))
    limit = min(int(np.ceil(min_area_m2 / unit)), 2**62)
    given = Areas(size, values, seat)
    renewed, left = merge(runs.with_labels(labels), given, limit, (high, wide), are_instances=found.divided is not None)
    return np.where(inside, renewed[labels], OUTSIDE).astype(np.int32), left.value


def _ground(runs: Runs, areas: PixelAreas, unit: float) -> np.ndarray:
    """(N,) int64: ground of each run, by the pixel in its middle."""
    lengths = runs.lengths
    column = runs.start % runs.width - 1 + (lengths - 1) / 2
    ground: np.ndarray = np.rint(areas.at(runs.rows - 1, column) * lengths / unit)
    return ground.astype(np.int64)


def _say_uneven(grid: Grid, tolerance_m: float) -> None:
    spread = pixel_area_m2(grid).values
    if spread.max() > spread.min() * (1 + _UNEVEN):
        log.warning(
            "pixels are %.3g to %.3g m² of ground; a tolerance of %g m holds in the middle of the raster",
            spread.min(),
            spread.max(),
            tolerance_m,
        )


def _smooth_polygons(path: str | Path, outlines: Outlines, grid: Grid, tolerance_m: float) -> np.ndarray:
    """Polygons with smoothed borders.

    They are a coverage in exact numbers; those of the CRS are rounded, so it is proved again with these.

    Raises:
        LandsegError: They would not fit in memory.
    """
    length = border_length(outlines)
    _require_memory(path, f"borders of {length:,} pixel edges to smooth", length * _EDGE_BYTES)
    frame = pixel_frame_m(grid)
    least = _SMOOTH_TOLERANCE * float(np.sqrt(abs(np.linalg.det(frame))))
    polygons = _polygons(smooth(outlines), grid, max(tolerance_m, least), STEPS)
    if shapely.is_valid(polygons).all() and shapely.coverage_is_valid(polygons):
        return polygons
    log.warning("%s: its borders are left as the pixels have them: smoothed ones are finer than the digits of its CRS", path)
    return _polygons(outlines, grid, tolerance_m)


def _polygons(outlines: Outlines, grid: Grid, tolerance_m: float, steps: int = 1) -> np.ndarray:
    """Polygons in units of the CRS, of vertices in whole parts (`steps`) of a pixel, simplified in metres on the ground."""
    a, b, c, d, e, f, *_ = grid.transform

    def placed(places: np.ndarray) -> np.ndarray:
        columns, rows = places[:, 0], places[:, 1]
        return np.stack([a * columns + b * rows + c, d * columns + e * rows + f], 1)

    if tolerance_m <= 0 or len(outlines.rings) == 1:
        return outlines.polygons(placed(outlines.places))
    log.info("simplifying the borders of %s parcels", f"{len(outlines.areas) - 1:,}")
    plan, unit_m = _plan(pixel_frame_m(grid))
    simple = shapely.coverage_simplify(outlines.polygons(outlines.places @ plan.T), tolerance_m / unit_m, simplify_boundary=False)
    # Simplifying leaves vertices out and moves none: each goes back to its place on the raster, exactly.
    back = np.linalg.inv(plan).T
    return np.asarray(shapely.transform(simple, lambda places: placed(np.rint(places @ back * steps) / steps)))


def _plan(frame: np.ndarray) -> tuple[np.ndarray, float]:
    """Pixels → a plane in which corners of pixels have exact coordinates, true to the ground but for a turn.

    That a border shall not touch another is decided with these coordinates. Were they rounded, a border might pass through a corner of
    another by less than the rounding; rounded otherwise, in the CRS, it would cross it.

    Args:
        frame: (2, 2) of `pixel_frame_m`.

    Returns:
        (2, 2) float64, and the metres of one unit of the plane.
    """
    unit_m = float(np.abs(frame).sum())
    wide, skew = np.hypot(*frame[:, 0]), frame[:, 0] @ frame[:, 1]
    plan = np.array([[wide, skew / wide], [0, np.linalg.det(frame) / wide]]) / unit_m
    return np.rint(plan * _PLAN_STEPS) / _PLAN_STEPS, unit_m


def _confidence(path: str | Path, beside: Path, runs: Runs, values: np.ndarray, instances: str | None) -> np.ndarray:
    """(K,) float64 mean confidence of the pixels of labels of these classes, (K,) uint8; NaN where none is known.

    The divider's pixels that areas of other classes took are left out: theirs is the confidence of the divider, lowest at its rims.
    """
    total, known = np.zeros(len(values), np.int64), np.zeros(len(values), np.int64)
    kinds = np.append(values, np.uint8(NOTHING))  # of OUTSIDE, -1, the last
    with open_classes(path) as source:
        divider = None if instances is None else class_id(source, instances)
        for row, shares, valid in read_confidence(beside, source.grid):
            first, size = (row + 1) * runs.width, len(shares) * runs.width
            part = slice(*np.searchsorted(runs.start, [first, first + size]))
            labels, starts = runs.value[part], runs.start[part] - first
            if divider is not None:
                kind = np.repeat(kinds[labels], np.diff(starts, append=size)).reshape(-1, runs.width)[:, 1:-1]
                is_own = (source.read(Window(row, 0, *shares.shape)) != divider) | (kind == divider)
                shares[~is_own], valid = 0, valid & is_own
            inside = labels != OUTSIDE
            for sums, pixels in ((total, shares), (known, valid)):
                framed = np.zeros((len(shares), runs.width), np.int64)
                framed[:, 1:-1] = pixels
                np.add.at(sums, labels[inside], np.add.reduceat(framed.reshape(-1), starts)[inside])
    return fraction(total, known)
