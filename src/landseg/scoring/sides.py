"""What a map and a reference hold: polygons with classes, which classes of the two are the same, and what ground each knows.

It scores nothing. A raster's polygons are its parcels, so that a map and the layer that `landseg parcels` makes of it score alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import shapely
from rasterio.crs import CRS

from landseg.core.class_files import UNLABELLED
from landseg.core.classes import LandClass
from landseg.core.earth import resolution_m
from landseg.core.errors import LandsegError
from landseg.data.burn import SUFFIXES, is_vector
from landseg.data.pairing import RASTERS
from landseg.data.polygons import PARQUET, read_polygons
from landseg.data.raster import open_scene
from landseg.product.parcels import outline
from landseg.scoring.objects import Side
from landseg.scoring.plane import on_plane, plane_about

Extent = Literal["auto", "open", "bounds", "covered"]

_OWN = frozenset({"class_id", "class_name", "area_m2", "perimeter_m"})
_FILLED = 0.9
"""Of its convex hull, that a layer of `landseg parcels` must fill to be taken for a whole map: a selection of some classes does not."""

OWN_COLUMN = "class_name"
"""The class column that `landseg parcels` writes; read where no column is named."""

_BACKGROUND = (
    frozenset({"background", "other", "others", "unknown", "none", "nothing", "rest", "背景", "其他", "其它", "未知"}) | UNLABELLED
)
"""Names, in lower case, of what is not the class of a layer's polygons."""

_NAMED = 8


class NamedClass(NamedTuple):
    """A class of one side.

    Args:
        name: As its file says, or ``class 3``.
        number: Its number in a raster, or the number that stands in the class column; None where there is none.
        is_named: Whether `name` is a name and no number.
    """

    name: str
    number: int | None
    is_named: bool


@dataclass(frozen=True)
class Source:
    """The objects of one file.

    Args:
        path: As it was given.
        is_raster: Whether they are the areas of a raster.
        polygons: (N,) in units of the CRS.
        kind: (N,) int64 index into `classes`.
        classes: Its classes; empty where the file has no class column, so that all is of one class that it does not name.
        crs: Of the polygons.
        resolution_m: Of a raster.
        notes: What was left out or mended, in words.
        is_own: Whether it has the columns that `landseg parcels` writes.
    """

    path: str
    is_raster: bool
    polygons: np.ndarray
    kind: np.ndarray
    classes: tuple[NamedClass, ...]
    crs: CRS
    resolution_m: float | None = None
    notes: tuple[str, ...] = ()
    is_own: bool = False


@dataclass(frozen=True)
class Matching:
    """Which classes of a map and a reference are the same.

    Args:
        names: K scored classes: those of the reference, named as the map names them where it has them.
        of_map: (C,) int64: which of them each class of the map is; -1 for none.
        of_reference: (D,) int64, likewise.
        only_map: Classes of the map that the reference does not have: not scored.
        only_reference: Classes of the reference that the map does not have: all their objects are missed.
    """

    names: tuple[str, ...]
    of_map: np.ndarray
    of_reference: np.ndarray
    only_map: tuple[str, ...]
    only_reference: tuple[str, ...]


def is_layer(path: str) -> bool:
    """Whether a path is a vector layer; else it is taken for a raster."""
    ending = path[path.rfind(".") :].lower() if "." in path else ""
    return ending in PARQUET or (ending not in RASTERS and (ending in SUFFIXES or is_vector(path, RASTERS)))


def named_classes(classes: dict[int, LandClass]) -> tuple[NamedClass, ...]:
    """The classes of a raster."""
    return tuple(NamedClass(item.name, i, item.name != f"class {i}") for i, item in classes.items())


def read_raster(path: str) -> Source:
    """The areas of a class raster: pixels of one class that are connected by their edges.

    Raises:
        LandsegError: It is no class raster, has no place on the globe, or its areas do not fit in memory.
    """
    parcels = outline(path)
    classes = named_classes(parcels.classes)
    numbers = np.full(256, -1, np.int64)
    numbers[[item.number for item in classes if item.number is not None]] = np.arange(len(classes))
    with open_scene(path, is_stored=True) as scene:
        metres = resolution_m(scene.grid)
    return Source(path, True, parcels.polygons, numbers[parcels.class_id], classes, parcels.crs, metres)


def read_layer(path: str, columns: Sequence[str], *, is_required: bool = False) -> Source:
    """The polygons of a vector layer.

    Args:
        path: The file.
        columns: Names of the class column, the first that is there.
        is_required: Whether one must be there.

    Raises:
        LandsegError: As `read_polygons` says.
    """
    found = read_polygons(path, columns, is_required=is_required)
    notes = []
    if found.repaired:
        notes.append(f"{found.repaired:,} invalid polygons were made valid")
    if found.without_area:
        notes.append(f"{found.without_area:,} features without an area were left out")
    if found.values is None:
        kind = np.zeros(len(found.geometries), np.int64)
        return Source(path, False, found.geometries, kind, (), found.crs, notes=tuple(notes))
    is_own = found.fields >= _OWN
    words, kind = np.unique(found.values.astype(str), return_inverse=True)
    classes = [NamedClass(word, int(word) if word.isdecimal() else None, not word.isdecimal()) for word in words.tolist()]
    keep = np.array([item.name != "" for item in classes], bool)[kind] if classes else np.zeros(0, bool)
    if not keep.all():
        notes.append(f"{int((~keep).sum()):,} features without a class were left out")
    shift = int(any(item.name == "" for item in classes))  # the empty word comes first
    return Source(path, False, found.geometries[keep], kind[keep] - shift, tuple(classes[shift:]), found.crs, None, tuple(notes), is_own)


def match_classes(map_source: Source, reference: Source, only: str | None, chosen: Sequence[str] | None = None) -> Matching:
    """Find which classes are the same: by name, whatever their case, else by number where one side has no names.

    Args:
        map_source: The map.
        reference: The reference.
        only: The class of all polygons of a layer without class column; None for the other side's only class, background aside.
        chosen: Names of the classes that are scored; None for all of the reference.

    Raises:
        LandsegError: No class is in both, it cannot be told which class a layer is of, or a chosen class is not there.
    """
    ours, theirs = map_source.classes, reference.classes
    if not theirs:
        is_silent = not len(reference.polygons) and only is None and ours  # it says that there is nothing of any class
        theirs = ours if is_silent else (_the_class(reference, map_source, only),)
    if not ours and len(map_source.polygons):
        ours = (_the_class(map_source, replace(reference, classes=theirs), only),)
    names: list[str] = []
    of_map, of_reference = np.full(len(ours), -1, np.int64), np.full(len(theirs), -1, np.int64)
    for j, item in enumerate(theirs):
        i = _same(item, ours)
        name = item.name if i is None else ours[i].name
        if chosen is not None and not {name.casefold(), item.name.casefold()} & {word.casefold() for word in chosen}:
            continue
        if name not in names:
            names.append(name)
        of_reference[j] = names.index(name)
        if i is not None:
            of_map[i] = names.index(name)
    for place in np.flatnonzero(of_map < 0):  # `Field` beside `field` is the same class
        same = _same(ours[place], theirs)
        of_map[place] = -1 if same is None else of_reference[same]
    if not names and chosen is not None:
        raise LandsegError("score.classes", ", ".join(chosen), f"classes of {reference.path}: {_list(theirs)}", "name some of them")
    if ours and chosen is None and (of_map < 0).all():
        raise LandsegError(
            reference.path, f"classes {_list(theirs)}", f"one that the map {map_source.path} has: {_list(ours)}",
            "name its class column with --set score.class_column=…, or rename the classes",
        )  # fmt: skip
    paired = {names[k] for k in of_map[of_map >= 0]}
    return Matching(
        tuple(names), of_map, of_reference,
        tuple(item.name for i, item in enumerate(ours) if of_map[i] < 0 and _same(item, theirs) is None),
        tuple(name for name in names if name not in paired),
    )  # fmt: skip


def on_one_plane(
    map_source: Source, reference: Source, matching: Matching, extents: tuple[Extent, Extent] = ("auto", "auto")
) -> tuple[Side, Side]:
    """Both sides on one plane in metres.

    Args:
        map_source: The map.
        reference: The reference.
        matching: Their classes.
        extents: What ground a layer knows, the map's and the reference's: all (open), the rectangle round its features (bounds), or what
            its polygons cover (covered); auto is covered for a whole map of `landseg parcels`, else open. A raster knows its valid pixels.

    Raises:
        LandsegError: They share no ground, or one has no place on the globe.
    """
    first = map_source if len(map_source.polygons) else reference
    bounds = shapely.total_bounds(first.polygons) if len(first.polygons) else np.zeros(4)
    plane = plane_about(first.path, first.crs, bounds)
    sides = []
    ground: np.ndarray | None
    for source, kinds, extent in zip((map_source, reference), (matching.of_map, matching.of_reference), extents, strict=True):
        if source.is_raster:
            # Put together before it goes to the plane: there, long borders are no more the same on both sides to the last digit.
            whole = shapely.get_parts(shapely.coverage_union_all(source.polygons))
            moved = on_plane(source.path, np.concatenate([source.polygons, whole]), source.crs, plane)
            polygons, ground = np.split(moved, [len(source.polygons)])
        else:
            polygons = on_plane(source.path, source.polygons, source.crs, plane)
            ground = _ground_of(source, polygons, extent, plane)
        kind = np.asarray(kinds[source.kind], np.int64) if len(polygons) else np.zeros(0, np.int64)
        sides.append(Side(polygons, kind, ground))
    _require_common(map_source, reference, *sides)
    return sides[0], sides[1]


def _ground_of(layer: Source, polygons: np.ndarray, extent: Extent, plane: CRS) -> np.ndarray | None:
    """What a layer knows, on the plane; None where that is all."""
    if extent == "covered" or (extent == "auto" and layer.is_own and _is_whole(polygons)):
        return np.asarray(shapely.get_parts(shapely.union_all(polygons)))
    if extent == "bounds" and len(polygons):
        box = np.array([shapely.box(*shapely.total_bounds(layer.polygons))], object)
        return on_plane(layer.path, box, layer.crs, plane)
    return None


def _is_whole(polygons: np.ndarray) -> bool:
    if not len(polygons):
        return False
    hull = shapely.convex_hull(shapely.geometrycollections(shapely.convex_hull(polygons)))
    return float(shapely.area(polygons).sum()) >= _FILLED * float(hull.area)


def _require_common(map_source: Source, reference: Source, map_side: Side, other: Side) -> None:
    if not len(map_side.polygons) or not len(other.polygons):
        return
    ours, theirs = (shapely.box(*shapely.total_bounds(side.polygons)) for side in (map_side, other))
    if not ours.intersects(theirs):
        found = f"it lies {ours.distance(theirs) / 1000:,.1f} km from the map {map_source.path}"
        todo = "check which files belong together, and that both state their true CRS"
        raise LandsegError(reference.path, found, "a reference of the same place", todo)


def _the_class(single: Source, other: Source, only: str | None) -> NamedClass:
    """The class of a layer without class column."""
    known = other.classes
    if only is not None:
        wanted = NamedClass(only, int(only) if only.isdecimal() else None, not only.isdecimal())
        place = _same(wanted, known)
        if known and place is None:
            raise LandsegError("score.only", only, f"a class of {other.path}: {_list(known)}", "name one of them")
        return wanted if place is None else known[place]
    likely = [item for item in known if item.name.casefold() not in _BACKGROUND]
    if len(likely) > 1:
        raise LandsegError(
            single.path, f"no class column, and {other.path} has the classes {_list(known)}", "one class that all its polygons are of",
            f"name the column, --set score.class_column=…, or the class, --set score.only={likely[-1].name}",
        )  # fmt: skip
    return likely[0] if likely else NamedClass("object", None, True)


def _same(item: NamedClass, others: Sequence[NamedClass]) -> int | None:
    """The place of the same class among others."""
    for i, other in enumerate(others):
        if item.name.casefold() == other.name.casefold():
            return i
    for i, other in enumerate(others):
        if item.number is not None and item.number == other.number and not (item.is_named and other.is_named):
            return i
    return None


def _list(classes: Sequence[NamedClass]) -> str:
    names = [item.name for item in classes]
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "") or "(none)"
